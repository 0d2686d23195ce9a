"""Profiles: a bin holds a mean with an error, so pulls are Gaussian, and scanned like counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ml4ad.detect.base import Explanation, Reference, Training, describe
from ml4ad.detect.boxes import Reals, Singles, running
from ml4ad.detect.nearest import place_of
from ml4ad.detect.scan import Scan, onset
from ml4ad.detect.sweep import Run
from ml4ad.detect.template import HOLD, Held
from ml4ad.stack import Floats, HistogramStack

#: Lumisections' worth of zero pulls that the rolling baseline starts from.
_STIFF_LS = 10.0


class Profiles(Scan):
    """Pulls of a profile's bins, ``(mean - expected) / error``, in the same boxes as `Scan`'s.

    Expected is the mean of the known-good lumisections, weighted by their errors, as a parabola of
    the condition ``column`` where conditions are known; the error is that of the bin's mean and the
    scatter of good lumisections together, or where a bin holds too little to have an error, the
    usual spread of its entries. Bins without entries say nothing. Score and calibration are
    `Scan`'s, and so is the rolling baseline, in units of the pull.
    """

    counts_only: ClassVar[bool] = False

    def _check_kind(self, stack: HistogramStack) -> None:
        if not stack.is_profile:
            raise ValueError(f"{stack.me} is a {stack.kind}: Profiles takes profiles, not counts")

    def _prepare(self, training: Training) -> Floats:
        """Values and variances side by side, ``(n, 2, d)``."""
        self._check_kind(training.stacks[0])
        parts = [self._data(s, r) for s, r in zip(training.stacks, training.rows, strict=True)]
        data = np.concatenate(parts)
        self.entry_variance_ = _entry_variance(training)
        filled = np.isfinite(data[:, 0]).sum(axis=0)
        if (filled >= 5).sum() < 1:
            raise ValueError(f"{self.me_}: no bin is filled in five lumisections")
        return data

    def _data(self, stack: HistogramStack, rows: NDArray[np.intp]) -> Floats:
        self._check_kind(stack)
        weights = stack.sum_of_weights
        assert weights is not None  # noqa: S101 (for the type checker)
        values = stack.values()[rows].reshape(len(rows), -1)
        variances = stack.variances()[rows].reshape(len(rows), -1)
        if hasattr(self, "entry_variance_"):
            inner = weights[(slice(None), *[slice(1, -1)] * len(stack.axes))][rows]
            with np.errstate(divide="ignore", invalid="ignore"):
                usual = self.entry_variance_ / inner.reshape(len(rows), -1)
            # The spread of two or three entries says little of their error.
            variances = np.fmax(variances, usual)
        return np.stack([values, variances], axis=1)

    def _fit_expected(self, data: Floats, known: Floats | None) -> Any:
        return MeanTemplate.fit(data, known)

    def _learned(self) -> Any:
        return MeanTemplate(**{k: getattr(self, f"mean_{k}_") for k in MeanTemplate.FIELDS})

    def _keep(self, template: Any) -> None:
        for name in MeanTemplate.FIELDS:
            setattr(self, f"mean_{name}_", getattr(template, name))

    def _learn_baseline(self, runs: Sequence[tuple[Floats, Any, Floats | None]]) -> None:
        """The scatter of good lumisections is in the template's errors already."""

    def _run(
        self, data: Floats, template: Any, known: Floats | None, held: Sequence[Held] = ()
    ) -> Run:
        residual, filled = template.residuals(data, known)
        forget = 0.5 ** (1 / self.half_life)
        seen, n = np.zeros(data.shape[2]), np.full(data.shape[2], _STIFF_LS)
        corrected = np.empty_like(residual)
        for i in range(len(residual)):
            shift = seen / n
            corrected[i] = np.where(filled[i], residual[i] - shift, 0.0)
            clipped = np.clip(corrected[i], -3, 3)
            for since, bins in held:
                if (
                    i >= since
                    and abs(self._pulls(corrected[i, bins].sum(), filled[i, bins].sum())) > HOLD
                ):
                    clipped[bins] = 0
            seen = forget * seen + np.where(filled[i], shift + clipped, 0)
            n = forget * n + filled[i] + (1 - forget) * _STIFF_LS
        shape = (len(data), *self.plane_)
        return Run(corrected.reshape(shape), filled.astype(np.float64).reshape(shape))

    def _without_dead_bins(self, run: Run) -> Run | None:  # noqa: ARG002
        return None

    def _pulls(self, seen: Reals, wanted: Reals) -> Singles:
        return (seen / np.sqrt(np.maximum(wanted, 0.5))).astype(np.float32)

    def _squares(self, seen: Reals, wanted: Reals) -> Singles:
        return np.square(self._pulls(seen, wanted))

    def channels(
        self, stack: HistogramStack, conditions: pd.DataFrame | None = None
    ) -> pd.DataFrame:
        """Separate channels, a row per lumisection: ``shape`` (the score) and ``slow``.

        ``slow`` is the mean squared pull of the last 10 lumisections without rolling baseline.
        """
        self._check_fitted(stack)
        out = pd.DataFrame(
            np.nan,
            index=pd.Index(stack.ls_numbers, name="ls_number"),
            columns=["shape", "slow"],
        )
        rows = np.flatnonzero(self._unusable(stack) == "")
        out["shape"] = self.score_samples(stack, conditions)
        known = self._condition(stack, rows, conditions)
        if known is not None:
            rows, known = rows[np.isfinite(known)], known[np.isfinite(known)]
        if len(rows):
            residual, filled = self._learned().residuals(self._data(stack, rows), known)
            seen, n = running(residual, 10), running(filled.astype(np.float64), 10)
            z = np.where(n > 0, seen / np.sqrt(np.maximum(n, 1)), np.nan)
            out.loc[stack.ls_numbers[rows], "slow"] = np.nanmean(np.minimum(z**2, 25), axis=1)
        return out

    def _explanation(
        self,
        stack: HistogramStack,
        rows: NDArray[np.intp],
        run: Run,
        box: tuple[int, int, int, int],
        window: int,
        score: float,
        conditions: pd.DataFrame | None,
    ) -> Explanation:
        x0, x1, y0, y1 = box
        pulls_of = run.counts[:, x0:x1, y0:y1].sum(axis=(1, 2))
        filled = run.expected[:, x0:x1, y0:y1].sum(axis=(1, 2))
        back, n = np.cumsum(pulls_of[::-1]), np.cumsum(filled[::-1])
        began = onset(back / np.sqrt(np.maximum(n, 0.5)), window)
        last = rows[-1:]
        data = self._data(stack, last)
        expected = self._learned().expected(self._condition(stack, last, conditions), 1)[0]
        shape = self.plane_
        cut = np.s_[x0:x1, y0:y1]
        value, mean = data[0, 0].reshape(shape)[cut], expected.reshape(shape)[cut]
        weight = np.where(np.isfinite(value), 1 / data[0, 1].reshape(shape)[cut], 0.0)
        weight = np.where(np.isfinite(weight), weight, 0.0)
        total = max(float(weight.sum()), 1e-300)
        return describe(
            stack,
            int(stack.ls_numbers[rows[-1]]),
            score,
            place_of(stack, box),
            float((np.nan_to_num(value) * weight).sum() / total),
            float((mean * weight).sum() / total),
            since=int(stack.ls_numbers[rows[began]]),
            reference=Reference(
                ((stack.run_number, int(stack.ls_numbers[rows[-1]])),),
                expected.reshape(tuple(axis.n_bins for axis in stack.axes)),
            ),
            what="mean",
        )


