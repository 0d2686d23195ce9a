"""Distance to the nearest known-good lumisections: the judge of the whole histogram."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ml4ad.detect.base import (
    Detector,
    Explanation,
    Place,
    Reference,
    Training,
    describe,
)
from ml4ad.detect.boxes import plane, strongest
from ml4ad.detect.calibrate import Tail
from ml4ad.stack import Axis, Floats, HistogramStack, Ints

# Falling edges are sought, and histograms laid on each other, on this many bins up to twice the
# edge. Twenty to forty give the same results on real pixel charge.
_ALIGNED_BINS = 20
_ALIGNED_TO = 2.0


def falling_edge(counts: Floats, smooth: int = 3) -> Floats:
    """Where each histogram last falls below half of its maximum, in bins, ``(n,)``.

    ``counts`` is ``(n, n_bins)``; a running mean over ``smooth`` bins is taken first.

    >>> falling_edge(np.array([[0.0, 4.0, 4.0, 4.0, 0.0, 0.0, 0.0]]), smooth=1)
    array([4.])
    """
    n_bins = counts.shape[1]
    total = np.pad(np.cumsum(counts, axis=1, dtype=np.float64), [(0, 0), (1, 0)])
    first = np.maximum(np.arange(n_bins) - smooth // 2, 0)
    last = np.minimum(np.arange(n_bins) + smooth // 2 + 1, n_bins)
    mean = (total[:, last] - total[:, first]) / smooth
    half = mean.max(axis=1, keepdims=True) / 2
    at = n_bins - 1 - np.argmax((mean >= half)[:, ::-1], axis=1)
    rows = np.arange(len(counts))
    here, after = mean[rows, at], mean[rows, np.minimum(at + 1, n_bins - 1)]
    drop = np.maximum(here - after, 1e-12)
    return at + 0.5 + np.clip((here - half[:, 0]) / drop, 0, 1)


def _cumulated(counts: Floats, positions: Floats) -> Floats:
    """Fraction of the entries below each position (in bins), linear inside a bin."""
    total = np.pad(np.cumsum(counts, axis=1, dtype=np.float64), [(0, 0), (1, 0)])
    total /= np.maximum(total[:, -1:], 1e-12)
    inside = np.clip(positions, 0, counts.shape[1] - 1e-9)
    whole = inside.astype(np.intp)
    part = inside - whole
    rows = np.arange(len(counts))[:, None]
    return total[rows, whole] * (1 - part) + total[rows, whole + 1] * part


def aligned(counts: Floats, first: float = 0.0, reach: float = _ALIGNED_TO) -> Floats:
    """Fractions between multiples of the falling edge, ``(n, 21)``: the shape without its scale.

    The axis begins ``first`` bins above 0. Multiples go up to ``reach``; where that is less than 2,
    the axis ends too early for all of the shape, and fractions are of what lies below.
    """
    grid = np.linspace(0, reach, _ALIGNED_BINS + 1)
    edge = falling_edge(counts)[:, None] + first
    below = _cumulated(counts, edge * grid - first)
    whole = 1.0 if reach >= _ALIGNED_TO else np.maximum(below[:, -1:], 1e-12)
    return np.maximum(np.diff(below / whole, axis=1, append=1.0), 0)


def has_scale(counts: Floats, axes: tuple[Axis, ...]) -> bool:
    """Whether the histograms are a peak with a falling edge on an axis from about 0, as of charge.

    Only then does the scale of the axis mean a gain that may drift. The edge must lie inside, and
    little be left at the end of the axis.
    """
    if len(axes) != 1 or axes[0].n_bins < _ALIGNED_BINS:
        return False
    if any(axes[0].labels) or not np.allclose(axes[0].widths, axes[0].widths[0]):
        return False
    edges = falling_edge(counts) / axes[0].n_bins
    start = axes[0].edges[0] / (axes[0].edges[-1] - axes[0].edges[0])
    if not 0 <= start < 0.25 * np.median(edges):
        return False
    mean = counts.mean(axis=0)
    peak = int(np.argmax(mean))
    ends = np.mean(mean[-3:]) < 0.1 * mean[peak] and np.mean(mean[:1]) < 0.5 * mean[peak]
    low, high = np.quantile(edges, [0.02, 0.98])
    return bool(ends and low > 0.1 and high < 0.9 and high < 2 * low)


_MANY_RUNS = 8
_BESIDE = 20


@dataclass(frozen=True)
class _Match:
    """Nearest point for each row: squared distance, two known-good rows and the second's share."""

    squared: Floats
    first: NDArray[np.intp]
    second: NDArray[np.intp]
    share: Floats


