"""What is expected in every bin: a low-rank, condition-aware template and its rolling baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ml4ad.stack import Floats

_WINSOR = 3.0
_MAX_MODES = 8
_MAX_ROWS = 1500
#: Values that are worked on together: what fits into a processor's cache.
_PIECE = 100_000
#: Standard deviations from which on a held place is not learned.
HOLD = 2.0

#: A row, and bins that are not learned from it on while they differ together.
Held: TypeAlias = tuple[int, NDArray[np.intp]]


@dataclass(frozen=True)
class Template:
    """Expected shape ``T(c) = B(c) M + sum_k a_k V_k`` of sqrt(p), with ``B = [1, c, c^2]``.

    ``mean`` is M ``(1 or 3, d)``, ``modes`` V ``(k, d)`` with variances ``mode_variances``;
    ``noise`` is phi, the variance of a bin in units of that of N Poisson entries, ``1 / (4 N)``;
    ``scale`` ``(d,)`` makes the template reproduce the training's counts bin by bin. The
    condition c is standardised with ``center`` and ``width``, and clipped to what was learned.
    """

    mean: Floats
    modes: Floats
    mode_variances: Floats
    noise: float
    scale: Floats
    center: float
    width: float
    low: float
    high: float

    @property
    def conditioned(self) -> bool:
        """Whether a condition is needed."""
        return len(self.mean) > 1

    @classmethod
    def fit(cls, counts: Floats, condition: Floats | None) -> Template:
        """Template of ``counts`` ``(n, d)``; robust against a few per cent of bad histograms.

        ``condition`` ``(n,)`` is finite, or None for a template without.
        Source: the Marchenko-Pastur edge, Mat. Sb. 72 (1967) 507, decides the number of modes.
        """
        n, d = counts.shape
        entries = counts.sum(axis=1)
        roots = square_roots(counts, entries)
        center, width, low, high = 0.0, 1.0, -np.inf, np.inf
        if condition is not None:
            center, width = float(np.median(condition)), float(np.std(condition))
            low, high = (float(v) for v in np.quantile(condition, [0.005, 0.995]))
        basis = _basis(None if condition is None else condition, n, center, width, low, high)
        weight = 2 * np.sqrt(entries)[:, None]
        mean, residuals = _robust_regression(basis, roots, weight)
        limit = _WINSOR * max(float(np.sqrt(np.mean(np.minimum(residuals**2, 9.0)))), 0.1)
        np.clip(residuals, -1.5 * limit, 1.5 * limit, out=residuals)
        modes, variances, noise = _modes(residuals, entries)
        plain = cls(mean, modes, variances, noise, np.ones(d), center, width, low, high)
        expected = plain.expected(counts, condition)
        slack = 4 * np.sqrt(np.maximum(noise, 1.0) * np.maximum(expected, 1.0))
        seen = np.clip(counts, expected - slack, expected + slack).sum(axis=0)
        scale = (np.maximum(seen, 0) + 0.5) / (expected.sum(axis=0) + 0.5)
        return cls(mean, modes, variances, noise, scale, center, width, low, high)

    def expected(self, counts: Floats, condition: Floats | None) -> Floats:
        """Expected counts ``(n, d)`` of histograms ``counts``, given their shape and condition."""
        return self.fitted(counts, condition)[0]

    def fitted(self, counts: Floats, condition: Floats | None) -> tuple[Floats, Floats]:
        """Expected counts ``(n, d)``, and the strength of the modes ``(n, k)`` in each histogram.

        A second pass clips residuals at three standard deviations, so that a fault cannot pull the
        fit; strengths are shrunk by their noise and clipped at four standard deviations.
        """
        step = max(1, _PIECE // counts.shape[1])
        parts = [
            self._fitted(
                counts[i : i + step], None if condition is None else condition[i : i + step]
            )
            for i in range(0, max(len(counts), 1), step)
        ]
        expected, strengths = zip(*parts, strict=True)
        return np.concatenate(expected), np.concatenate(strengths)

    def _fitted(self, counts: Floats, condition: Floats | None) -> tuple[Floats, Floats]:
        n = len(counts)
        entries = counts.sum(axis=1)
        base = _basis(condition, n, self.center, self.width, self.low, self.high) @ self.mean
        strengths = np.zeros((n, len(self.modes)))
        if len(self.modes):
            sigma = np.sqrt(self.noise / (4 * entries))[:, None]
            shrink = self.mode_variances / (self.mode_variances + sigma**2)
            most = 4 * np.sqrt(self.mode_variances)
            residuals = square_roots(counts, entries) - base
            for _ in range(2):
                left = residuals - strengths @ self.modes
                np.clip(left, -_WINSOR * sigma, _WINSOR * sigma, out=left)
                found = left @ self.modes.T + strengths
                strengths = np.clip(found * shrink, -most, most)
            base = base + strengths @ self.modes
        share = np.maximum(base, 0) ** 2 * self.scale
        share /= share.sum(axis=1, keepdims=True)
        return share * _inlier_entries(counts, share, entries, self.noise)[:, None], strengths


def square_roots(counts: Floats, entries: Floats) -> Floats:
    """sqrt(p) with Anscombe's 3/8, whose variance is 1/(4 N) in every bin."""
    return np.sqrt((counts + 0.375) / (entries + 0.375 * counts.shape[1])[:, None])


