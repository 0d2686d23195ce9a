"""TRAIN: one detector per element, each from known-good lumisections; an element is a task."""

from __future__ import annotations

import difflib
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import sqlalchemy as sa
from sklearn.base import BaseEstimator

from ml4ad.conditions import as_ranges, good, ranges
from ml4ad.conditions import lumisections as conditions_of
from ml4ad.conditions.certified import Certifications
from ml4ad.conditions.query import Runs
from ml4ad.conditions.ranges import Ranges
from ml4ad.detect import registry
from ml4ad.detect.base import Detector, as_stacks
from ml4ad.detect.calibrate import Tail
from ml4ad.detect.foreign import as_detector
from ml4ad.detect.named import DEFAULT
from ml4ad.detect.named import detector as named_detector
from ml4ad.detect.scored import dataset_number
from ml4ad.detect.spread import FAILURES, each, said
from ml4ad.dqmio.names import matcher
from ml4ad.stack import Floats, HistogramStack, Ints
from ml4ad.store import schema
from ml4ad.store.blocks import StoredBlock, query_bytes, unpack

if TYPE_CHECKING:
    from distributed import Client

    from ml4ad.archive import Archive

#: Bins times lumisections that one detector learns from at most; float64 makes 0.5 GB of them.
MOST_CELLS = 60_000_000
#: Of more, stretches of so many lumisections are kept, evenly over each run.
_STRETCH_LS = 50
#: Tails are compared where alarms are: about one in a shift of 100 elements.
_FAR = 1e-5

Progress = Callable[[int, int], object]


@dataclass(frozen=True)
class _Task:
    """One element to learn."""

    me_id: int
    me: str


@dataclass(frozen=True)
class _Shared:
    """What all elements of a model have in common."""

    model_id: int
    dataset: str
    chosen: Ranges
    detector: Detector
    conditions: pd.DataFrame


@dataclass(frozen=True)
class _Learned:
    """What came of one element."""

    reason: str
    seconds: float


def train(
    archive: Archive,
    me: str | Sequence[str],
    dataset: str,
    *,
    name: str,
    run_number: Runs = None,
    lumisections: Mapping[Any, Any] | None = None,
    golden: Certifications = None,
    dcs: Certifications = None,
    exclude: Certifications = None,
    where: str | None = None,
    detector: Detector | BaseEstimator | str | None = None,
    parameters: Mapping[str, Any] | None = None,
    datasets: Sequence[str] | None = None,
    false_alarms: float = 1.0,
    seed: int = 0,
    client: Client | None = None,
    created_by: str | None = None,
    progress: Progress | None = None,
) -> int:
    """Number of a new candidate model: a detector per element, fitted and calibrated.

    ``me`` holds patterns of elements; the lumisections are those of ``dataset`` that fulfil all of
    ``run_number``, ``lumisections`` (ranges), ``golden``, ``dcs``, ``exclude`` and ``where``, as in
    ``conditions.good``. ``detector`` is an unfitted one, an outlier detector of scikit-learn's
    kind, the name of a class (with ``parameters``), or None for ``detect.default()``. ``datasets``
    are patterns of what the model will score; by default all eras of the same primary dataset.
    ``false_alarms`` is the nominal number of all elements together in a shift of 8 hours.

    Elements of which nothing can be learned (too few lumisections, several binnings, constant, ...)
    are kept with the reason and do not stop the others. Raises KeyError for a dataset, list or
    pattern that is not there, ValueError if no lumisection or no element is left, naming why.
    """
    patterns = [me] if isinstance(me, str) else list(me)
    unfitted = chosen_detector(detector, parameters, seed)
    found = good(
        archive.engine,
        dataset,
        run_number=run_number,
        golden=golden,
        dcs=dcs,
        exclude=exclude,
        where=where,
    )
    chosen = as_ranges(found)
    if lumisections is not None:
        chosen = ranges.intersection(chosen, ranges.of_mapping(lumisections, "lumisections"))
    if not chosen:
        raise ValueError(
            f"no lumisection to learn from: {found.attrs['n_asked']} of {dataset} were asked for, "
            f"{found.attrs['n_without_conditions']} of them without conditions"
        )
    tasks = elements_in(archive, patterns, dataset, list(chosen))
    model_id = registry.create(
        archive,
        unfitted,
        name=name,
        patterns=patterns,
        datasets=list(datasets) if datasets is not None else [like(dataset)],
        selection={
            "dataset": dataset,
            "golden": named(golden),
            "dcs": named(dcs),
            "exclude": named(exclude),
            "where": where,
            "n_lumisections": ranges.count(chosen),
            "lumisections": {str(run): pairs for run, pairs in chosen.items()},
        },
        false_alarms=false_alarms,
        seed=seed,
        created_by=created_by,
    )
    shared = _Shared(model_id, dataset, chosen, unfitted, numbers_of(archive, list(chosen)))
    began = time.monotonic()
    refused: dict[str, str] = {}
    seconds = 0.0
    for n_done, (task, came) in enumerate(each(archive, client, learn, tasks, shared), start=1):
        if isinstance(came, BaseException):
            registry.put_element(archive, model_id, task.me_id, None, reason=said(came))
            refused[task.me] = said(came)
        else:
            seconds += came.seconds
            if came.reason:
                refused[task.me] = came.reason
        if progress is not None:
            progress(n_done, len(tasks))
    if len(refused) == len(tasks):
        registry.discard(archive, model_id)
        some = "; ".join(
            why if element in why else f"{element}: {why}"
            for element, why in sorted(refused.items())[:3]
        )
        raise ValueError(f"nothing learned of {len(tasks)} elements: {some}")
    registry.finish(
        archive,
        model_id,
        {
            "n_elements": len(tasks) - len(refused),
            "n_refused": len(refused),
            "seconds_of_work": round(seconds, 3),
            "seconds": round(time.monotonic() - began, 3),
        },
    )
    return model_id


