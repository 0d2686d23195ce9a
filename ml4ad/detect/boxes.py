"""Sums over all boxes of bins, and how far they are from what was expected."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ml4ad.stack import Floats

#: Counts below which nothing is expected.
SMALLEST = np.float32(1e-3)
#: `squares` are at least so many times less than those of `pulls` up to `FAR` times the expected.
SLACK, FAR = 1.35, 9.0

#: First bin and the one after the last, in x and in y.
Box: TypeAlias = tuple[int, int, int, int]
Reals: TypeAlias = NDArray[np.floating[Any]]
Singles: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True)
class Boxes:
    """All boxes of one size on a grid: ``size`` and ``stride`` in bins of x and y."""

    size: tuple[int, int]
    stride: tuple[int, int]

    def starts(self, shape: tuple[int, int]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """First bins of the boxes in x and in y; the last box always ends with the axis."""
        out = []
        for n_bins, size, stride in zip(shape, self.size, self.stride, strict=True):
            first = np.arange(0, n_bins - size + 1, stride, dtype=np.intp)
            last = n_bins - size
            out.append(first if first[-1] == last else np.append(first, last))
        return out[0], out[1]

    def sums(self, integral: Floats) -> Singles:
        """Sums in every box, ``(n, n_x, n_y)``, from `integral_image` ``(n, nx + 1, ny + 1)``."""
        sx, ex, sy, ey = _corners(self, (integral.shape[1] - 1, integral.shape[2] - 1))
        if self.size[1] == integral.shape[2] - 1:
            # All of y: nothing lies before it.
            ends = np.ascontiguousarray(integral[:, :, -1])[..., None]
            return np.subtract(ends[:, ex], ends[:, sx]).astype(np.float32)
        across = integral[:, ex, :] - integral[:, sx, :]
        return np.subtract(across[:, :, ey], across[:, :, sy]).astype(np.float32)


#: Positions along an axis: a slice is a view where an index array is a copy.
_Positions: TypeAlias = slice | NDArray[np.intp]


@lru_cache(maxsize=1000)
def _corners(boxes: Boxes, shape: tuple[int, int]) -> tuple[_Positions, ...]:
    """Where the boxes begin and end, in x and in y."""
    out: list[_Positions] = []
    for first, size in zip(boxes.starts(shape), boxes.size, strict=True):
        for index in (first, first + size):
            steps = np.diff(index)
            step = int(steps[0]) if len(steps) else 1
            even = bool((steps == step).all())
            out.append(slice(int(index[0]), int(index[-1]) + 1, step) if even else index)
    return tuple(out)


def plane(shape: Sequence[int]) -> tuple[int, int]:
    """Any histogram's bins seen as a plane: ``(n, 1)`` in 1D, z laid beside y in 3D.

    >>> plane((100,)), plane((34, 72)), plane((4, 5, 6))
    ((100, 1), (34, 72), (4, 30))
    """
    return int(shape[0]), int(np.prod(shape[1:], dtype=np.int64))


def all_boxes(shape: tuple[int, int], modules: Sequence[tuple[int, int]] = ()) -> tuple[Boxes, ...]:
    """Boxes to scan a plane with: dyadic sizes, strips across it, and sizes of known modules.

    Large planes get squares and a coarser grid, so that the work stays about 10 times the bins.
    """
    nx, ny = shape
    if ny == 1:
        sizes = [(w, 1) for w in (1, 2, 4, 8, 16, 32) if w <= max(nx // 2, 1)]
        return tuple(Boxes(s, (max(s[0] // 4, 1), 1)) for s in sizes)
    large = nx * ny > 10_000
    dyadic = [1, 2, 4, 8, 16]
    sizes = [
        (a, b)
        for a in dyadic
        for b in dyadic
        if a <= 0.8 * nx and b <= 0.8 * ny
        if (a == b if large else max(a, b) <= 4 * min(a, b))
    ]
    if large:
        sizes += [s for s in ((4, 16), (16, 4)) if s[0] <= nx and s[1] <= ny]
    sizes += [(nx, 1), (1, ny)]
    part = 2 if large else 4
    boxes = [
        Boxes(s, (_stride(s[0], nx, part), _stride(s[1], ny, part))) for s in dict.fromkeys(sizes)
    ]
    boxes += [Boxes((a, b), (a, b)) for a, b in modules if a <= nx and b <= ny]
    return tuple(boxes)


def _stride(size: int, n_bins: int, part: int) -> int:
    return 1 if size in (1, n_bins) else max(size // part, 1)


def integral_image(maps: Floats) -> Floats:
    """Sums over all bins before each corner, ``(n, nx + 1, ny + 1)``, of ``(n, nx, ny)``."""
    n, nx, ny = maps.shape
    # Of a line the last column is asked for: it lies together.
    flat = ny == 1
    out = np.empty((2, n, nx + 1)).transpose(1, 2, 0) if flat else np.empty((n, nx + 1, ny + 1))
    out[:, 0], out[:, :, 0] = 0, 0
    np.cumsum(maps, axis=1, out=out[:, 1:, 1:])
    if not flat:
        np.cumsum(out[:, 1:, 1:], axis=2, out=out[:, 1:, 1:])
    return out


def running(maps: Floats, window: int) -> Floats:
    """Sums over each row and the ``window - 1`` before it, ``(n, ...)``; fewer at the start."""
    if window == 1:
        return maps
    total = np.cumsum(maps, axis=0)
    out = total.copy()
    out[window:] -= total[:-window]
    return out


def pulls(observed: Reals, expected: Reals) -> Singles:
    """Signed root of the Poisson likelihood ratio: normal with width 1, low is negative.

    Source: T.-P. Li and Y.-Q. Ma, ApJ 272 (1983) 317, with the background known.

    >>> pulls(np.array([0.0, 100.0, 110.0]), np.array([20.0, 100.0, 100.0])).round(2)
    array([-6.32,  0.  ,  0.98], dtype=float32)
    """
    excess = (observed - expected).astype(np.float32, copy=False)
    mean = np.maximum(expected.astype(np.float32, copy=False), SMALLEST)
    relative = excess / mean
    # Less than nothing comes from rounding of integral images only.
    ratio = np.maximum(relative + np.float32(1), np.float32(1e-12))
    likelihood = np.log(ratio)
    likelihood *= ratio
    likelihood -= relative
    likelihood *= mean
    likelihood *= np.float32(2)
    # Close to 1 the difference cancels in single precision: it lies between these.
    least = squares(observed, expected)
    relative *= relative
    relative *= np.float32(1 / 3)
    relative += np.float32(1)
    relative *= least
    np.minimum(likelihood, relative, out=likelihood)
    np.maximum(likelihood, least, out=likelihood)
    return np.copysign(np.sqrt(likelihood, out=likelihood), excess)


def squares(observed: Reals, expected: Reals) -> Singles:
    """Squares of pulls by Bernstein's bound: never above those of `pulls`, and cheaper.

    ``d**2 / (m + d / 3)``; source: Boucheron et al., Concentration Inequalities (2013), ch. 2.

    >>> squares(np.array([0.0, 110.0]), np.array([20.0, 100.0])).round(2)
    array([30.  ,  0.97], dtype=float32)
    """
    excess = (observed - expected).astype(np.float32, copy=False)
    variance = excess * np.float32(1 / 3)
    variance += np.maximum(expected.astype(np.float32, copy=False), SMALLEST)
    excess *= excess
    excess /= variance
    return excess


def refined(
    observed: Floats,
    expected: Floats,
    box: Box,
    pull_of: Callable[[Reals, Reals], Singles] = pulls,
) -> Box:
    """Box grown and shrunk at its edges while that makes it stranger: (x0, x1, y0, y1).

    Both maps are ``(nx, ny)``, the box's ends are left out as in slices. The sign of the difference
    is kept.
    """
    nx, ny = observed.shape
    seen, wanted = (integral_image(m[None])[0] for m in (observed, expected))

    def pull(candidates: NDArray[np.intp]) -> Singles:
        x0, x1, y0, y1 = candidates.T
        sums = [m[x1, y1] - m[x0, y1] - m[x1, y0] + m[x0, y0] for m in (seen, wanted)]
        return pull_of(sums[0], sums[1])

    best = np.array(box, dtype=np.intp)
    start = pull(best[None])[0]
    sign, value = np.copysign(1.0, start), abs(float(start))
    steps = [
        s * np.eye(4, dtype=np.intp)[i] for i in range(4) for s in (-8, -4, -2, -1, 1, 2, 4, 8)
    ]
    moves = np.array(
        [*steps, *[a + b for a in steps for b in steps if np.flatnonzero(a) < np.flatnonzero(b)]]
    )
    for _ in range(100):
        around = best + moves
        inside = (
            (around[:, 0] >= 0)
            & (around[:, 1] <= nx)
            & (around[:, 2] >= 0)
            & (around[:, 3] <= ny)
            & (around[:, 0] < around[:, 1])
            & (around[:, 2] < around[:, 3])
        )
        around = around[inside]
        z = sign * pull(around)
        top = int(np.argmax(z))
        if z[top] <= value * (1 + 1e-6):
            break
        best, value = around[top], float(z[top])
    return int(best[0]), int(best[1]), int(best[2]), int(best[3])


def strongest(observed: Floats, expected: Floats) -> Box:
    """Box in which two maps ``(nx, ny)`` differ most, refined: (x0, x1, y0, y1), ends left out."""
    shape = observed.shape[0], observed.shape[1]
    seen, wanted = integral_image(observed[None]), integral_image(expected[None])
    best, value = (0, 1, 0, 1), -1.0
    for boxes in all_boxes(shape):
        z = np.abs(pulls(boxes.sums(seen)[0], boxes.sums(wanted)[0]))
        i, j = np.unravel_index(int(np.argmax(z)), z.shape)
        if z[i, j] > value:
            x, y = boxes.starts(shape)
            best = (int(x[i]), int(x[i]) + boxes.size[0], int(y[j]), int(y[j]) + boxes.size[1])
            value = float(z[i, j])
    return refined(observed, expected, best)
