"""What else looked like this? The nearest lumisections in an archive of stacks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from ml4ad.detect.base import check_axes
from ml4ad.detect.nearest import aligned
from ml4ad.stack import Floats, HistogramStack


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
    stack.position(ls_number)
    one = stack.select([ls_number])
    if not _entries(one)[0] > 0:
        raise ValueError(f"{stack.me}, LS {ls_number}: empty, nothing is like it")
    target, noise = _roots(one, scale_free)
    found = []
    for other in among:
        check_axes(stack.axes, other, f"run {stack.run_number}")
        filled = np.flatnonzero(_entries(other) > 0)
        roots, others_noise = _roots(other, scale_free)
        both = noise[0] + others_noise
        square = ((roots - target[0]) ** 2).sum(axis=1)
        table = pd.DataFrame(
            {
                "run_number": other.run_number,
                "ls_number": other.ls_numbers[filled],
                "distance": np.sqrt(np.maximum(square - both, 0)),
                "ratio": square / both,
            }
        )
        if other.run_number == stack.run_number:
            table = table[np.abs(table["ls_number"] - ls_number) > beside]
        found.append(table)
    if not found:
        return pd.DataFrame(columns=["run_number", "ls_number", "distance", "ratio"])
    every = pd.concat(found, ignore_index=True)
    return every.nsmallest(n, ["distance", "ratio"]).reset_index(drop=True)


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
