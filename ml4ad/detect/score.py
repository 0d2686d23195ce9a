"""SCORE: every lumisection of every element that a model is for, or the reason why not."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from ml4ad.conditions.query import Runs, among
from ml4ad.detect import reasons, registry
from ml4ad.detect.alarms import refresh
from ml4ad.detect.registry import Fitted, Model, ModelLike
from ml4ad.detect.scored import Row, models_or_active, rows_of
from ml4ad.detect.spread import FAILURES, each, said
from ml4ad.detect.train import BIGINTS, Progress, held, numbers_of, stacks_of
from ml4ad.dqmio.names import matcher
from ml4ad.stack import HistogramStack, Ints
from ml4ad.store import schema, scoring

if TYPE_CHECKING:
    from distributed import Client

    from ml4ad.archive import Archive

_SCORE, _ELEMENT = scoring.score, scoring.model_element


@dataclass(frozen=True)
class Lumisections:
    """Lumisections of a run in a dataset, ``(n_ls,)``, and what each is made from.

    ``sources`` changes when the file of a lumisection or its conditions do.
    """

    ls_numbers: Ints
    sources: Ints

    @property
    def digest(self) -> str:
        """MD5 of both, as PostgreSQL computes it of the stored bytes."""
        whole = self.ls_numbers.astype("<i4").tobytes() + self.sources.astype("<i8").tobytes()
        return hashlib.md5(whole, usedforsecurity=False).hexdigest()


@dataclass(frozen=True)
class _Task:
    """One element in those runs of a dataset that want it."""

    me_id: int
    me: str
    run_numbers: tuple[int, ...]


@dataclass(frozen=True)
class _Shared:
    """What all tasks of a model in a dataset have in common."""

    model_id: int
    dataset_id: int
    dataset: str
    runs: Mapping[int, Lumisections]
    conditions: pd.DataFrame
    new_only: bool


def score(
    archive: Archive,
    model: ModelLike | Sequence[ModelLike] | None = None,
    *,
    dataset: str | None = None,
    run_number: Runs = None,
    new_only: bool = True,
    client: Client | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Score runs, keep the scores, and find their incidents anew; what was done, by run.

    ``model`` is one or several of any state but "training", None all active ones; ``dataset`` one
    dataset, None all that the model is for. With ``new_only``, lumisections whose histogram and
    conditions are those that were scored are left alone; a detector that looks back in time sees
    the whole run again if any of it is new. Elements that fail have the reason in place of scores.

    Columns: model, dataset, run_number, n_elements (scored anew), n_ls, n_scored and n_unscored
    (pairs of element and lumisection), n_failed (elements), n_incidents. Raises KeyError for a
    model or dataset that is not there, ValueError if no model is active.
    """
    rows: list[dict[str, Any]] = []
    for chosen in chosen_models(archive, model):
        for dataset_id, name in _datasets(archive, chosen, dataset):
            rows += _score(
                archive, chosen, dataset_id, name, run_number, new_only, client, progress
            )
    columns = ["model", "dataset", "run_number", "n_elements", "n_ls"]
    columns += ["n_scored", "n_unscored", "n_failed", "n_incidents"]
    return pd.DataFrame(rows, columns=columns)


def chosen_models(archive: Archive, model: ModelLike | Sequence[ModelLike] | None) -> list[Model]:
    """Models of these names; of None the active ones. ValueError if there is none to use."""
    found = models_or_active(archive, model)
    if not found:
        raise ValueError("no model is active: train one, then `ml4ad models activate NAME`")
    for one in found:
        if one.state == "training":
            raise ValueError(f"model {one} is in training, or that was interrupted")
    return found


def _datasets(archive: Archive, model: Model, dataset: str | None) -> list[tuple[int, str]]:
    table = schema.dataset
    query = sa.select(table.c.dataset_id, table.c.dataset).order_by(table.c.dataset)
    with archive.engine.connect() as connection:
        every = [(int(number), str(name)) for number, name in connection.execute(query)]
    if dataset is None:
        matches = matcher(model.datasets)
        return [(number, name) for number, name in every if matches(name)]
    found = [(number, name) for number, name in every if name == dataset]
    if not found:
        there = ", ".join(name for _, name in every[:10]) or "none"
        raise KeyError(f"no dataset {dataset!r} in the archive; there are {there}")
    return found