# -- what to learn from --------------------------------------------------------------------------


def chosen_detector(
    detector: Detector | BaseEstimator | str | None, parameters: Mapping[str, Any] | None, seed: int
) -> Detector:
    """An unfitted detector; ValueError for a class or parameter that does not exist."""
    if detector is None or isinstance(detector, str):
        chosen = named_detector(detector or DEFAULT, parameters)
    elif parameters:
        raise ValueError("parameters are for a detector given by name: set them on yours")
    else:
        chosen = as_detector(detector)
    known = chosen.get_params(deep=False)
    for seeded in ("random_state", "seed"):
        if seeded in known and known[seeded] is None:
            chosen.set_params(**{seeded: seed})
    return chosen


def like(dataset: str) -> str:
    """Pattern of the datasets that hold the same: all eras and processings of the primary dataset.

    >>> like("/ZeroBias/Run2024A-PromptReco-v1/DQMIO")
    '/ZeroBias/*/DQMIO'
    """
    parts = dataset.split("/")
    return f"/{parts[1]}/*/{parts[3]}" if len(parts) == 4 and not parts[0] else dataset


def elements_in(
    archive: Archive, patterns: Sequence[str], dataset: str, run_numbers: Sequence[int]
) -> list[_Task]:
    """Elements with histograms per lumisection in these runs; KeyError if there is none."""
    found = [_Task(me_id, name) for me_id, name in held(archive, patterns, dataset, run_numbers)]
    if not found:
        there = archive.elements(dataset=dataset)["me"].tolist()
        near = difflib.get_close_matches(patterns[0], there, n=3, cutoff=0.4) or there[:3]
        raise KeyError(
            f"no element fits {', '.join(patterns)} in {len(run_numbers)} runs of {dataset}; "
            f"near: {', '.join(near) or 'none'}"
        )
    return found


def held(
    archive: Archive, patterns: Sequence[str], dataset: str, run_numbers: Sequence[int]
) -> list[tuple[int, str]]:
    """Number and name of the elements with histograms per lumisection in these runs, by name."""
    me, block = schema.me, schema.block
    matches = matcher(patterns)
    with archive.engine.connect() as connection:
        every = connection.execute(sa.select(me.c.me_id, me.c.me).where(me.c.dim > 0))
        named = {me_id: name for me_id, name in every if matches(name)}
        here = (
            sa.select(block.c.me_id)
            .distinct()
            .join(schema.dataset, schema.dataset.c.dataset_id == block.c.dataset_id)
            .where(schema.dataset.c.dataset == dataset, block.c.last_ls > 0)
            .where(block.c.me_id == sa.any_(sa.literal(list(named), sa.ARRAY(sa.Integer))))
            .where(block.c.run_number == sa.any_(sa.literal(list(run_numbers), BIGINTS)))
        )
        present = connection.execute(here).scalars().all()
    return sorted(((me_id, named[me_id]) for me_id in present), key=lambda one: one[1])


BIGINTS = sa.ARRAY(sa.BigInteger)


def numbers_of(archive: Archive, run_numbers: Iterable[int]) -> pd.DataFrame:
    """Conditions that are numbers or flags, as float64, indexed by (run_number, ls_number)."""
    known = conditions_of(archive.engine, run_number=list(run_numbers))
    kept = {
        str(name): column.astype("float64")
        for name, column in known.items()
        if pd.api.types.is_numeric_dtype(column.dtype) or column.dtype == "boolean"
    }
    return pd.DataFrame(kept, index=known.index).dropna(axis="columns", how="all")


def named(given: Certifications) -> Any:
    """A demand for lists of lumisections, as it is written down."""
    if given is None or isinstance(given, bool | str):
        return given
    if isinstance(given, Mapping):
        return f"ranges of {len(given)} runs"
    return str(given) if not isinstance(given, Iterable) else [named(one) for one in given]


