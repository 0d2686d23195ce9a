"""EVALUATE detectors on an archive, and the report of it that another person can repeat."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ml4ad import pictures
from ml4ad.conditions import as_ranges, ranges
from ml4ad.conditions.certified import Certifications
from ml4ad.conditions.query import Runs
from ml4ad.conditions.ranges import Ranges
from ml4ad.detect import named
from ml4ad.detect.evaluate import Evaluation, Protocol, Trial, evaluate, references
from ml4ad.detect.spread import each, said
from ml4ad.detect.train import elements_in, numbers_of, training_stacks
from ml4ad.detect.train import named as written
from ml4ad.provenance import code_version, user
from ml4ad.simulate.faults import FAULTS
from ml4ad.stack import HistogramStack

if TYPE_CHECKING:
    from distributed import Client
    from matplotlib.figure import Figure

    from ml4ad.archive import Archive
    from ml4ad.detect.train import Progress

FORMAT, FORMAT_VERSION = "ml4ad evaluation", 1
#: Columns that are no two times the same.
TIMES = ("ms_per_ls", "fit_s")
_SHOWN = {
    "auc": "AUC",
    "fpr_at_99": "FPR at 99 %",
    "fdr_at_99": "false discoveries",
    "found_in_1": "found in 1",
    "found_in_3": "found in 3",
    "found_in_6": "found in 6",
    "placed": "placed",
}
_LOW_IS_GOOD = ("FPR at 99 %", "false discoveries", "ms per LS")


@dataclass(frozen=True)
class Plan:
    """Everything that an evaluation depends on.

    ``detectors`` maps a name to what `ml4ad.detect.named.detector` reads; ``faults`` None are the
    usual ones of each element's kind. ``asked`` is how the lumisections were chosen, for people.
    """

    dataset: str
    mes: tuple[str, ...]
    lumisections: Ranges
    detectors: Mapping[str, str]
    faults: tuple[Trial, ...] | None = None
    protocol: Protocol = field(default_factory=Protocol)
    asked: Mapping[str, Any] = field(default_factory=dict)
    code_version: str = field(default_factory=code_version)
    created_by: str = field(default_factory=user)


@dataclass(frozen=True)
class Result:
    """What came of a plan: an `Evaluation` per element, or the reason why there is none.

    ``inputs`` holds a fingerprint of each element's histograms and conditions.
    """

    plan: Plan
    evaluations: Mapping[str, Evaluation]
    refused: Mapping[str, str]
    inputs: Mapping[str, str]

    @property
    def table(self) -> pd.DataFrame:
        """A row per element, detector and fault: see `Evaluation`."""
        return _joined({me: own.table for me, own in self.evaluations.items()})

    @property
    def detectors(self) -> pd.DataFrame:
        """A row per element and detector: see `Evaluation`."""
        return _joined({me: own.detectors for me, own in self.evaluations.items()})

    def summary(self) -> pd.DataFrame:
        """A row per detector: means over elements and faults, false alarms and those allowed."""
        means = self.table.groupby("detector", sort=False)[list(_SHOWN)].mean()
        sums = self.detectors.groupby("detector", sort=False)[["incidents", "nominal"]].sum()
        means = means.rename(columns=_SHOWN)
        means["false alarms"], means["allowed"] = sums["incidents"], sums["nominal"]
        times = self.detectors.groupby("detector", sort=False)["ms_per_ls"].mean()
        return means.assign(**{"ms per LS": times}).sort_values("found in 3", ascending=False)


def _joined(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(tables, names=["me"]) if tables else pd.DataFrame()


# -- what is put in ------------------------------------------------------------------------------


def faults(path: str | Path) -> tuple[Trial, ...]:
    """Faults of a file, TOML or JSON: a list of `Trial` fields, in TOML as ``[[faults]]`` tables.

    Raises OSError, or ValueError naming the file, the fault, the value seen and what is wanted.
    """
    file = Path(path)
    text = file.read_text(encoding="utf-8")
    try:
        content = json.loads(text) if file.suffix == ".json" else tomllib.loads(text)
    except ValueError as error:
        kind = "JSON" if file.suffix == ".json" else "TOML"
        raise ValueError(f"{file}: no {kind} ({error})") from error
    listed = content.get("faults") if isinstance(content, dict) else content
    if not isinstance(listed, list) or not listed:
        raise ValueError(f"{file}: {content!r:.80}, want a list of faults")
    found = tuple(_fault(own, f"{file}: fault {n}") for n, own in enumerate(listed, start=1))
    names = [str(own) for own in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{file}: {twice[0]!r} twice: want another name")
    return found


_FIELDS: Mapping[str, tuple[type, ...]] = {
    "kind": (str,),
    "size": (list,),
    "strength": (int, float),
    "n_ls": (int,),
    "name": (str,),
    "from_start": (bool,),
}


def _fault(given: Any, where: str) -> Trial:
    if not isinstance(given, dict) or "kind" not in given:
        raise ValueError(f"{where}: {given!r:.80}, want at least its kind")
    for name, value in given.items():
        if name not in _FIELDS:
            raise ValueError(f"{where}: {name!r}, want one of {', '.join(_FIELDS)}")
        wanted = _FIELDS[name]
        items = value if name == "size" and isinstance(value, list) else []
        whole = all(type(own) is int for own in items)
        if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
            names = " or ".join(one.__name__ for one in wanted)
            raise ValueError(f"{where}: {name} {value!r}, want {names}")
        if not whole:
            raise ValueError(f"{where}: size {value!r}, want whole numbers of bins")
    try:
        return _trial({"size": [], **given})
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


# -- doing it ------------------------------------------------------------------------------------


def plan(
    archive: Archive,
    me: str | Sequence[str],
    dataset: str,
    *,
    detectors: Sequence[str] = (),
    others: bool = True,
    faults: Sequence[Trial] | None = None,
    protocol: Protocol | None = None,
    run_number: Runs = None,
    golden: Certifications = None,
    dcs: Certifications = None,
    exclude: Certifications = None,
    where: str | None = None,
) -> Plan:
    """Plan for the elements of a dataset that match, on its good lumisections.

    ``detectors`` are texts as `ml4ad.detect.named.detector` reads them; with ``others`` those of
    `ml4ad.detect.references` stand beside them. The rest is as in `ml4ad.detect.train`. Raises
    KeyError for a dataset, list or element that is not there, ValueError for a detector that is
    not, none at all, or no lumisection.
    """
    chosen = dict.fromkeys(references(), "") if others else {}
    texts = {name: name for name in chosen} | {text: text for text in detectors}
    if not texts:
        raise ValueError("no detector to evaluate: want at least one")
    for text in texts.values():
        named.detector(text)
    good = archive.good(
        dataset, run_number=run_number, golden=golden, dcs=dcs, exclude=exclude, where=where
    )
    lumisections = as_ranges(good)
    if not lumisections:
        raise ValueError(f"no good lumisection of {dataset} to evaluate on")
    patterns = [me] if isinstance(me, str) else list(me)
    tasks = elements_in(archive, patterns, dataset, list(lumisections))
    lists = {"golden": golden, "dcs": dcs, "exclude": exclude}
    return Plan(
        dataset,
        tuple(task.me for task in tasks),
        lumisections,
        texts,
        None if faults is None else tuple(faults),
        protocol or Protocol(),
        {**{name: written(own) for name, own in lists.items()}, "where": where},
    )


def carry_out(
    archive: Archive,
    plan: Plan,
    *,
    client: Client | None = None,
    progress: Progress | None = None,
) -> Result:
    """Evaluate every element of a plan, each a task, here or on Dask.

    An element that cannot be evaluated (one run, several binnings, too few lumisections, ...) has
    the reason, and does not stop the others. Raises ValueError if none could be.
    """
    evaluations: dict[str, Evaluation] = {}
    refused: dict[str, str] = {}
    inputs: dict[str, str] = {}
    done = each(archive, client, _evaluated, list(plan.mes), plan)
    for n_done, (me, came) in enumerate(done, start=1):
        if isinstance(came, BaseException):
            refused[me] = said(came)
        else:
            evaluations[me], inputs[me] = came
        if progress is not None:
            progress(n_done, len(plan.mes))
    if not evaluations:
        some = "; ".join(f"{me}: {why}" for me, why in sorted(refused.items())[:3])
        raise ValueError(f"none of {len(plan.mes)} elements could be evaluated: {some}")
    by_name = {me: evaluations[me] for me in plan.mes if me in evaluations}
    return Result(plan, by_name, dict(sorted(refused.items())), dict(sorted(inputs.items())))


def _evaluated(archive: Archive, plan: Plan, me: str) -> tuple[Evaluation, str]:
    stacks = training_stacks(archive, me, plan.dataset, plan.lumisections)
    conditions = numbers_of(archive, list(plan.lumisections))
    found = evaluate(
        {name: named.detector(text) for name, text in plan.detectors.items()},
        stacks,
        faults=plan.faults,
        conditions=conditions,
        **asdict(plan.protocol),
    )
    return found, _fingerprint(stacks, conditions)


def _fingerprint(stacks: Sequence[HistogramStack], conditions: pd.DataFrame) -> str:
    """Hexadecimal digest of the histograms and of what is known of their lumisections."""
    digest = hashlib.blake2b(digest_size=16)
    for stack in stacks:
        runs = np.full(len(stack), stack.run_number)
        for array in (runs, stack.ls_numbers, stack.contents, stack.sum_of_weights, stack.sumw2):
            digest.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
        keys = pd.MultiIndex.from_arrays([runs, stack.ls_numbers])
        known = conditions.reindex(keys)[sorted(conditions.columns)]
        digest.update(known.to_csv().encode())
    return digest.hexdigest()


# -- on disk -------------------------------------------------------------------------------------


def write(result: Result, folder: str | Path) -> Path:
    """Path of the page ``report.html``; beside it the plan with its results, and two tables.

    Nothing on the page is loaded from elsewhere. Raises OSError if the folder cannot be written.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    result.table.to_csv(target / "table.csv")
    result.detectors.to_csv(target / "detectors.csv")
    (target / "evaluation.json").write_text(dumps(result), encoding="utf-8")
    page = target / "report.html"
    page.write_text(_page(result), encoding="utf-8")
    return page