class NearestReference(Detector):
    """Squared distance to the nearest known-good lumisection, in units of what is expected.

    Histograms are compared as sqrt(p), whose Euclidean distance is Hellinger's and whose noise is
    ``1 / (4 N)`` in every bin. The nearest lumisection of each run is found, and of the nearest
    ``n_runs`` of them the nearest *mixture of two*: conditions that lie between those of two good
    runs are good. The squared distance is divided by its expectation, the noise of N entries and
    a ``tolerance``: the relative systematic error of a bin's share. 1 is as expected.

    ``scale_free`` (None: where the histograms are a peak on an axis from 0) first divides each axis
    by its histogram's falling edge: a gain drifts slowly and harmlessly, what `Scan` sees at once
    when it jumps. Of histograms of more than 200 bins ``n_components`` principal components are
    kept: a fault of few bins is for `Scan` to find.

    ``max_references`` known-good lumisections are kept. One that is far from all of other lumi-
    sections (p below ``clean``, as a fault certified good by mistake) is no reference.
    """

    lookback: ClassVar[int | None] = 0
    _histogram_bytes: ClassVar[int] = 64_000_000

    def __init__(
        self,
        *,
        scale_free: bool | None = None,
        tolerance: float = 0.02,
        n_runs: int = 5,
        n_components: int = 12,
        max_references: int = 2000,
        clean: float = 1e-6,
        min_entries: float = 100.0,
    ) -> None:
        self.scale_free = scale_free
        self.tolerance = tolerance
        self.n_runs = n_runs
        self.n_components = n_components
        self.max_references = max_references
        self.clean = clean
        self.min_entries = min_entries

    # -- fit -------------------------------------------------------------------------------------

    def _fit(self, training: Training, conditions: pd.DataFrame | None) -> None:  # noqa: ARG002
        counts = training.counts.reshape(len(training), -1)
        axes = training.stacks[0].axes
        if self.scale_free and len(axes) != 1:
            raise ValueError(f"scale_free wants one axis, {self.me_} has {len(axes)}")
        self.scaled_ = has_scale(counts, axes) if self.scale_free is None else self.scale_free
        # Beginning of the axis in bins above 0, and how many times the edge it reaches.
        width = float(axes[0].widths[0])
        self.first_bin_ = float(axes[0].edges[0]) / width if self.scaled_ else 0.0
        self.reach_ = self._reach(counts) if self.scaled_ else 0.0
        keep = self._chosen(training, counts.shape[1])
        counts = counts[keep]
        runs, numbers = training.run_numbers[keep], training.ls_numbers[keep]
        roots = self._roots(counts)
        self._fit_components(roots, counts.sum(axis=1))
        points = self._points(roots)
        good = self._clean(points, counts.sum(axis=1), runs, numbers)
        self.points_ = points[good].astype(np.float32)
        self.reference_runs_ = runs[good]
        self.reference_ls_ = numbers[good]
        self.reference_entries_ = counts[good].sum(axis=1)
        self.reference_counts_ = counts[good].astype(np.float32)

    def _chosen(self, training: Training, n_bins: int) -> NDArray[np.intp]:
        """Rows to keep as references: all, or evenly spread over the lumisections of every run."""
        most = max(50, min(self.max_references, self._histogram_bytes // (4 * n_bins)))
        if len(training) <= most:
            return np.arange(len(training))
        return np.unique(np.linspace(0, len(training) - 1, most).astype(np.intp))

    def _reach(self, counts: Floats) -> float:
        edge = float(np.quantile(falling_edge(counts), 0.98)) + self.first_bin_
        return min(_ALIGNED_TO, 0.98 * (counts.shape[1] + self.first_bin_) / edge)

    def _roots(self, counts: Floats) -> Floats:
        entries = counts.sum(axis=1, keepdims=True)
        if self.scaled_:
            return np.sqrt(aligned(counts, self.first_bin_, self.reach_) + 0.375 / entries)
        return np.sqrt((counts + 0.375) / (entries + 0.375 * counts.shape[1]))

    def _fit_components(self, roots: Floats, entries: Floats) -> None:
        self.center_ = roots.mean(axis=0)
        self.components_ = np.empty((0, roots.shape[1]))
        if roots.shape[1] <= 200:
            return
        centred = (roots - self.center_) * np.sqrt(4 * entries)[:, None]
        # A fault among the good must not become a component.
        spread = np.median(np.abs(centred), axis=0) * 1.4826
        limit = 4 * np.maximum(spread, 0.1)
        centred = np.clip(centred, -limit, limit).astype(np.float32)
        gram = (centred @ centred.T).astype(np.float64)
        values, vectors = np.linalg.eigh(gram)
        top = np.argsort(-values)[: self.n_components]
        top = top[values[top] > 1e-9 * values.max()]
        self.components_ = (vectors[:, top].T @ centred) / np.sqrt(values[top])[:, None]

    def _points(self, roots: Floats) -> Floats:
        """Roots, or their principal components, ``(n, n_dimensions)``."""
        centred = roots - self.center_
        return centred @ self.components_.T if len(self.components_) else centred

    def _clean(self, points: Floats, entries: Floats, runs: Ints, numbers: Ints) -> NDArray[Any]:
        """Which lumisections have others like them, elsewhere than just beside them."""
        good = np.ones(len(points), dtype=bool)
        if len(points) < 50:
            return good
        square = _squared_distances(points, points)
        beside = (runs[:, None] == runs) & (np.abs(numbers[:, None] - numbers) <= 10)
        square[beside] = np.inf
        lonely = np.isinf(square).all(axis=1)
        nearest = np.partition(square, 2, axis=1)[:, 2]
        ratio = np.log(np.maximum(nearest / self._expected(entries), 1e-12))
        ratio[~np.isfinite(ratio)] = np.nan
        if np.isfinite(ratio).sum() < 50 or np.nanstd(ratio) < 1e-9:
            return good
        strange = Tail.fit(ratio).p_values(ratio) < self.clean
        # Partial lumisections are few by nature, and each looks its own way.
        _, of_run = np.unique(runs, return_inverse=True)
        usual = np.array([np.median(entries[of_run == i]) for i in range(of_run.max() + 1)])
        good[strange & ~lonely & (entries > usual[of_run] / 2)] = False
        # More than a tenth is no mistake, but another kind of good.
        return good if good.mean() >= 0.9 else np.ones(len(points), dtype=bool)

    # -- score -----------------------------------------------------------------------------------

    def _expected(self, entries: Floats) -> Floats:
        """Squared distance of two histograms that differ by noise and tolerance alone, ``(n,)``."""
        n_dimensions = len(self.components_) or len(self.center_)
        return n_dimensions / (4 * entries) + self.tolerance**2 / 4

    def _match(self, points: Floats, allowed: NDArray[np.bool_] | None = None) -> _Match:
        """Nearest mixture of two runs' nearest lumisections, for each of ``points``.

        ``allowed`` ``(n, n_references)`` says which references may be used for which point.
        """
        known = self.points_.astype(np.float64)
        square = _squared_distances(points, known)
        if allowed is not None:
            square[~allowed] = np.inf
        runs = np.unique(self.reference_runs_)
        of_run = [np.flatnonzero(self.reference_runs_ == run) for run in runs]
        best = np.stack([rows[np.argmin(square[:, rows], axis=1)] for rows in of_run], axis=1)
        nearest = np.take_along_axis(square, best, axis=1)
        order = np.argsort(nearest, axis=1, kind="stable")[:, : self.n_runs]
        best = np.take_along_axis(best, order, axis=1)
        nearest = np.take_along_axis(nearest, order, axis=1)
        away = points[:, None] - known[best]
        gram = away @ away.transpose(0, 2, 1)
        exact = gram[:, 0, 0].copy()
        exact[~np.isfinite(nearest[:, 0])] = np.inf
        out = _Match(exact, best[:, 0].copy(), best[:, 0].copy(), np.zeros(len(best)))
        for j in range(best.shape[1]):
            for i in range(j):
                # The nearest point of the line between two references, seen from the first.
                along = gram[:, i, i] - gram[:, i, j]
                length = np.maximum(along + gram[:, j, j] - gram[:, i, j], 1e-30)
                share = np.clip(along / length, 0, 1)
                square = np.maximum(gram[:, i, i] - share * (2 * along - share * length), 0)
                nearer = np.isfinite(nearest[:, j]) & (square < out.squared)
                out.squared[nearer], out.share[nearer] = square[nearer], share[nearer]
                out.first[nearer], out.second[nearer] = best[nearer, i], best[nearer, j]
        return out

    def _score(
        self,
        stack: HistogramStack,
        rows: NDArray[np.intp],
        conditions: pd.DataFrame | None,  # noqa: ARG002
    ) -> Floats:
        counts = stack.values()[rows].reshape(len(rows), -1).astype(np.float64)
        return self._ratio(counts, self._others(stack, rows))

    def _others(self, stack: HistogramStack, rows: NDArray[np.intp]) -> NDArray[np.bool_] | None:
        """References that may be compared with, ``(n, n_references)``; None: all.

        Of a run that was learned from those of `training_scores`, if there are any: nothing is
        compared with itself.
        """
        same = self.reference_runs_ == stack.run_number
        if not same.any():
            return None
        allowed = np.tile(~same, (len(rows), 1))
        if len(np.unique(self.reference_runs_)) < _MANY_RUNS:
            allowed |= np.abs(stack.ls_numbers[rows, None] - self.reference_ls_) > _BESIDE
        allowed[~allowed.any(axis=1)] = True
        return allowed

    def _ratio(self, counts: Floats, allowed: NDArray[np.bool_] | None) -> Floats:
        scores = np.empty(len(counts))
        step = max(1, 4_000_000 // max(counts.shape[1], len(self.points_)))
        for start in range(0, len(counts), step):
            part = slice(start, start + step)
            match = self._match(
                self._points(self._roots(counts[part])), None if allowed is None else allowed[part]
            )
            scores[part] = match.squared / self._expected(counts[part].sum(axis=1))
        return scores

    def training_scores(
        self,
        training: Training,
        conditions: pd.DataFrame | None = None,  # noqa: ARG002
    ) -> Floats:
        """Scores of the training lumisections against references of other groups only, ``(n,)``.

        With fewer than 8 runs, against references that are not within 20 lumisections: leaving out
        one run of a few takes away too much of what is known.
        """
        counts = training.counts.reshape(len(training), -1)
        # A reference belongs to the group of its run, or of the part of the only run.
        key = training.run_numbers * 100_000 + training.ls_numbers
        reference = self.reference_runs_ * 100_000 + self.reference_ls_
        order = np.argsort(key)
        at = order[np.searchsorted(key[order], reference)]
        if len(np.unique(training.run_numbers)) < _MANY_RUNS:
            allowed = np.abs(key[:, None] - reference) > _BESIDE
        else:
            allowed = training.group[:, None] != training.group[at]
        scores = self._ratio(counts, allowed)
        scores[~allowed.any(axis=1) | ~np.isfinite(scores)] = np.nan
        return scores

    def strain(self, scores: Floats) -> Floats:
        """Distances: roots of the scores."""
        return np.sqrt(scores)

    # -- explain ---------------------------------------------------------------------------------

    def _explain(
        self, stack: HistogramStack, at: int, conditions: pd.DataFrame | None
    ) -> Explanation:
        counts = stack.values()[at].astype(np.float64)
        flat = counts.reshape(1, -1)
        others = self._others(stack, np.array([at]))
        match = self._match(self._points(self._roots(flat)), others)
        used = [int(match.first[0]), int(match.second[0])]
        shares = np.array([1 - match.share[0], match.share[0]])
        if used[0] == used[1] or shares[1] < 0.01:
            used, shares = used[:1], np.ones(1)
        references = self.reference_counts_[used].astype(np.float64)
        if self.scaled_:
            references = _stretched(references, falling_edge(flat)[0], self.first_bin_)
        shape = references / references.sum(axis=1, keepdims=True)
        expected = (shares @ shape * counts.sum()).reshape(counts.shape)
        shape2 = plane(counts.shape)
        x0, x1, y0, y1 = strongest(counts.reshape(shape2), expected.reshape(shape2))
        seen = float(counts.reshape(shape2)[x0:x1, y0:y1].sum())
        wanted = float(expected.reshape(shape2)[x0:x1, y0:y1].sum())
        nearest = [used[i] for i in np.argsort(-shares, kind="stable")]
        return describe(
            stack,
            int(stack.ls_numbers[at]),
            float(self._score(stack, np.array([at]), conditions)[0]),
            place_of(stack, (x0, x1, y0, y1)),
            seen,
            wanted,
            reference=Reference(
                tuple((int(self.reference_runs_[i]), int(self.reference_ls_[i])) for i in nearest),
                expected,
            ),
        )


def place_of(stack: HistogramStack, box: tuple[int, int, int, int]) -> Place:
    """Place of a box of `plane` bins (x0, x1, y0, y1; ends left out) on the stack's axes."""
    x0, x1, y0, y1 = box
    bins = [(x0, x1 - 1), (y0, y1 - 1)][: len(stack.axes)]
    if len(stack.axes) == 3:
        n_z = stack.axes[2].n_bins
        whole = (y1 - 1) // n_z != y0 // n_z
        bins[1] = (y0 // n_z, (y1 - 1) // n_z)
        bins.append((0, n_z - 1) if whole else (y0 % n_z, (y1 - 1) % n_z))
    return Place.of(stack.axes, bins)


def _squared_distances(points: Floats, others: Floats) -> NDArray[np.float32]:
    # Single precision finds the nearest; points are centred, their distance is then taken exactly.
    square = points.astype(np.float32) @ (-2 * others.T).astype(np.float32)
    square += (points**2).sum(axis=1)[:, None].astype(np.float32)
    square += (others**2).sum(axis=1).astype(np.float32)
    return np.maximum(square, np.float32(0), out=square)


def _stretched(counts: Floats, edge: float, first: float) -> Floats:
    """Histograms with their axis stretched so that the falling edge lies at ``edge`` bins."""
    grid = np.arange(counts.shape[1] + 1) + first
    factors = (falling_edge(counts)[:, None] + first) / (edge + first)
    return np.diff(_cumulated(counts, grid * factors - first), axis=1) * counts.sum(
        axis=1, keepdims=True
    )