# -- on a worker ---------------------------------------------------------------------------------


def learn(archive: Archive, shared: _Shared, task: _Task) -> _Learned:
    """Fit, calibrate and keep one element; a failure is kept as the reason."""
    from sklearn.base import clone

    began = time.monotonic()
    fitted, reason, metrics = None, "", {}
    try:
        stacks = training_stacks(archive, task.me, shared.dataset, shared.chosen)
        detector = clone(shared.detector).fit(stacks, shared.conditions)
        scores = calibration_scores(detector, stacks, shared.conditions)
        learned = registry.Fitted(detector, careful_tail(detector, scores))
        metrics = _metrics(stacks, scores, learned)
        fitted = learned
    except FAILURES as error:
        reason = said(error)
    seconds = time.monotonic() - began
    registry.put_element(
        archive,
        shared.model_id,
        task.me_id,
        fitted,
        reason=reason,
        metrics=metrics | {"seconds": round(seconds, 3)},
    )
    return _Learned(reason, seconds)


def training_stacks(
    archive: Archive, me: str, dataset: str, chosen: Ranges, *, most_cells: int = MOST_CELLS
) -> list[HistogramStack]:
    """The chosen lumisections of an element, thinned where they are too many to learn from."""
    stacks: list[HistogramStack] = []
    for run_number, pairs in chosen.items():
        for stack in element_stacks(archive, me, dataset, run_number):
            kept = stack.select(pairs)
            wanted = ranges.count(chosen) * math.prod(axis.n_bins for axis in kept.axes)
            if wanted > most_cells:
                kept = kept.select(_thinned(kept.ls_numbers, most_cells / wanted))
            if len(kept):
                stacks.append(kept)
    return stacks


def _thinned(ls_numbers: Ints, share: float) -> Ints:
    period = max(_STRETCH_LS / share, 1.0)
    return ls_numbers[np.arange(len(ls_numbers)) % period < _STRETCH_LS]


def calibration_scores(
    detector: Detector, stacks: Sequence[HistogramStack], conditions: pd.DataFrame
) -> Floats:
    """Scores of the good lumisections by what was learned from *other* runs, ``(n,)``."""
    own: Callable[..., Floats] | None = getattr(detector, "training_scores", None)
    if own is not None:
        return own(detector._training(as_stacks(stacks)), conditions)
    return detector.cross_scores(stacks, conditions)[0]


def careful_tail(detector: Detector, scores: Floats) -> Tail:
    """The longer of the detector's own tail and that through its scores of good lumisections.

    A detector whose p-values come out too small of runs that it did not learn from is believed less
    from then on. Raises ValueError if neither can be had.
    """
    own = detector.tail(scores)
    try:
        seen = Tail.fit(detector.strain(scores))
    except ValueError:  # too few: what the detector says of itself is all there is
        return own
    return max(own, seen, key=lambda tail: tail.threshold(_FAR))


def _metrics(
    stacks: Sequence[HistogramStack], scores: Floats, fitted: registry.Fitted
) -> dict[str, Any]:
    finite: Floats = scores[np.isfinite(scores)]
    p = np.exp(fitted.log_p(finite))
    return {
        "n_runs": len({stack.run_number for stack in stacks}),
        "n_lumisections": sum(len(stack) for stack in stacks),
        "n_calibration": len(finite),
        "median_score": float(np.median(finite)),
        "below_1e-2": float((p < 1e-2).mean()),
        "below_1e-3": float((p < 1e-3).mean()),
    }


def element_stacks(
    archive: Archive, me: str, dataset: str, run_number: int
) -> list[HistogramStack]:
    """All lumisections of one element of one run: a stack per binning, none if it is absent."""
    of_me = sa.select(schema.me.c.me_id).where(schema.me.c.me == me)
    with archive.engine.connect() as connection:
        me_id = connection.scalar(of_me)
        if me_id is None:
            return []
        number = dataset_number(connection, dataset)
        return stacks_of(connection, (me_id, me), (number, dataset), run_number)


def stacks_of(
    connection: sa.Connection, me: tuple[int, str], dataset: tuple[int, str], run_number: int
) -> list[HistogramStack]:
    """What `element_stacks` gives, in one query, of numbers and names that are known already."""
    block, binning = schema.block, schema.binning
    query = (
        sa.select(block.c.file_id, block.c.first_ls, binning.c.description, block.c.packed)
        .join(binning, binning.c.binning_id == block.c.binning_id)
        # Named, the planner leaves all other partitions alone; 0 is the whole run.
        .where(block.c.dataset_id == sa.literal_column(str(int(dataset[0]))))
        .where(block.c.me_id == me[0], block.c.run_number == run_number, block.c.first_ls > 0)
    )
    found = [
        StoredBlock(me[1], dataset[1], run_number, *row) for row in query_bytes(connection, query)
    ]
    return unpack(found, None)