def _basis(
    condition: Floats | None, n: int, center: float, width: float, low: float, high: float
) -> Floats:
    if condition is None:
        return np.ones((n, 1))
    c = (np.clip(condition, low, high) - center) / (width or 1.0)
    return np.stack([np.ones(n), c, c**2], axis=1)


def _robust_regression(basis: Floats, roots: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """Coefficients, and residuals in units of Poisson noise; outliers pulled in, twice."""
    target = roots
    for _ in range(3):
        mean = np.linalg.lstsq(basis * weight, target * weight, rcond=None)[0]
        model = basis @ mean
        residuals = (roots - model) * weight
        spread = np.sqrt(np.mean(np.minimum(residuals**2, 16.0), axis=0)) + 0.1
        target = model + np.clip(residuals, -_WINSOR * spread, _WINSOR * spread) / weight
    return np.asarray(mean, dtype=np.float64), np.asarray(residuals, dtype=np.float64)


def _modes(residuals: Floats, entries: Floats) -> tuple[Floats, Floats, float]:
    """Modes above the noise, their variances in sqrt(p), and the noise."""
    n, d = residuals.shape
    if n > _MAX_ROWS:
        keep = np.linspace(0, n - 1, _MAX_ROWS).astype(np.intp)
        residuals, entries, n = residuals[keep], entries[keep], _MAX_ROWS
    rows = residuals.astype(np.float32) if d > 2000 else residuals
    gram = rows @ rows.T if n < d else rows.T @ rows
    values, vectors = np.linalg.eigh(gram.astype(np.float64) / n)
    values, vectors = values[::-1], vectors[:, ::-1]
    total = float(values.sum())
    k = min(_MAX_MODES, len(values) // 4)
    noise = max((total - float(values[:k].sum())) / max(d * (1 - k / min(n, d)), 1), 1e-6)
    edge = noise * (1 + np.sqrt(d / n)) ** 2
    k = int((values[:k] > 1.05 * edge).sum())
    modes = vectors[:, :k].T
    if n < d:
        modes = (modes @ rows).astype(np.float64)
        modes /= np.maximum(np.linalg.norm(modes, axis=1, keepdims=True), 1e-12)
    # Noise inflates eigenvalues: take it off, and turn back from units of noise to sqrt(p).
    true = np.maximum(values[:k] - noise * (1 + d / n), 0.05 * values[:k])
    return modes, true / (4 * float(np.mean(entries))), noise


def _inlier_entries(counts: Floats, share: Floats, entries: Floats, noise: float) -> Floats:
    """Number of entries that the bins which follow the template ask for, ``(n,)``."""
    total = entries
    for _ in range(2):
        mean = share * total[:, None]
        inlier = np.abs(counts - mean) < 4 * np.sqrt(max(noise, 1.0) * np.maximum(mean, 0.25))
        covered = (share * inlier).sum(axis=1)
        robust = (counts * inlier).sum(axis=1) / np.maximum(covered, 1e-12)
        total = np.where(covered > 0.3, robust, entries)
    return total


@dataclass(frozen=True)
class Baseline:
    """Rolling correction of the expected counts by what the lumisections before showed.

    ``stiffness`` ``(d,)`` is K: every bin is multiplied by ``(A + K) / (B + K)``, A the counts seen
    and B the counts expected so far in the run, both forgotten with ``half_life`` in lumisections.
    It is learned as the inverse square of how far runs are from a template that did not learn from
    them, so that a run may differ at once by as much as runs do.
    """

    half_life: float
    stiffness: Floats
    noise: float

    #: Largest K: differences between runs below 1 % are not worth correcting.
    HARDEST: ClassVar[float] = 1e4
    SOFTEST: ClassVar[float] = 10.0

    @classmethod
    def learned(
        cls, runs: Sequence[tuple[Floats, Floats]], half_life: float, hardest: float, noise: float
    ) -> Baseline:
        """Baseline from counts and expected counts ``(n, d)`` of runs that were held out."""
        squares, weights = [], []
        for counts, expected in runs:
            seen, wanted = counts.sum(axis=0), np.maximum(expected.sum(axis=0), 1.0)
            # Bins with few counts in all say little: they are pulled to no difference.
            square = np.maximum((seen / wanted - 1) ** 2 - max(noise, 1.0) / wanted, 0)
            squares.append(np.minimum(square, 1.0))
            weights.append(wanted / (wanted + 100.0))
        weight = np.stack(weights)
        spread = (np.stack(squares) * weight).sum(axis=0) / np.maximum(weight.sum(axis=0), 1e-12)
        stiffness = np.clip(1 / np.maximum(spread, 1e-12), min(cls.SOFTEST, hardest), hardest)
        return cls(half_life, stiffness, noise)

    def corrected(
        self, counts: Floats, expected: Floats, held: Sequence[Held] = ()
    ) -> tuple[Floats, Floats | None]:
        """Expected counts corrected, ``(n, d)``, and their errors; None where these are nothing.

        What is seen is clipped at three standard deviations of its noise and of the error of what
        is expected, so that a fault moves the baseline slowly. A place that is ``held``, where a
        fault was found, does not move it at all while it lasts.
        """
        n, d = expected.shape
        forget = 0.5 ** (1 / self.half_life)
        prior = np.maximum(1 / self.stiffness - 1 / self.HARDEST, 0)
        soft = bool((prior > 0).any())
        variance = max(self.noise, 1.0) * np.maximum(expected, 1.0)
        # B + K, for each row of what was before it; K decays and is refilled.
        wanted = np.empty((n, d))
        total = np.zeros(d)
        for i in range(n):
            np.add(total, self.stiffness, out=wanted[i])
            total *= forget
            total += expected[i]
        relative = np.sqrt(prior * self.stiffness / wanted) if soft else None
        # Of the noise, and with the error of what is expected its square.
        slack_of = _WINSOR * np.sqrt(variance) if relative is None else _WINSOR**2 * variance
        per_mean = None if relative is None else _WINSOR * relative
        share = expected / wanted
        out = np.empty((n, d))
        # A + K, in place: this is done for every lumisection.
        total, slack, least = self.stiffness.copy(), np.empty(d), np.empty(d)
        refill = (1 - forget) * self.stiffness
        for i, (mean, clipped) in enumerate(zip(out, np.array(counts, np.float64), strict=True)):
            np.multiply(share[i], total, out=mean)
            if per_mean is None:
                slack = slack_of[i]
            else:
                np.multiply(mean, per_mean[i], out=slack)
                slack *= slack
                slack += slack_of[i]
                np.sqrt(slack, out=slack)
            np.subtract(mean, slack, out=least)
            np.maximum(clipped, least, out=clipped)
            np.add(mean, slack, out=least)
            np.minimum(clipped, least, out=clipped)
            for since, bins in held:
                excess = float(counts[i, bins].sum() - mean[bins].sum())
                error = 0.0 if relative is None else float((mean * relative[i])[bins].sum())
                if i >= since and abs(excess) > HOLD * np.sqrt(variance[i, bins].sum() + error**2):
                    clipped[bins] = mean[bins]
            total *= forget
            total += clipped
            total += refill
        return out, None if relative is None else out * relative