class MeanTemplate:
    """Expected mean of every bin as a parabola of the condition, with the scatter around it.

    ``coefficients`` is ``(1 or 3, d)``, ``scatter`` ``(d,)`` the variance beyond the errors.
    """

    FIELDS: ClassVar[tuple[str, ...]] = ("coefficients", "scatter", "center", "width", "known")

    def __init__(
        self,
        coefficients: Floats,
        scatter: Floats,
        center: float,
        width: float,
        known: NDArray[np.bool_],
    ) -> None:
        self.coefficients = coefficients
        self.scatter = scatter
        self.center = center
        self.width = width
        self.known = known

    @classmethod
    def fit(cls, data: Floats, condition: Floats | None) -> MeanTemplate:
        """Template of ``data`` ``(n, 2, d)``, values and variances; outliers are pulled in."""
        values, variances = data[:, 0], data[:, 1]
        good = np.isfinite(values) & np.isfinite(variances) & (variances > 0)
        center, width = 0.0, 1.0
        if condition is not None:
            center, width = float(np.median(condition)), float(np.std(condition)) or 1.0
        out = cls(np.empty((0, 0)), np.empty(0), center, width, good.sum(axis=0) >= 5)
        basis = out._basis(condition, len(values))
        weight = np.where(good, 1 / np.where(good, variances, 1.0), 0.0)
        target = np.where(good, values, 0.0)
        scatter = np.zeros(values.shape[1])
        for _ in range(4):
            # One small least-squares problem per bin, all at once; the ridge keeps it solvable.
            normal = np.einsum("ni,nd,nj->dij", basis, weight, basis)
            size = np.maximum(normal[:, 0, 0], 1e-300)
            normal += 1e-6 * size[:, None, None] * np.eye(basis.shape[1])
            right = np.einsum("ni,nd,nd->di", basis, weight, target)
            out.coefficients = np.linalg.solve(normal, right[..., None])[..., 0].T
            model = basis @ out.coefficients
            residual = np.where(good, values - model, 0.0)
            limit = 3 * np.sqrt(np.where(good, variances, 1.0) + scatter)
            clipped = np.clip(residual, -limit, limit)
            target = np.where(good, model + clipped, 0.0)
            n = np.maximum(good.sum(axis=0), 1)
            excess = (clipped**2 - np.where(good, variances, 0.0)).sum(axis=0) / n
            scatter = np.maximum(excess, 0)
            weight = np.where(good, 1 / (np.where(good, variances, 1.0) + scatter), 0.0)
        out.scatter = scatter
        return out

    def _basis(self, condition: Floats | None, n: int) -> Floats:
        if condition is None:
            return np.ones((n, 1))
        c = np.clip((condition - self.center) / self.width, -3, 3)
        return np.stack([np.ones(n), c, c**2], axis=1)

    def expected(self, condition: Floats | None, n: int) -> Floats:
        """Expected means ``(n, d)``."""
        return self._basis(condition, n) @ self.coefficients

    def residuals(self, data: Floats, condition: Floats | None) -> tuple[Floats, NDArray[np.bool_]]:
        """Pulls ``(n, d)``, 0 where there is none, and where there is one."""
        values, variances = data[:, 0], data[:, 1] + self.scatter
        filled = np.isfinite(values) & np.isfinite(variances) & (variances > 0) & self.known
        residual = np.where(filled, values - self.expected(condition, len(values)), 0.0)
        # One bin cannot carry a whole box.
        pull = np.clip(residual / np.sqrt(np.where(filled, variances, 1.0)), -12, 12)
        return pull, filled


def _entry_variance(training: Training) -> Floats:
    """Usual variance of single entries in every bin ``(d,)``: that of all together."""
    total, sums, squares = 0.0, 0.0, 0.0
    for stack, rows in zip(training.stacks, training.rows, strict=True):
        inside = (slice(None), *[slice(1, -1)] * len(stack.axes))
        assert stack.sum_of_weights is not None and stack.sumw2 is not None  # noqa: S101, PT018
        total = total + stack.sum_of_weights[inside][rows].sum(axis=0)
        sums = sums + stack.contents[inside][rows].sum(axis=0)
        squares = squares + stack.sumw2[inside][rows].sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = np.asarray(squares / total - (sums / total) ** 2, dtype=np.float64).ravel()
    return np.nan_to_num(np.maximum(variance, 0), nan=0.0, posinf=0.0)