def dumps(result: Result) -> str:
    """The plan, the fingerprints of its inputs, and what was found, as JSON."""
    document = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        **asdict(result.plan),
        "inputs": dict(result.inputs),
        "found": {"/".join(key): value for key, value in _numbers(result)},
    }
    document["lumisections"] = {str(run): own for run, own in result.plan.lumisections.items()}
    return json.dumps(document, indent=1)


def read(path: str | Path) -> Plan:
    """The plan in a file that `write` made; ValueError if it is damaged, or of a newer version."""
    document = _document(path)
    try:
        faults = document["faults"]
        return Plan(
            str(document["dataset"]),
            tuple(document["mes"]),
            ranges.of_mapping(document["lumisections"], str(path)),
            dict(document["detectors"]),
            None if faults is None else tuple(_trial(own) for own in faults),
            Protocol(**document["protocol"]),
            dict(document["asked"]),
        )
    except (KeyError, TypeError, AttributeError) as damage:
        raise ValueError(f"{path}: damaged, {damage} is missing or wrong") from damage


def differences(result: Result, path: str | Path) -> list[str]:
    """How a result differs from the one in a file, a sentence each; none: it is the same.

    Times are not looked at.
    """
    before = _document(path)
    told = [
        f"{me}: histograms or conditions are not those of {path}"
        for me, digest in before.get("inputs", {}).items()
        if result.inputs.get(me) != digest
    ]
    ours, theirs = {"/".join(key): value for key, value in _numbers(result)}, before["found"]
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            told.append(f"{name}: {ours.get(name)}, it was {theirs.get(name)}")
    return told