def _score(
    archive: Archive,
    model: Model,
    dataset_id: int,
    dataset: str,
    run_number: Runs,
    new_only: bool,
    client: Client | None,
    progress: Progress | None,
) -> list[dict[str, Any]]:
    conditions, runs = lumisections_of(archive, dataset_id, run_number)
    tasks, uncovered = _to_do(archive, model, dataset_id, dataset, runs, new_only)
    concerned = {run for task in (*tasks, *uncovered) for run in task.run_numbers}
    counts = {
        run: dict.fromkeys(("n_elements", "n_scored", "n_unscored", "n_failed"), 0)
        for run in sorted(concerned)
    }
    shared = _Shared(
        model.model_id,
        dataset_id,
        dataset,
        {run: runs[run] for run in concerned},
        conditions[conditions.index.get_level_values(0).isin(list(concerned))],
        new_only,
    )
    with archive.engine.begin() as connection:
        for task in uncovered:
            for run in task.run_numbers:
                row = _uncovered(runs[run])
                _note(counts[run], _keep(connection, shared, task.me_id, run, row))
    for n_done, (task, came) in enumerate(
        each(archive, client, score_element, tasks, shared), start=1
    ):
        if isinstance(came, BaseException):
            came = _keep_failure(archive, shared, task, came)
        for run, (n_scored, n_unscored, failed) in came:
            _note(counts[run], (n_scored, n_unscored, failed))
        if progress is not None:
            progress(n_done, len(tasks))
    return [
        {
            "model": str(model),
            "dataset": dataset,
            "run_number": run,
            "n_ls": len(runs[run].ls_numbers),
            "n_incidents": refresh(archive, model.model_id, dataset, run),
            **of_run,
        }
        for run, of_run in counts.items()
    ]


def _note(counts: dict[str, int], kept: tuple[int, int, bool]) -> None:
    n_scored, n_unscored, failed = kept
    counts["n_elements"] += 1
    counts["n_scored"] += n_scored
    counts["n_unscored"] += n_unscored
    counts["n_failed"] += failed


def _uncovered(run: Lumisections) -> Row:
    why = "the model has not learned this element"
    return Row.none(run.ls_numbers, run.sources, "no model", why)


def _keep_failure(
    archive: Archive, shared: _Shared, task: _Task, error: BaseException
) -> list[tuple[int, tuple[int, int, bool]]]:
    kept = []
    with archive.engine.begin() as connection:
        for run_number in task.run_numbers:
            run = shared.runs[run_number]
            row = Row.none(run.ls_numbers, run.sources, "failed", said(error))
            kept.append((run_number, _keep(connection, shared, task.me_id, run_number, row)))
    return kept


# -- what there is to do -------------------------------------------------------------------------


def lumisections_of(
    archive: Archive, dataset_id: int, run_number: Runs
) -> tuple[pd.DataFrame, dict[int, Lumisections]]:
    """Conditions, and lumisections by run, of a dataset."""
    owned, file = schema.lumisection, schema.file
    query = (
        sa.select(
            owned.c.run_number,
            owned.c.ls_number,
            owned.c.file_id,
            sa.cast(sa.extract("epoch", file.c.finished_at) * 1_000_000, sa.BigInteger),
        )
        .join(file, file.c.file_id == owned.c.file_id)
        .where(owned.c.dataset_id == dataset_id, owned.c.ls_number > 0)
        .where(among(owned.c.run_number, run_number))
        .order_by(owned.c.run_number, owned.c.ls_number)
    )
    with archive.engine.connect() as connection:
        rows = connection.execute(query).all()
    frame = pd.DataFrame(rows, columns=["run_number", "ls_number", "file_id", "finished"])
    frame = frame.fillna({"finished": 0}).astype("int64")
    run_numbers = frame["run_number"].unique().tolist()
    conditions = numbers_of(archive, run_numbers)
    keys = pd.MultiIndex.from_frame(frame[["run_number", "ls_number"]])
    known = conditions.reindex(keys)
    sources = _sources(known.assign(**{n: frame[n].to_numpy() for n in ("file_id", "finished")}))
    numbers = frame["run_number"].to_numpy()
    ls_numbers = frame["ls_number"].to_numpy()
    runs = {
        run: Lumisections(ls_numbers[numbers == run], sources[numbers == run])
        for run in run_numbers
    }
    return conditions, runs


