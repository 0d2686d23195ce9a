"""What else looked like this? The nearest lumisections and runs, of stacks or of an archive."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ml4ad.conditions.query import Runs
from ml4ad.detect.base import check_axes
from ml4ad.detect.nearest import aligned
from ml4ad.dqmio.names import Pattern
from ml4ad.stack import Floats, HistogramStack

if TYPE_CHECKING:
    from ml4ad.archive import Archive

#: Runs that are in memory at a time while an archive is searched.
_AT_A_TIME = 4


def similar(
    stack: HistogramStack,
    ls_number: int,
    among: Iterable[HistogramStack],
    *,
    n: int = 10,
    scale_free: bool = False,
    beside: int = 0,
) -> pd.DataFrame:
    """The ``n`` lumisections most like one, nearest first: run_number, ls_number, distance.

    ``distance`` is Hellinger's, with what the noise of both adds taken off; ``ratio`` is the
    squared distance over that noise: about 1 where both could be one and the same. The lumisection
    itself, and those within ``beside`` of it in its run, are left out. ``scale_free`` compares
    without the scale of the axis. Raises KeyError if the stack lacks the lumisection and ValueError
    if it is empty; stacks of another binning are an error too.
    """
    looked = _Likeness(stack, ls_number, n=n, scale_free=scale_free, beside=beside)
    for other in among:
        looked.at(other)
    return looked.table()


def similar_in(
    archive: Archive,
    me: str,
    run_number: int,
    ls_number: int,
    *,
    dataset: str | None = None,
    runs: Runs = None,
    n: int = 10,
    scale_free: bool = False,
    beside: int = 0,
) -> pd.DataFrame:
    """The ``n`` lumisections of an archive most like one of an element, as `similar` has them.

    ``runs`` are those to look in, None all of the dataset; a few of them are read at a time. Those
    of another binning are left out: ``attrs["other_binning"]`` names them. Raises KeyError for what
    the archive does not have, ValueError for a lumisection that is empty, or an ambiguous dataset.
    """
    stack = archive.stack(me, run_number, dataset)
    looked = _Likeness(stack, ls_number, n=n, scale_free=scale_free, beside=beside)
    other_binning = set()
    for others in _by_runs(archive, re.compile(re.escape(me)), stack.dataset, runs):
        for other in others:
            if _comparable(stack, other):
                looked.at(other)
            else:
                other_binning.add(other.run_number)
    table = looked.table()
    table.attrs["other_binning"] = sorted(other_binning)
    return table


def similar_runs_in(
    archive: Archive,
    run_number: int,
    *,
    me: Pattern = "*",
    dataset: str,
    runs: Runs = None,
    n: int = 10,
) -> pd.DataFrame:
    """The ``n`` runs of a dataset most like one, over the elements that match: see `similar_runs`.

    Profiles are left out, and elements of another binning for the runs concerned. Raises KeyError
    if the run has no element that matches.
    """
    ours = {
        own.me: _together(own)
        for own in archive.stacks(me, run_number, dataset)
        if not own.is_profile and len(own)
    }
    if not ours:
        raise KeyError(f"run {run_number} of {dataset} has no histogram of counts {me!r}")
    among: dict[int, dict[str, HistogramStack]] = {}
    for others in _by_runs(archive, list(ours), dataset, runs):
        for other in others:
            if other.run_number != run_number and _comparable(ours[other.me], other):
                # What is kept of each run and element is one histogram.
                among.setdefault(other.run_number, {})[other.me] = _together(other)
    return similar_runs(ours, among, n=n)


def _by_runs(
    archive: Archive, me: Pattern, dataset: str, runs: Runs
) -> Iterator[Iterator[HistogramStack]]:
    there = sorted(set(archive.runs(dataset)["run_number"].tolist()))
    if runs is not None:
        asked = {runs} if isinstance(runs, int) else set(runs)
        unknown = sorted(asked - set(there))
        if unknown:
            raise KeyError(f"no run {unknown[0]} in {dataset}; there are {there[0]} to {there[-1]}")
        there = sorted(asked)
    for start in range(0, len(there), _AT_A_TIME):
        yield archive.stacks(me, there[start : start + _AT_A_TIME], dataset)


def _together(stack: HistogramStack) -> HistogramStack:
    """All lumisections of a stack as one."""
    return stack.grouped([stack.ls_numbers])


def _comparable(one: HistogramStack, other: HistogramStack) -> bool:
    return (
        one.is_profile == other.is_profile
        and len(one.axes) == len(other.axes)
        and all(a.same_binning(b) for a, b in zip(one.axes, other.axes, strict=True))
    )


class _Likeness:
    """One lumisection, and the ``n`` most like it of all that it was compared with so far."""

    def __init__(
        self, stack: HistogramStack, ls_number: int, *, n: int, scale_free: bool, beside: int
    ) -> None:
        stack.position(ls_number)
        one = stack.select([ls_number])
        if not _entries(one)[0] > 0:
            raise ValueError(f"{stack.me}, LS {ls_number}: empty, nothing is like it")
        self._stack, self._ls_number = stack, ls_number
        self._n, self._scale_free, self._beside = n, scale_free, beside
        self._target, self._noise = _roots(one, scale_free)
        self._found = pd.DataFrame(columns=["run_number", "ls_number", "distance", "ratio"])

    def at(self, other: HistogramStack) -> None:
        """Compare with all lumisections of a stack; ValueError for another binning."""
        check_axes(self._stack.axes, other, f"run {self._stack.run_number}")
        filled = np.flatnonzero(_entries(other) > 0)
        roots, others_noise = _roots(other, self._scale_free)
        both = self._noise[0] + others_noise
        square = ((roots - self._target[0]) ** 2).sum(axis=1)
        table = pd.DataFrame(
            {
                "run_number": other.run_number,
                "ls_number": other.ls_numbers[filled],
                "distance": np.sqrt(np.maximum(square - both, 0)),
                "ratio": square / both,
            }
        )
        if other.run_number == self._stack.run_number:
            table = table[np.abs(table["ls_number"] - self._ls_number) > self._beside]
        every = pd.concat([self._found, table], ignore_index=True) if len(self._found) else table
        self._found = every.nsmallest(self._n, ["distance", "ratio"])

    def table(self) -> pd.DataFrame:
        """The nearest first."""
        return self._found.reset_index(drop=True)


def similar_runs(
    run: Mapping[str, HistogramStack],
    among: Mapping[int, Mapping[str, HistogramStack]],
    *,
    n: int = 10,
) -> pd.DataFrame:
    """The ``n`` runs most like one over all elements they share: run_number, distance, elements.

    Both map an element's name to its stack; all lumisections of a run are taken together.
    ``distance`` is the mean over the elements, each as `similar` has it.
    """
    rows = []
    for number, elements in among.items():
        shared = sorted(set(run) & set(elements))
        distances = []
        for me in shared:
            check_axes(run[me].axes, elements[me], f"run {run[me].run_number}")
            ours, theirs = _whole(run[me]), _whole(elements[me])
            if ours.sum() > 0 and theirs.sum() > 0:
                root = np.sqrt(ours / ours.sum()) - np.sqrt(theirs / theirs.sum())
                filled = ((ours + theirs) > 0).sum()
                noise = filled / 4 * (1 / ours.sum() + 1 / theirs.sum())
                distances.append(np.sqrt(max(float((root**2).sum()) - noise, 0)))
        if distances:
            rows.append((number, float(np.mean(distances)), len(distances)))
    table = pd.DataFrame(rows, columns=["run_number", "distance", "elements"])
    return table.nsmallest(n, "distance").reset_index(drop=True)


def _whole(stack: HistogramStack) -> Floats:
    return np.asarray(stack.values().sum(axis=0, dtype=np.float64)).ravel()


def _entries(stack: HistogramStack) -> Floats:
    if stack.is_profile:
        raise ValueError(f"{stack.me} is a {stack.kind}: likeness is of counts")
    return np.asarray(stack.values().reshape(len(stack), -1).sum(axis=1, dtype=np.float64))


def _roots(stack: HistogramStack, scale_free: bool) -> tuple[Floats, Floats]:
    """sqrt(p) of all lumisections that are not empty, and the noise of their squared distance."""
    entries = _entries(stack)
    kept = stack.values()[entries > 0]
    counts = kept.reshape(len(kept), int(np.prod(kept.shape[1:]))).astype(np.float64)
    entries = entries[entries > 0]
    shares = aligned(counts) if scale_free else counts / entries[:, None]
    return np.sqrt(shares), (shares > 0).sum(axis=1) / (4 * entries)
