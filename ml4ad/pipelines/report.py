"""What the report of a run shows: states, incidents with their pictures, and all of it as PDF."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ml4ad import pictures, verdict
from ml4ad.detect import registry
from ml4ad.detect.spread import each
from ml4ad.dqmio.names import matcher
from ml4ad.stack import Floats, HistogramStack

if TYPE_CHECKING:
    from distributed import Client
    from matplotlib.figure import Figure

    from ml4ad.archive import Archive

# An A4 page, in inches, what fits on it, and its margin and a figure's height as parts of it.
_PAGE = (8.27, 11.69)
_LINES, _LETTERS = 88, 120
_MARGIN, _TALLEST = 0.06, 0.42

# Columns as a shift leader says them; others are read with their underscores taken out.
_WORDS = {
    "run_number": "run",
    "first_ls": "first LS",
    "last_ls": "last LS",
    "n_ls": "LS",
    "n_seen": "LS here",
    "n_expected": "LS expected",
    "missing": "missing LS",
    "fraction": "complete",
    "open": "still open",
    "n_elements": "elements",
    "n_incidents": "incidents",
    "sentence": "what",
    "said_by": "by",
}


@dataclass(frozen=True)
class Table:
    """A table as people read it: words for columns, no row numbers, and a sentence if it is empty.

    ``frame`` is what is shown, with its own names and values.
    """

    frame: pd.DataFrame
    if_empty: str = "None."

    @property
    def read(self) -> pd.DataFrame:
        """The table with columns and values as words."""
        words = self.frame.copy()
        for name in words.columns.intersection(["missing"]):
            words[name] = [_spans(ranges) for ranges in words[name]]
        for name in words.columns.intersection(["fraction"]):
            words[name] = [f"{100 * part:.1f} %" for part in words[name]]
        for name in words.select_dtypes(bool).columns:
            words[name] = words[name].map({True: "yes", False: "no"})
        return words.rename(columns=lambda name: _WORDS.get(name, name.replace("_", " ")))

    def __repr__(self) -> str:
        return self.read.to_string(index=False) if len(self.frame) else self.if_empty

    def _repr_html_(self) -> str:
        from html import escape

        if not len(self.frame):
            return f"<p>{escape(self.if_empty)}</p>"
        words = self.read
        told = [
            i for i, dtype in enumerate(words.dtypes) if not pd.api.types.is_numeric_dtype(dtype)
        ]
        left: list[Any] = [{"selector": f".col{i}", "props": "text-align: left"} for i in told]
        styled = words.style.hide(axis="index").format(escape="html").set_table_styles(left)
        return str(styled.set_table_attributes('class="dataframe"').to_html())


def standing(archive: Archive, dataset: str) -> str:
    """A sentence on the models that judge a dataset; it says so if none does."""
    at_work = [model for model in registry.active(archive) if matcher(model.datasets)(dataset)]
    if not at_work:
        return (
            f"No model is active for {dataset}: nothing was scored, there can be no incidents, and "
            "a lumisection is bad or good only where a person said so."
        )
    return f"Judged by {', '.join(map(str, at_work))}."


def summary(
    archive: Archive, dataset: str, run_numbers: Sequence[int], *, workspace: str | None = None
) -> pd.DataFrame:
    """A row per run: lumisections here and missing, good, bad and not assessed, incidents.

    Columns as `Archive.completeness` and `verdict.Certificate.summary` have them, and n_incidents.
    """
    complete = archive.completeness(dataset, run_numbers).reset_index()
    certificate = verdict.certification(archive, dataset, run_numbers, workspace=workspace)
    states = certificate.summary().reset_index()
    found = incidents(archive, dataset, run_numbers)
    counted = found.groupby("run_number").size().rename("n_incidents").reset_index()
    keyed = [own.drop(columns=["index", "dataset"], errors="ignore") for own in (complete, states)]
    whole = keyed[0].merge(keyed[1], on="run_number", how="outer", suffixes=("", "_certified"))
    whole = whole.merge(counted, on="run_number", how="left")
    return whole.fillna({"n_incidents": 0}).astype({"n_incidents": int})


def incidents(archive: Archive, dataset: str, run_numbers: Sequence[int]) -> pd.DataFrame:
    """Incidents of these runs, the clearest first: see `ml4ad.detect.incidents`."""
    from ml4ad.detect import incidents as found

    rows = found(archive, run_numbers, dataset=dataset)
    return rows.sort_values("log_p", ignore_index=True)


def picture(archive: Archive, incident: Mapping[Any, Any]) -> Figure:
    """Observed, reference and difference of an incident's clearest element, side by side.

    The reference are the lumisections that the detector compared with; where it names none, those
    of the same run outside the incident. It is scaled to the observed; a profile is not.
    """
    from matplotlib.figure import Figure as NewFigure

    stack = archive.stack(str(incident["me"]), int(incident["run_number"]), incident["dataset"])
    first_ls, last_ls = int(incident["first_ls"]), int(incident["last_ls"])
    seen = _summed(stack.select([[first_ls, last_ls]]))
    expected = _reference(archive, incident, stack)
    if not stack.is_profile and expected.sum() > 0:
        expected = expected * (seen.sum() / expected.sum())
    figure = NewFigure(figsize=(15, 4.2), layout="constrained")
    span = f"LS {first_ls}" if first_ls == last_ls else f"LS {first_ls} to {last_ls}"
    figure.suptitle(f"{stack.me.rsplit('/', 1)[-1]}, run {stack.run_number}, {span}", size="large")
    unit = "mean" if stack.is_profile else "entries"
    panels = {"observed": seen, "reference": expected, "difference": seen - expected}
    for ax, (name, values) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        ax.set_title(name, loc="left")
        ax.set_xlabel(pictures.text_of(stack.axes[0].title or "x (untitled in the file)"))
        if len(stack.axes) == 1:
            ax.stairs(values, stack.axes[0].edges, color="#3f90da")
            ax.set_ylabel(f"{unit} per bin")
            continue
        flat = values if values.ndim == 2 else values.sum(axis=2)
        shades: dict[str, Any] = {"vmin": 0.0, "vmax": float(max(seen.max(), expected.max()))}
        if name == "difference":
            most = float(np.abs(flat).max()) or 1.0
            shades = {"vmin": -most, "vmax": most, "cmap": "RdBu_r"}
        x, y = stack.axes[0].edges, stack.axes[1].edges
        mesh = ax.pcolormesh(x, y, flat.T, rasterized=True, **shades)
        figure.colorbar(mesh, ax=ax, label=f"{unit} per bin")
        ax.set_ylabel(pictures.text_of(stack.axes[1].title or "y (untitled in the file)"))
    return figure


def drawn(archive: Archive, incidents: pd.DataFrame, client: Client | None = None) -> list[Figure]:
    """The `picture` of each incident, in their order; on Dask workers where there is a client."""
    tasks = list(enumerate(incidents.to_dict("records")))
    done: dict[int, Figure] = {}
    for (place, _), figure in each(archive, client, _drawn, tasks):
        if isinstance(figure, BaseException):
            raise figure
        done[place] = figure
    return [done[place] for place, _ in tasks]


def _drawn(archive: Archive, _: None, task: tuple[int, Mapping[Any, Any]]) -> Figure:
    return picture(archive, task[1])


def entries(
    archive: Archive, dataset: str, run_numbers: Sequence[int], incidents: pd.DataFrame
) -> dict[str, dict[str, tuple[Any, Any]]]:
    """Element -> run -> (lumisections, entries), as `pictures.trend` draws them.

    The elements are those that show the ``incidents`` most clearly.
    """
    found: dict[str, dict[str, tuple[Any, Any]]] = {}
    for me in dict.fromkeys(incidents["me"]):
        for stack in archive.stacks(me, list(run_numbers), dataset):
            of_run = found.setdefault(me, {})
            of_run[f"run {stack.run_number}"] = (stack.ls_numbers, stack.entries)
    return found


def pdf(
    path: str | Path, title: str, tables: Mapping[str, Table], figures: Sequence[Figure], note: str
) -> Path:
    """Path of the PDF: A4 pages of a note and tables, as text, then of figures, as many as fit."""
    from matplotlib.backends.backend_pdf import PdfPages
    from matplotlib.figure import Figure as NewFigure

    with PdfPages(path, metadata={"Title": title, "Creator": "ml4ad"}) as pages:
        lines = list(_lines(title, note, tables))
        for start in range(0, len(lines), _LINES):
            page = NewFigure(figsize=_PAGE)
            text = "\n".join(lines[start : start + _LINES])
            page.text(_MARGIN, 0.96, text, family="monospace", size=6.5, va="top", parse_math=False)
            pages.savefig(page)
        for page in _pages(figures):
            pages.savefig(page)
    return Path(path)


def _pages(figures: Sequence[Figure]) -> Iterator[Figure]:
    """A4 pages with the figures one under the other."""
    from matplotlib.figure import Figure as NewFigure
    from matplotlib.image import imread

    page, top = None, 0.0
    for figure in figures:
        drawn = BytesIO()
        figure.savefig(drawn, format="png", dpi=150)
        drawn.seek(0)
        image = imread(drawn)
        wide = (1 - 2 * _MARGIN) * image.shape[0] / image.shape[1] * _PAGE[0] / _PAGE[1]
        height = min(wide, _TALLEST)
        if page is None or top - height < _MARGIN:
            if page is not None:
                yield page
            page, top = NewFigure(figsize=_PAGE, dpi=150), 1 - _MARGIN
        ax = page.add_axes((_MARGIN, top - height, 1 - 2 * _MARGIN, height))
        ax.imshow(image)
        ax.set_axis_off()
        top -= height + _MARGIN / 3
    if page is not None:
        yield page


def _reference(archive: Archive, incident: Mapping[str, Any], stack: HistogramStack) -> Floats:
    """What the detector compared with, summed; the incident itself is no reference."""
    inside = range(int(incident["first_ls"]), int(incident["last_ls"]) + 1)
    named: dict[int, list[int]] = {}
    for run_number, ls_number in incident["reference"]:
        if run_number != stack.run_number or ls_number not in inside:
            named.setdefault(int(run_number), []).append(int(ls_number))
    held = set(archive.runs(stack.dataset)["run_number"])
    found = [
        own.select(ls_numbers)
        for run_number, ls_numbers in named.items()
        if run_number in held
        for own in archive.stacks(re.compile(re.escape(stack.me)), run_number, stack.dataset)
        if own.kind == stack.kind and _same_binning(own, stack)
    ]
    found = [own for own in found if len(own)]
    if not found:
        found = [stack.select(stack.ls_numbers[~np.isin(stack.ls_numbers, inside)])]
    sums = np.array([_summed(own) for own in found])
    return np.asarray(sums.mean(axis=0) if stack.is_profile else sums.sum(axis=0))


def _same_binning(one: HistogramStack, other: HistogramStack) -> bool:
    pairs = zip(one.axes, other.axes, strict=False)
    return len(one.axes) == len(other.axes) and all(a.same_binning(b) for a, b in pairs)


def _summed(stack: HistogramStack) -> Floats:
    if not len(stack):
        return np.zeros([axis.n_bins for axis in stack.axes])
    return np.nan_to_num(np.asarray(stack.sum().values(), dtype=np.float64))


def _spans(ranges: Sequence[tuple[int, int]]) -> str:
    return ", ".join(f"{a}" if a == b else f"{a} to {b}" for a, b in ranges) or "none"


def _lines(title: str, note: str, tables: Mapping[str, Table]) -> Iterator[str]:
    yield from (title, "=" * len(title), "", *textwrap.wrap(note, _LETTERS), "")
    for name, table in tables.items():
        yield from (name, "-" * len(name))
        yield from _rows(table.read) if len(table.frame) else [table.if_empty]
        yield ""


def _rows(table: pd.DataFrame) -> list[str]:
    """Lines of a table whose last column is broken where it would not fit."""
    *first, last = table.columns
    # A column beside the others, which gets what they leave.
    rest = table[first].to_string(index=False).splitlines() if first else [""] * (len(table) + 1)
    width = max(_LETTERS - max(map(len, rest)) - 2, 30)
    lines: list[str] = []
    for start, value in zip(rest, [last, *table[last]], strict=True):
        broken = textwrap.wrap(str(value), width) or [""]
        lines += [f"{start}  {broken[0]}"]
        lines += [f"{'':{len(start)}}  {more}" for more in broken[1:]]
    return lines
