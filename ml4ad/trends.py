"""Trends: what a one-dimensional element does over the lumisections of a run, in numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ml4ad.stack import Floats, HistogramStack

if TYPE_CHECKING:
    import pandas as pd


def table(stack: HistogramStack, *, quantiles: Sequence[float] = (0.05, 0.5, 0.95)) -> pd.DataFrame:
    """A row per lumisection (ls_number): entries, mean, std, mode and quantiles (q5, q50, q95).

    All are of the bins without flow; mean and std of their centres, mode the centre of the highest
    bin, quantiles linear within a bin. Of a profile: of its means over x, where filled. NaN where
    a lumisection is empty. Raises ValueError for more than one axis, or a quantile not in [0, 1].

    >>> stack = HistogramStack.from_arrays(
    ...     [[0.0, 2.0, 2.0]], [[0, 1, 2, 3]], ls_numbers=[7], run_number=1, me="A/b"
    ... )
    >>> table(stack, quantiles=[0.5]).loc[7].to_dict()
    {'entries': 4.0, 'mean': 2.0, 'std': 0.5, 'mode': 1.5, 'q50': 2.0}
    """
    import pandas as pd

    if len(stack.axes) != 1:
        raise ValueError(f"{stack.me} has {len(stack.axes)} axes, want 1: project it first")
    if not all(0 <= q <= 1 for q in quantiles):
        raise ValueError(f"quantiles {list(quantiles)}, want numbers from 0 to 1")
    axis = stack.axes[0]
    weights = np.clip(np.nan_to_num(stack.values().astype(np.float64)), 0, None)
    total = weights.sum(axis=1)
    filled = np.where(total > 0, total, np.nan)
    mean = weights @ axis.centers / filled
    spread = (weights * (axis.centers - mean[:, None]) ** 2).sum(axis=1) / filled
    columns: dict[str, Floats] = {
        "entries": stack.entries,
        "mean": mean,
        "std": np.sqrt(spread),
        "mode": np.where(total > 0, axis.centers[weights.argmax(axis=1)], np.nan),
    }
    for q in quantiles:
        columns[f"q{100 * q:g}"] = _quantile(weights, filled, axis.edges, q)
    return pd.DataFrame(columns, index=pd.Index(stack.ls_numbers, name="ls_number"))


def _quantile(weights: Floats, total: Floats, edges: Floats, q: float) -> Floats:
    """Where the share ``q`` of each row's ``total`` is reached; NaN where there is none."""
    below = np.pad(weights.cumsum(axis=1), ((0, 0), (1, 0)))
    wanted = q * np.nan_to_num(total)
    # The bin in which it is reached: the last one that begins at or below it and is not empty.
    reached = (below[:, 1:] >= wanted[:, None]) & (weights > 0)
    at = reached.argmax(axis=1)
    rows = np.arange(len(weights))
    inside = (wanted - below[rows, at]) / np.where(weights[rows, at] > 0, weights[rows, at], 1)
    found = edges[at] + inside * np.diff(edges)[at]
    return np.where(np.isfinite(total), found, np.nan)