def _sources(made_from: pd.DataFrame) -> Ints:
    """Number of what each row holds, ``(n,)``; a column without a value in it does not matter."""
    total = np.zeros(len(made_from), dtype=np.uint64)
    for name, column in made_from.items():
        values = column.to_numpy(dtype=np.float64)
        named = pd.util.hash_array(np.array([name], dtype=object))
        mixed = pd.util.hash_array(values) ^ named
        # Mixed again, or a value that moves from one column to another would go unseen.
        total += np.where(np.isnan(values), np.uint64(0), pd.util.hash_array(mixed))
    return total.view(np.int64)


def _to_do(
    archive: Archive,
    model: Model,
    dataset_id: int,
    dataset: str,
    runs: Mapping[int, Lumisections],
    new_only: bool,
) -> tuple[list[_Task], list[_Task]]:
    """Tasks for elements that the model knows, and for those that fit its patterns but it lacks."""
    run_numbers = list(runs)
    me, block = schema.me, schema.block
    of_model = _ELEMENT.c.model_id == model.model_id
    covered = sa.select(me.c.me_id, me.c.me).join_from(_ELEMENT, me).where(of_model)
    with archive.engine.connect() as connection:
        known = [(int(i), str(name)) for i, name in connection.execute(covered.order_by(me.c.me))]
    numbers = {me_id for me_id, _ in known}
    lacking = {
        me_id: name
        for me_id, name in held(archive, model.patterns, dataset, run_numbers)
        if me_id not in numbers
    }
    present = (
        sa.select(block.c.me_id, block.c.run_number)
        .distinct()
        .where(block.c.dataset_id == dataset_id, block.c.last_ls > 0)
        .where(block.c.me_id == sa.any_(sa.literal(list(lacking), sa.ARRAY(sa.Integer))))
        .where(block.c.run_number == sa.any_(sa.literal(run_numbers, BIGINTS)))
    )
    stored = sa.select(
        _SCORE.c.me_id,
        _SCORE.c.run_number,
        sa.func.md5(_SCORE.c.ls_numbers.op("||")(_SCORE.c.sources)),
    ).where(_SCORE.c.model_id == model.model_id, _SCORE.c.dataset_id == dataset_id)
    without: dict[int, list[int]] = {}
    with archive.engine.connect() as connection:
        for me_id, run in connection.execute(present.order_by(block.c.run_number)):
            without.setdefault(me_id, []).append(run)
        done = {(me_id, run): digest for me_id, run, digest in connection.execute(stored)}
    digests = {run: own.digest for run, own in runs.items()}

    def wanted(me_id: int, candidates: Iterable[int]) -> tuple[int, ...]:
        return tuple(
            run for run in candidates if not new_only or done.get((me_id, run)) != digests[run]
        )

    tasks = [_Task(me_id, name, wanted(me_id, run_numbers)) for me_id, name in known]
    uncovered = [_Task(me_id, lacking[me_id], wanted(me_id, own)) for me_id, own in without.items()]
    return [t for t in tasks if t.run_numbers], [t for t in uncovered if t.run_numbers]


# -- on a worker ---------------------------------------------------------------------------------


def score_element(
    archive: Archive, shared: _Shared, task: _Task
) -> list[tuple[int, tuple[int, int, bool]]]:
    """Score one element in its runs and keep it, in one transaction: per run what `_keep` says."""
    of_model = sa.and_(_ELEMENT.c.model_id == shared.model_id, _ELEMENT.c.me_id == task.me_id)
    query = sa.select(_ELEMENT.c.reason, _ELEMENT.c.artefact, _ELEMENT.c.calibration)
    kept = []
    with archive.engine.begin() as connection:
        reason, artefact, calibration = connection.execute(query.where(of_model)).one()
        fitted, refusal = None, ("no model", f"nothing was learned: {reason}")
        if artefact is not None:
            try:
                fitted = registry.unpacked(artefact, calibration)
            except ValueError as error:
                refusal = ("model unreadable", said(error))
        for run_number in task.run_numbers:
            if fitted is None:
                run = shared.runs[run_number]
                row = Row.none(run.ls_numbers, run.sources, *refusal)
            else:
                row = _scored(connection, shared, fitted, task, run_number)
            kept.append((run_number, _keep(connection, shared, task.me_id, run_number, row)))
    return kept


