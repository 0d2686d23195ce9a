"""Entries that a histogram still holds in its buffer, filled as ROOT's ``BufferEmpty`` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml4ad.dqmio.axes import RawAxis
from ml4ad.stack import KINDS, Axis, is_profile

Floats = NDArray[np.float64]


@dataclass
class Filled:
    """The arrays of a stack while they are being filled; axis 0 is the lumisection."""

    contents: NDArray[Any]
    entries: Floats
    statistics: Floats
    sumw2: Floats | None = None
    sum_of_weights: Floats | None = None
    sum_of_weights_squared: Floats | None = None


def flush(
    kind: str,
    raw: Sequence[RawAxis],
    filled: Filled,
    buffers: Mapping[int, Floats],
    value_range: Sequence[float],
    version: int,
) -> tuple[Axis, ...]:
    """Fill what the buffers hold into the arrays, and the axes of the histogram then.

    ``buffers`` is by position in the stack: their number, then for each fill the weight, the
    coordinates and, of a profile, the value. An axis without limits spans what is filled.
    ``version`` is that of TH1. Raises ValueError if a number of fills does not fit its buffer.
    """
    width = KINDS[kind][0] + 1 + is_profile(kind)
    fills = {}
    for row, buffer in buffers.items():
        # A negative number means that the contents hold the buffered entries already.
        if not np.isfinite(buffer[0]) or buffer[0] * width + 1 > len(buffer):
            raise ValueError(f"a buffer of {len(buffer)} numbers for {buffer[0]} fills")
        n_fills = int(buffer[0])
        if n_fills > 0:
            fills[row] = buffer[1 : 1 + n_fills * width].reshape(n_fills, width)
    axes = tuple(
        axis.axis(*_limits(axis, [table[:, 1 + i] for table in fills.values()]))
        for i, axis in enumerate(raw)
    )
    if fills:
        filled.contents = filled.contents.copy()
        filled.entries = np.array(filled.entries)
        filled.statistics = np.array(filled.statistics)
    weighted = any((table[:, 0] != 1).any() for table in fills.values())
    if weighted and version >= 8 and filled.sumw2 is None:
        # ROOT 6 begins to sum squares with the first weight other than 1.
        filled.sumw2 = filled.contents.astype(np.float64)
    for row, table in fills.items():
        if is_profile(kind):
            _fill_profile(axes, filled, row, table, value_range)
        else:
            _fill(axes, filled, row, table)
    return axes


def _limits(axis: RawAxis, columns: Sequence[Floats]) -> tuple[float | None, float | None]:
    values = np.concatenate([*columns, np.empty(0)])
    values = values[np.isfinite(values)]
    if not axis.is_open or not len(values):
        return None, None
    low, high = float(values.min()), float(values.max())
    if not low < high:
        return low - 1, high + 1
    # ROOT takes a tenth more on each side, up to zero, and then rounds the width of a bin.
    margin = 0.1 * (high - low)
    return (
        0.0 if low >= 0 > low - margin else low - margin,
        0.0 if high <= 0 < high + margin else high + margin,
    )


def _bins(axis: Axis, x: Floats) -> NDArray[np.int64]:
    """ROOT's bin of each coordinate; NaN counts as overflow."""
    low, high = axis.edges[0], axis.edges[-1]
    if axis.variable:
        found = np.searchsorted(axis.edges, x, side="right")
    else:
        with np.errstate(invalid="ignore", over="ignore"):
            place = axis.n_bins * (x - low) / (high - low)
        inside = (x >= low) & (x < high)
        found = 1 + np.where(inside, place, 0).astype(np.int64)
    found = np.where(x < high, found, axis.n_bins + 1)
    return np.where(x < low, 0, found)


def _add(array: NDArray[Any], places: tuple[Any, ...], weights: Floats) -> None:
    """Add one weight after the other, as the order decides the rounding; integers saturate."""
    if not np.issubdtype(array.dtype, np.integer):
        np.add.at(array, places, weights.astype(array.dtype))
        return
    most = np.iinfo(array.dtype).max
    sums = array.astype(np.float64)
    np.add.at(sums, places, np.trunc(weights))
    array[...] = np.clip(sums, -most, most).astype(array.dtype)


def _moments(coordinates: Sequence[Floats], weights: Floats) -> list[float]:
    """Sums in the order of ROOT's statistics of a histogram."""
    sums = [weights, weights**2]
    for i, x in enumerate(coordinates):
        sums += [weights * x, weights * x * x]
        sums += [weights * x * other for other in coordinates[:i]]
    return [_sum(term) for term in sums]


def _sum(terms: Floats) -> float:
    """Sum of one term after the other, as ROOT adds them."""
    return float(np.cumsum(terms)[-1]) if len(terms) else 0.0


def _fill(axes: tuple[Axis, ...], filled: Filled, row: int, table: Floats) -> None:
    weights, coordinates = table[:, 0], [table[:, 1 + i] for i in range(len(axes))]
    bins = [_bins(axis, x) for axis, x in zip(axes, coordinates, strict=True)]
    places = tuple(bins)
    _add(filled.contents[row], places, weights)
    if filled.sumw2 is not None:
        _add(filled.sumw2[row], places, weights**2)
    inside = _inside(axes, bins)
    filled.entries[row] = max(filled.entries[row], 0) + len(table)
    filled.statistics[row] += _moments([x[inside] for x in coordinates], weights[inside])


def _fill_profile(
    axes: tuple[Axis, ...], filled: Filled, row: int, table: Floats, value_range: Sequence[float]
) -> None:
    low, high = value_range
    if low != high:
        table = table[(table[:, -1] >= low) & (table[:, -1] <= high)]
    weights, value = table[:, 0], table[:, -1]
    coordinates = [table[:, 1 + i] for i in range(len(axes))]
    bins = [_bins(axis, x) for axis, x in zip(axes, coordinates, strict=True)]
    places = tuple(bins)
    if filled.sum_of_weights_squared is None and (weights != 1).any():
        counted = filled.sum_of_weights
        filled.sum_of_weights_squared = None if counted is None else counted.copy()
    for array, terms in (
        (filled.contents, weights * value),
        (filled.sumw2, weights * value**2),
        (filled.sum_of_weights, weights),
        (filled.sum_of_weights_squared, weights**2),
    ):
        if array is not None:
            _add(array[row], places, terms)
    inside = _inside(axes, bins)
    filled.entries[row] = max(filled.entries[row], 0) + len(table)
    weights, value = weights[inside], value[inside]
    sums = _moments([x[inside] for x in coordinates], weights)
    filled.statistics[row] += [*sums, _sum(weights * value), _sum(weights * value**2)]


def _inside(axes: tuple[Axis, ...], bins: Sequence[NDArray[np.int64]]) -> NDArray[np.bool_]:
    """Fills in no flow bin: only these count in ROOT's statistics."""
    inside = np.ones(len(bins[0]), dtype=bool)
    for axis, found in zip(axes, bins, strict=True):
        inside &= (found > 0) & (found <= axis.n_bins)
    return inside