def _document(path: str | Path) -> dict[str, Any]:
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as damage:
        raise ValueError(f"{path}: no JSON ({damage})") from damage
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError(f"{path}: not an evaluation")
    if document.get("version") != FORMAT_VERSION:
        raise ValueError(
            f"{path}: format version {document.get('version')}, this program reads {FORMAT_VERSION}"
        )
    return document


def _trial(given: Mapping[str, Any]) -> Trial:
    return Trial(**{**given, "size": tuple(given["size"])})


def _numbers(result: Result) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every number but times, with its name: as text, which infinity and NaN have too."""
    for tables in (result.table, result.detectors):
        for key, row in tables.drop(columns=list(TIMES), errors="ignore").iterrows():
            for column, value in row.items():
                names = tuple(str(own) for own in (*key, column))  # type: ignore[misc]
                yield names, f"{value:.10g}"


# -- the page ------------------------------------------------------------------------------------


def _page(result: Result) -> str:
    from jinja2 import Environment, PackageLoader

    # A name from a file is text here, never markup.
    environment = Environment(loader=PackageLoader("ml4ad.pipelines", "."), autoescape=True)
    grids, speeds, drawn, held = {}, {}, {}, {}
    for me, found in result.evaluations.items():
        grid = found.table["found_in_3"].unstack("fault")
        order = found.table.index.unique("fault")
        names = found.table.index.unique("detector")
        grids[me] = _markup(grid.loc[names, order].rename_axis(columns=None))
        speeds[me] = _markup(found.detectors[list(_SPEED)].rename(columns=_SPEED), mark=False)
        held[me] = {
            "train": _counted(result.plan.lumisections, found.training_runs),
            "test": _counted(result.plan.lumisections, found.test_runs),
        }
        drawn[me] = {"roc": _embedded(roc(found)), "delays": _embedded(delays(found))}
    return environment.get_template("evaluation.html.j2").render(
        result=result,
        plan=result.plan,
        summary=_markup(result.summary()),
        grids=grids,
        speeds=speeds,
        pictures=drawn,
        held=held,
        kinds=FAULTS,
        count=ranges.count(result.plan.lumisections),
    )


def _counted(lumisections: Ranges, runs: Sequence[int]) -> dict[str, Any]:
    """Good lumisections of runs: by run, as text, and all of them."""
    counts = {run: ranges.count({run: lumisections.get(run, [])}) for run in runs}
    return {
        "runs": ", ".join(f"{run} ({n})" for run, n in counts.items()),
        "n_ls": sum(counts.values()),
    }


_SPEED = {
    "incidents": "false alarms",
    "nominal": "allowed",
    "not_assessed": "LS not assessed",
    "ms_per_ls": "ms per LS",
    "fit_s": "seconds to fit",
}


def roc(found: Evaluation) -> Figure:
    """Figure of detection against false positives of single lumisections, a panel per fault."""
    return pictures.roc(_by_fault(found.curves))


def delays(found: Evaluation) -> Figure:
    """Figure of the share of faults found against lumisections passed, a panel per fault."""
    return pictures.delays(_by_fault(found.delays))


def _by_fault(by_key: Mapping[tuple[str, str], Any]) -> dict[str, dict[str, Any]]:
    panels: dict[str, dict[str, Any]] = {}
    for (detector, fault), own in by_key.items():
        panels.setdefault(fault, {})[detector] = own
    return panels


def _markup(table: pd.DataFrame, *, mark: bool = True) -> Any:
    from markupsafe import Markup, escape

    best = {
        column: (table[column].min() if column in _LOW_IS_GOOD else table[column].max())
        for column in (table.columns if mark else ())
        if column not in ("false alarms", "allowed")
    }
    head = "".join(f"<th>{escape(name)}</th>" for name in ("detector", *table.columns))
    rows = []
    for name, row in table.iterrows():
        cells = "".join(
            f'<td class="best">{value:.3g}</td>'
            if column in best and value == best[column]
            else f"<td>{'' if np.isnan(value) else format(value, '.3g')}</td>"
            for column, value in row.items()
        )
        rows.append(f"<tr><td>{escape(name)}</td>{cells}</tr>")
    return Markup(f"<table><tr>{head}</tr>{''.join(rows)}</table>")  # noqa: S704 (escaped above)


def _embedded(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
