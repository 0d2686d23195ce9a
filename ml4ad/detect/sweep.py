"""A run is gone through once: the sums of all boxes over all windows, in pieces of few bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ml4ad.detect.boxes import SMALLEST, Boxes, Singles, integral_image
from ml4ad.stack import Floats

#: Values of one array that are worked on together: what fits into a processor's cache,
_PIECE = 100_000
#: and fewest lumisections, that those before them in the windows are not most of the work; of
#: more than the most, the misfit's weights would leave what a float can hold.
_FEWEST_LS, _MOST_LS = 16, 1000
#: Places from whose pulls the misfit is taken.
_N_PLACES = 128


@dataclass(frozen=True)
class Run:
    """Usable lumisections of one run: counts and expected counts ``(n, nx, ny)``.

    ``errors`` of the expected counts are the same for all bins of a box, None where they are
    nothing. Of a profile: pulls, and 1 where there is one.
    """

    counts: Floats
    expected: Floats
    errors: Floats | None = None

    def rows(self, which: slice) -> Run:
        """Some of the lumisections."""
        errors = None if self.errors is None else self.errors[which]
        return Run(self.counts[which], self.expected[which], errors)


@dataclass(frozen=True)
class Sums:
    """What all boxes of one size hold over one window, for some lumisections of a run.

    ``seen`` and ``wanted`` are ``(n, n_x, n_y)``. ``inflation`` is what the error of what is
    wanted multiplies the variance of a pull by, None for 1.
    """

    rows: slice
    scale: int
    seen: Singles
    wanted: Singles
    inflation: Singles | None


def sums(run: Run, all_of: Sequence[Boxes], windows: Sequence[int]) -> Iterator[Sums]:
    """Sums of every size of box and every window, lumisections in order for each.

    Their ``scale`` is ``window * len(all_of) + box``. The error relative to what is wanted changes
    slowly: that of a window's last lumisection stands for the whole window.
    """
    n_ls, nx, ny = run.counts.shape
    before = max(windows) - 1
    tails: dict[int, tuple[Singles, Singles]] = {}
    step = min(max(_FEWEST_LS, _PIECE // (nx * ny)), _MOST_LS)
    for start in range(0, n_ls, step):
        piece = run.rows(slice(start, start + step))
        seen, wanted = integral_image(piece.counts), integral_image(piece.expected)
        errors = None if piece.errors is None else integral_image(piece.errors)
        for i, boxes in enumerate(all_of):
            new = boxes.sums(seen), boxes.sums(wanted)
            variance = None if errors is None else relative_variance(boxes.sums(errors), new[1])
            nothing = np.zeros((before, *new[0].shape[1:]), np.float32)
            old = tails.get(i, (nothing, nothing))
            whole = [np.concatenate(pair) for pair in zip(old, new, strict=True)]
            tails[i] = whole[0][len(whole[0]) - before :], whole[1][len(whole[1]) - before :]
            over = [windowed(each, windows, len(new[0])) for each in whole]
            rows = max(1, _PIECE // new[0][0].size)
            for j, (of_seen, of_wanted) in enumerate(zip(*over, strict=True)):
                for first in range(0, len(of_seen), rows):
                    part = slice(first, first + rows)
                    inflation = None
                    if variance is not None:
                        inflation = variance[part] * of_wanted[part]
                        inflation += np.float32(1)
                    last = min(first + rows, len(of_seen))
                    yield Sums(
                        slice(start + first, start + last),
                        j * len(all_of) + i,
                        of_seen[part],
                        of_wanted[part],
                        inflation,
                    )


def relative_variance(errors: Singles, wanted: Singles) -> Singles:
    """Square of the error over what is wanted."""
    return np.square(errors / np.maximum(wanted, SMALLEST))


def windowed(rows: Singles, windows: Sequence[int], n: int) -> list[Singles]:
    """Sums over each of the last ``n`` rows and those before it, for every window.

    Longer windows are put together of shorter ones: nothing is taken off again, so that single
    precision is enough.

    >>> [w.tolist() for w in windowed(np.arange(6, dtype="f4"), (1, 3), 2)]
    [[4.0, 5.0], [9.0, 12.0]]
    """
    known = {1: rows}
    for window in sorted(set(windows) - {1}):
        n_rows = len(rows) - window + 1
        done = max(known)
        total = known[done][:n_rows].copy()
        while done < window:
            part = max(w for w in known if w <= window - done)
            total += known[part][done : done + n_rows]
            done += part
        known[window] = total
    return [known[window][len(known[window]) - n :] for window in windows]


class Misfit:
    """How badly a template fits a run everywhere: what pulls of that run are divided by.

    For every scale: the usual size of the pulls at all places, over the lumisections before, never
    below 1. A run unlike those that the template learned from is so judged by its own measure, and
    a change within it still stands out at once. In the first lumisection its own pulls are taken.
    """

    def __init__(self, half_life: float) -> None:
        self.forget = 0.5 ** (1 / max(half_life, 1.0))
        self.sums: dict[int, tuple[float, float]] = {}

    def factors(self, scale: int, squares: Singles) -> Floats:
        """Divisors ``(n,)`` for the next lumisections, given squared pulls ``(n, ...)``."""
        flat = squares.reshape(len(squares), -1)
        some = flat[:, :: max(1, flat.shape[1] // _N_PLACES)]
        middle = some.shape[1] // 2
        usual = np.sqrt(np.partition(some, middle, axis=1)[:, middle].astype(np.float64)) / 0.6745
        seen, weight = self.sums.get(scale, (float(usual[0]), 1.0))
        decay = self.forget ** np.arange(len(usual) + 1)
        past = decay * (seen + np.append(0.0, np.cumsum(usual / decay[1:])))
        weights = decay * weight + (1 - decay) / (1 - self.forget)
        self.sums[scale] = float(past[-1]), float(weights[-1])
        return np.maximum(past[:-1] / weights[:-1], 1)
