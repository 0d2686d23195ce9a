"""From scores to p-values, and from a number of false alarms to a threshold on them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ml4ad.stack import Floats

#: Lumisections of 23.31 s in a shift of 8 hours.
LS_PER_SHIFT = 1236
MIN_CALIBRATION = 20


def alpha(false_alarms: float = 1.0, *, n_elements: int = 1, n_ls: int = LS_PER_SHIFT) -> float:
    """p-value below which to alarm, for a number of false alarms in ``n_ls`` lumisections.

    >>> round(alpha(1, n_elements=100), 8)
    8.09e-06
    """
    if not false_alarms > 0 or n_elements < 1 or n_ls < 1:
        raise ValueError(
            f"{false_alarms} false alarms on {n_elements} elements in {n_ls} LS: want positive"
        )
    return min(false_alarms / (n_elements * n_ls), 1.0)


@dataclass(frozen=True)
class Tail:
    """Gumbel distribution ``P(score > s) = 1 - exp(-exp(-(s - location) / width))``.

    Fitted to the bulk of the scores, so that a few per cent of bad lumisections among the good do
    not move it.
    """

    location: float
    width: float

    @classmethod
    def fit(cls, scores: ArrayLike, *, low: float = 0.1, high: float = 0.9) -> Tail:
        """Tail through the ``low`` to ``high`` quantiles of good lumisections' scores.

        Quantiles of the scores are regressed on those of the distribution; what the fit then calls
        impossible (p below 1e-4) is left out and the fit repeated. Raises ValueError if fewer than
        20 scores are finite, or all are equal.
        """
        values = np.asarray(scores, dtype=np.float64)
        values = np.sort(values[np.isfinite(values)])
        if len(values) < MIN_CALIBRATION:
            raise ValueError(f"{len(values)} scores to calibrate on, want {MIN_CALIBRATION}")
        kept = values
        for _ in range(3):
            tail = cls._through(kept, low, high)
            clean = values[tail.log_p(values) > np.log(1e-4)]
            # What is cut must stay a tail: never more than a tenth.
            clean = clean if len(clean) >= 0.9 * len(values) else values[: int(0.9 * len(values))]
            if len(clean) == len(kept):
                break
            kept = clean
        return tail

    @classmethod
    def _through(cls, ordered: Floats, low: float, high: float) -> Tail:
        levels = (np.arange(len(ordered)) + 0.5) / len(ordered)
        bulk = (levels >= low) & (levels <= high)
        x, y = -np.log(-np.log(levels[bulk])), ordered[bulk]
        width = float(np.mean((x - x.mean()) * (y - y.mean())) / np.mean((x - x.mean()) ** 2))
        if not width > 1e-12 * max(1.0, abs(float(y.mean()))):
            raise ValueError(f"scores to calibrate on are all {y.mean():g}: nothing to tell apart")
        return cls(location=float(y.mean() - width * x.mean()), width=width)

    def log_p(self, scores: ArrayLike) -> Floats:
        """Natural logarithm of the p-value of each score, right far into the tail."""
        return gumbel_log_p(scores, self.location, self.width)

    def p_values(self, scores: ArrayLike) -> Floats:
        """Probability of a good lumisection to score as high; NaN stays NaN."""
        return np.exp(self.log_p(scores))

    def threshold(self, p: float) -> float:
        """Score whose p-value is ``p``."""
        return self.location - self.width * float(np.log(-np.log1p(-p)))


def gumbel_log_p(scores: ArrayLike, location: Floats | float, width: Floats | float) -> Floats:
    """Natural logarithm of the p-values of `Tail`, of many tails at once by broadcasting."""
    y = (np.asarray(scores, dtype=np.float64) - location) / width
    with np.errstate(over="ignore"):
        return np.where(y > 30, -y, np.log(-np.expm1(-np.exp(-np.minimum(y, 30)))))


def harmonic_mean(log_p: ArrayLike, axis: int = 0) -> Floats:
    """Logarithm of the harmonic mean of p-values along ``axis``, NaN left out.

    It is small if any of them is, holds for dependent tests, and costs at most their number.
    Source: D. J. Wilson, PNAS 116 (2019) 1195.

    >>> np.exp(harmonic_mean(np.log([[0.01], [1.0]]))).round(4)
    array([0.0198])
    """
    logs = np.asarray(log_p, dtype=np.float64)
    known = ~np.isnan(logs)
    n = known.sum(axis=axis)
    inverse = np.where(known, -logs, -np.inf)
    top = inverse.max(axis=axis)
    safe = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        total = np.log(np.exp(inverse - np.expand_dims(safe, axis)).sum(axis=axis)) + safe
        return np.where(n > 0, np.minimum(np.log(n) - total, 0.0), np.nan)