def _scored(
    connection: sa.Connection, shared: _Shared, fitted: Fitted, task: _Task, run_number: int
) -> Row:
    run = shared.runs[run_number]
    row = Row.none(run.ls_numbers, run.sources, "absent")
    me, dataset = (task.me_id, task.me), (shared.dataset_id, shared.dataset)
    try:
        stacks = stacks_of(connection, me, dataset, run_number)
    except ValueError as error:  # a damaged block is one
        return Row.none(run.ls_numbers, run.sources, "histogram unreadable", said(error))
    wanted = run.ls_numbers
    if shared.new_only and fitted.detector.lookback == 0:
        wanted = _fresh(connection, shared, task.me_id, run_number, row)
    for whole in stacks:
        stack = whole if len(wanted) == len(run.ls_numbers) else whole.select(wanted)
        if not len(stack):
            continue
        try:
            _judge(row, fitted, stack, shared.conditions)
        except FAILURES as error:
            rows = np.isin(row.ls_numbers, stack.ls_numbers)
            row.codes[rows] = reasons.code(_kind_of_failure(fitted, stack))
            row.detail = said(error)
    return row


def _fresh(
    connection: sa.Connection, shared: _Shared, me_id: int, run_number: int, row: Row
) -> Ints:
    """Lumisections that are not in the stored row as they are now; the others go into ``row``."""
    where = sa.and_(
        _SCORE.c.model_id == shared.model_id,
        _SCORE.c.dataset_id == shared.dataset_id,
        _SCORE.c.run_number == run_number,
        _SCORE.c.me_id == me_id,
    )
    stored = next((found for _, found in rows_of(connection, where)), None)
    if stored is None:
        return row.ls_numbers
    _, here, there = np.intersect1d(row.ls_numbers, stored.ls_numbers, return_indices=True)
    same = row.sources[here] == stored.sources[there]
    here, there = here[same], there[same]
    for name in ("scores", "log_p", "codes"):
        getattr(row, name)[here] = getattr(stored, name)[there]
    # What was said of lumisections that are looked at again is out of date.
    told = [reasons.code(text) for text in reasons.TOLD]
    row.detail = stored.detail if np.isin(stored.codes[there], told).any() else ""
    return np.delete(row.ls_numbers, here)


def _judge(row: Row, fitted: Fitted, stack: HistogramStack, conditions: pd.DataFrame) -> None:
    scores = fitted.detector.score_samples(stack, conditions)
    if scores.shape != (len(stack),):
        raise ValueError(f"{len(stack)} lumisections got scores of shape {scores.shape}")
    log_p = fitted.log_p(scores)
    codes = np.where(np.isnan(scores), reasons.code("other"), reasons.SCORED).astype(np.uint8)
    unscored = stack.ls_numbers[np.isnan(scores)]
    if len(unscored):
        why = fitted.detector.reasons(stack.select(unscored), conditions)
        at = {int(n): i for i, n in enumerate(stack.ls_numbers)}
        for ls_number in unscored.tolist():
            text = why.get(ls_number, "the detector gave no score")
            codes[at[ls_number]] = reasons.code(text)
            if reasons.code(text) == reasons.code("other"):
                row.detail = text
    # Lumisections that came after the run was listed wait for the next time.
    here = np.isin(stack.ls_numbers, row.ls_numbers)
    places = np.searchsorted(row.ls_numbers, stack.ls_numbers[here])
    row.scores[places] = scores[here]
    row.log_p[places] = log_p[here]
    row.codes[places] = codes[here]


def _kind_of_failure(fitted: Fitted, stack: HistogramStack) -> str:
    learned: list[tuple[Any, str]] | None = getattr(fitted.detector, "axes_", None)
    if learned is not None:
        edges = [np.asarray(own[0]) for own in learned]
        theirs = [axis.edges for axis in stack.axes]
        if len(edges) != len(theirs) or not all(map(np.array_equal, edges, theirs)):
            return "other binning"
    if stack.is_profile and getattr(fitted.detector, "counts_only", False):
        return "not of this model's kind"
    return "failed"


def _keep(
    connection: sa.Connection, shared: _Shared, me_id: int, run_number: int, row: Row
) -> tuple[int, int, bool]:
    """Store a row in place of the one before: numbers scored and not, and whether it failed."""
    values = {
        "model_id": shared.model_id,
        "dataset_id": shared.dataset_id,
        "run_number": run_number,
        "me_id": me_id,
        **row.as_columns(),
    }
    given = insert(_SCORE).values(values | {"scored_at": sa.func.now()})
    keys = [column.name for column in _SCORE.primary_key]
    changed = {c.name: given.excluded[c.name] for c in _SCORE.columns if c.name not in keys}
    connection.execute(given.on_conflict_do_update(index_elements=keys, set_=changed))
    n_scored = int((row.codes == reasons.SCORED).sum())
    return n_scored, len(row.ls_numbers) - n_scored, bool(row.detail)
