"""One histogram as lines of text, for a terminal: steps, labelled bars, or shades."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ml4ad.stack import Axis, HistogramStack

_EIGHTHS = " ▁▂▃▄▅▆▇█"
_SHADES = " ·░▒▓█"
_HEIGHT = 16
_MOST_LABELLED = 30


def picture(stack: HistogramStack, width: int | None = None) -> str:
    """All lumisections of a stack together, drawn in ``width`` columns (the terminal's if None)."""
    width = max(shutil.get_terminal_size().columns if width is None else width, 40)
    numbers = stack.ls_numbers
    which = "whole run" if not numbers[-1] else f"{len(numbers)} LS {numbers[0]} to {numbers[-1]}"
    head = [
        stack.me,
        f"{stack.title} · {stack.kind}, run {stack.run_number}, "
        f"{which if len(numbers) != 1 or not numbers[-1] else f'LS {numbers[0]}'}, "
        f"{stack.entries.sum():,.0f} entries",
    ]
    values, axes = _together(stack)
    if values.ndim == 2:
        lines = _map(values, axes[0], axes[1], width)
    elif axes[0].labels and axes[0].n_bins <= _MOST_LABELLED:
        lines = _bars(values, axes[0], width)
    else:
        lines = _steps(values, axes[0], width)
    return "\n".join([*head, "", *lines])


def _together(stack: HistogramStack) -> tuple[NDArray[Any], tuple[Axis, ...]]:
    """Sum (of a profile: mean) over the lumisections and, in 3D, over z; NaN counts as nothing."""
    contents = stack.contents[(slice(None), *[slice(1, -1)] * len(stack.axes))]
    total = contents.sum(axis=0, dtype=np.float64)
    if stack.sum_of_weights is not None:
        inner = stack.sum_of_weights[(slice(None), *[slice(1, -1)] * len(stack.axes))]
        weights = inner.sum(axis=0)
        total = np.divide(total, weights, out=np.zeros_like(total), where=weights != 0)
    if total.ndim == 3:
        total = total.sum(axis=2)
    return np.nan_to_num(total, posinf=0, neginf=0), stack.axes[:2]


def _columns(n_bins: int, room: int) -> NDArray[np.int64]:
    """Bin limits of what each column shows: several bins, or one bin over several columns."""
    if n_bins >= room:
        return np.linspace(0, n_bins, room + 1).astype(np.int64)
    return np.arange(n_bins + 1)


def _steps(values: NDArray[Any], axis: Axis, width: int) -> list[str]:
    room = width - 11
    limits = _columns(len(values), room)
    # The highest bin stands for its column, or a spike would vanish among its neighbours.
    shown = np.maximum.reduceat(values, limits[:-1])
    repeat = max(1, room // len(shown))
    low, high = min(float(shown.min()), 0.0), max(float(shown.max()), 0.0)
    eighths = np.rint((shown - low) / ((high - low) or 1.0) * _HEIGHT * 8).astype(int)
    lines = []
    for row in range(_HEIGHT - 1, -1, -1):
        cells = np.clip(eighths - row * 8, 0, 8)
        value = low + (high - low) * (row + 1) / _HEIGHT
        label = f"{value:9.4g} " if row % 5 == 0 else " " * 10
        lines.append(f"{label}│" + "".join(_EIGHTHS[cell] * repeat for cell in cells))
    n_drawn = repeat * len(shown)
    return [*lines, *_scale(axis, n_drawn)]


def _scale(axis: Axis, n_drawn: int) -> list[str]:
    left, right = f"{axis.edges[0]:g}", f"{axis.edges[-1]:g}"
    spelled = axis.title[: max(0, n_drawn - len(left) - len(right) - 2)]
    middle = spelled.center(max(0, n_drawn - len(left) - len(right)))
    return [" " * 10 + "└" + "─" * n_drawn, " " * 11 + left + middle + right]


def _bars(values: NDArray[Any], axis: Axis, width: int) -> list[str]:
    longest = min(max(map(len, axis.labels)), width // 3)
    room = width - longest - 14
    high = float(np.abs(values).max()) or 1.0
    return [
        f"{label[:longest]:>{longest}} │{'█' * round(abs(value) / high * room)} {value:.6g}"
        for label, value in zip(axis.labels, values.tolist(), strict=True)
    ]


def _map(values: NDArray[Any], x: Axis, y: Axis, width: int) -> list[str]:
    xs, ys = _columns(x.n_bins, width - 11), _columns(y.n_bins, 2 * _HEIGHT)
    coarse = np.add.reduceat(np.add.reduceat(values, xs[:-1], axis=0), ys[:-1], axis=1)
    coarse = np.abs(coarse) / np.outer(np.diff(xs), np.diff(ys))
    high = float(coarse.max()) or 1.0
    shades = np.ceil(coarse / high * (len(_SHADES) - 1)).astype(int)
    repeat = max(1, (width - 11) // coarse.shape[0])
    lines = []
    for j in range(coarse.shape[1] - 1, -1, -1):
        edge = j in (0, coarse.shape[1] - 1)
        label = f"{y.edges[ys[j + 1] if j else 0]:9.4g} " if edge else " " * 10
        lines.append(f"{label}│" + "".join(_SHADES[i] * repeat for i in shades[:, j]))
    legend = f"{' ' * 11}█ {high:.4g} per bin{f', y: {y.title}' if y.title else ''}"
    return [*lines, *_scale(x, repeat * coarse.shape[0]), legend]
