"""Trends: what a one-dimensional element does over lumisections and runs, in numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ml4ad.stack import Axis, Floats, HistogramStack

if TYPE_CHECKING:
    import pandas as pd

#: Quantiles that are given if none are asked for.
QUANTILES = (0.05, 0.5, 0.95)


def table(
    stacks: HistogramStack | Iterable[HistogramStack], *, quantiles: Sequence[float] = QUANTILES
) -> pd.DataFrame:
    """A row per lumisection (ls_number): entries, mean, std, mode and quantiles (q5, q50, q95).

    Of several stacks, such as `Archive.stacks` gives, a row per (run_number, ls_number); of several
    elements per (me, run_number, ls_number). All are of the bins without flow; mean and std of
    their centres, mode the centre of the highest bin, quantiles linear within a bin. Of a profile:
    of its means over x, where filled. NaN where a lumisection is empty. Raises ValueError for no
    stack, more than one axis, or a quantile not in [0, 1].

    >>> stack = HistogramStack.from_arrays(
    ...     [[0.0, 2.0, 2.0]], [[0, 1, 2, 3]], ls_numbers=[7], run_number=1, me="A/b"
    ... )
    >>> table(stack, quantiles=[0.5]).loc[7].to_dict()
    {'entries': 4.0, 'mean': 2.0, 'std': 0.5, 'mode': 1.5, 'q50': 2.0}
    >>> table([stack]).loc[(1, 7), "mean"]
    np.float64(2.0)
    """
    import pandas as pd

    if isinstance(stacks, HistogramStack):
        columns = _columns(stacks, stacks.values(), stacks.entries, quantiles)
        return pd.DataFrame(columns, index=pd.Index(stacks.ls_numbers, name="ls_number"))
    keys, tables = [], []
    for stack in stacks:
        keys.append((stack.me, stack.run_number))
        tables.append(table(stack, quantiles=quantiles))
    if not tables:
        raise ValueError("no stack to make a table of")
    whole = pd.concat(tables, keys=keys, names=["me", "run_number"])
    return whole if len({me for me, _ in keys}) > 1 else whole.droplevel("me")


def runs(
    stacks: HistogramStack | Iterable[HistogramStack], *, quantiles: Sequence[float] = QUANTILES
) -> pd.DataFrame:
    """A row per stack: me, run_number, n_ls and first_ls to last_ls, and what `table` tells.

    That is of all its lumisections together. Raises as `table` does.

    >>> stack = HistogramStack.from_arrays(
    ...     [[0, 2], [2, 4]], [[0, 1, 2]], ls_numbers=[7, 9], run_number=1, me="A/b"
    ... )
    >>> runs(stack, quantiles=[]).iloc[0].to_dict()  # doctest: +NORMALIZE_WHITESPACE
    {'me': 'A/b', 'run_number': 1, 'n_ls': 2, 'first_ls': 7, 'last_ls': 9,
     'entries': 8.0, 'mean': 1.25, 'std': 0.4330127018922193, 'mode': 1.5}
    """
    import pandas as pd

    listed = [stacks] if isinstance(stacks, HistogramStack) else list(stacks)
    if not listed:
        raise ValueError("no stack to make a table of")
    rows = []
    for stack in listed:
        values = np.asarray(stack.sum().values(), dtype=np.float64)[None]
        own = _columns(stack, values, np.array([stack.entries.sum()]), quantiles)
        ends = stack.ls_numbers[[0, -1]] if len(stack) else (None, None)
        named = {"me": stack.me, "run_number": stack.run_number, "n_ls": len(stack)}
        named |= {"first_ls": ends[0], "last_ls": ends[1]}
        rows.append(named | {name: column[0] for name, column in own.items()})
    return pd.DataFrame(rows)


def ls_map(stack: HistogramStack, *, normalise: bool = False) -> pd.DataFrame:
    """Lumisections by bins: a row for each number from the first to the last, NaN where missing.

    The columns are those of `HistogramStack.to_pandas`. With ``normalise`` each lumisection sums to
    1; a profile stays as it is. Raises ValueError for an empty stack.

    >>> stack = HistogramStack.from_arrays(
    ...     [[0, 2], [2, 6]], [[0, 1, 2]], ls_numbers=[7, 9], run_number=1, me="A/b"
    ... )
    >>> ls_map(stack, normalise=True).to_numpy()
    array([[0.  , 1.  ],
           [ nan,  nan],
           [0.25, 0.75]])
    """
    if not len(stack):
        raise ValueError(f"{stack.me}, run {stack.run_number}: no lumisection")
    found = stack.to_pandas().astype(np.float64)
    if normalise and not stack.is_profile:
        found = found.div(found.sum(axis=1).replace(0, np.nan), axis=0)
    numbers = range(int(stack.ls_numbers[0]), int(stack.ls_numbers[-1]) + 1)
    return found.reindex(numbers).rename_axis("ls_number")


def _columns(
    stack: HistogramStack, values: Floats, entries: Floats, quantiles: Sequence[float]
) -> dict[str, Floats]:
    """What can be told of ``values``, ``(n, n_bins)``: name -> ``(n,)``."""
    if len(stack.axes) != 1:
        raise ValueError(f"{stack.me} has {len(stack.axes)} axes, want 1: project it first")
    if not all(0 <= q <= 1 for q in quantiles):
        raise ValueError(f"quantiles {list(quantiles)}, want numbers from 0 to 1")
    axis: Axis = stack.axes[0]
    weights = np.clip(np.nan_to_num(values.astype(np.float64)), 0, None)
    total = weights.sum(axis=1)
    filled = np.where(total > 0, total, np.nan)
    mean = weights @ axis.centers / filled
    spread = (weights * (axis.centers - mean[:, None]) ** 2).sum(axis=1) / filled
    columns: dict[str, Floats] = {
        "entries": entries,
        "mean": mean,
        "std": np.sqrt(spread),
        "mode": np.where(total > 0, axis.centers[weights.argmax(axis=1)], np.nan),
    }
    for q in quantiles:
        columns[f"q{100 * q:g}"] = _quantile(weights, filled, axis.edges, q)
    return columns


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
