"""A statistics-aware scan for local faults, in space and time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ml4ad.detect.base import Detector, Explanation, Reference, Training, condition, describe
from ml4ad.detect.boxes import (
    FAR,
    SLACK,
    Box,
    Boxes,
    Reals,
    Singles,
    all_boxes,
    integral_image,
    plane,
    pulls,
    refined,
    running,
    squares,
)
from ml4ad.detect.calibrate import Tail, gumbel_log_p
from ml4ad.detect.nearest import place_of
from ml4ad.detect.sweep import Misfit, Run, Sums, relative_variance, sums
from ml4ad.detect.template import Baseline, Held, Template
from ml4ad.stack import Floats, HistogramStack

_TEMPLATE = "template_"
#: Places are shrunk to the median of their scale with the weight of so many lumisections.
_PRIOR_LS = 50.0
#: Scores above which it is asked whether the difference is still there,
_NOTABLE = 2.0
#: not believed of the training,
_DOUBTED = 3.5
#: not asked any more, and not learned by the baseline,
_STRANGE = 5.0
#: and at which a difference elsewhere explains more than counts in dead bins.
_CLEAR = 3.0
#: Most places per run that the baseline is kept from learning.
_MOST_HELD = 20


class Scan(Detector):
    """Poisson, low-rank, condition-aware template and a studentised multi-scale scan.

    Each lumisection is compared with a template of sqrt(p) that follows the condition ``column``
    and the few ways in which good histograms vary, corrected by a rolling baseline of the run
    (``half_life`` in lumisections, at most ``stiffness`` in counts). Pulls of all boxes of bins
    over the last 1, 3, 6 and 10 lumisections are divided by the spread that good lumisections of
    *other* runs have at that place; the largest per size of box and window becomes a p-value. The
    score is -log10 of the p-value of the smallest of these: 3 is one false alarm in a thousand
    lumisections. (Not their harmonic mean: sizes overlap, and it comes out ten times too large.)

    ``modules`` lists sizes ``(nx, ny)`` of known modules, on a grid from the first bin.
    Without conditions at `fit` none are needed; with them a lumisection without is not assessed.
    `channels` gives what is never merged into that p-value: rate, subspace, slow baseline.
    """

    score_kind: ClassVar[str] = "p"
    _calibration_values: ClassVar[int] = 60_000_000

    def __init__(
        self,
        *,
        windows: Sequence[int] = (1, 3, 6, 10),
        half_life: float = 40.0,
        stiffness: float = 1e4,
        modules: Sequence[tuple[int, int]] = (),
        column: str = "pileup",
        min_entries: float = 100.0,
    ) -> None:
        self.windows = windows
        self.half_life = half_life
        self.stiffness = stiffness
        self.modules = modules
        self.column = column
        self.min_entries = min_entries

    # -- fit -------------------------------------------------------------------------------------

    def _fit(self, training: Training, conditions: pd.DataFrame | None) -> None:
        counts = self._prepare(training)
        known = self._known(training, conditions)
        self.conditioned_ = bool(known is not None)
        usable = np.ones(len(training), bool) if known is None else np.isfinite(known)
        self.plane_ = plane(training.counts.shape[1:])
        self._fit_usable(training, counts, known, usable)
        strange = self._strange_training(training)
        # Faults that were certified good by mistake; more than a tenth is another kind of good.
        if 0 < strange.sum() <= 0.1 * usable.sum():
            usable &= ~strange
            self._fit_usable(training, counts, known, usable)

    def _strange_training(self, training: Training) -> NDArray[np.bool_]:
        """Which training lumisections are not believed, ``(n,)``.

        Those that score high, and as a weak fault is seen late, the window before each; this only
        while all together are few.
        """
        rows = self.calibration_rows_[self.calibration_scores_ > _DOUBTED]
        strange = np.zeros(len(training), dtype=bool)
        strange[rows] = True
        before = np.maximum(rows[:, None] - np.arange(max(self.windows)), 0)
        same = training.run_numbers[before] == training.run_numbers[rows][:, None]
        wide = strange.copy()
        wide[before[same]] = True
        return wide if wide.mean() <= 0.1 else strange

    def _fit_usable(
        self, training: Training, counts: Floats, known: Floats | None, usable: NDArray[np.bool_]
    ) -> None:
        self._keep(self._fit_expected(counts[usable], None if known is None else known[usable]))
        held = self._held_out(training, counts, known, usable)
        self._fit_spread(held)
        self._fit_tails(held)

    def _prepare(self, training: Training) -> Floats:
        return training.counts.reshape(len(training), -1)

    def _data(self, stack: HistogramStack, rows: NDArray[np.intp]) -> Floats:
        return stack.values()[rows].reshape(len(rows), int(np.prod(self.plane_))).astype(np.float64)

    def _fit_expected(self, data: Floats, known: Floats | None) -> Any:
        return Template.fit(data, known)

    def _known(self, training: Training, conditions: pd.DataFrame | None) -> Floats | None:
        """Condition of the training lumisections, or None if there is none to speak of."""
        parts = [
            condition(conditions, s, self.column)[r]
            for s, r in zip(training.stacks, training.rows, strict=True)
        ]
        known = np.concatenate(parts)
        enough = np.isfinite(known).sum() >= max(20, len(known) / 2)
        return known if enough and np.nanstd(known) > 0 else None

    def _held_out(
        self, training: Training, counts: Floats, known: Floats | None, usable: NDArray[np.bool_]
    ) -> list[Run]:
        """Runs with what a template of the *other* groups expects of them."""
        plain: list[tuple[Floats, Any, Floats | None]] = []
        self.held_out_: list[NDArray[np.intp]] = []
        # Large maps are calibrated on fewer lumisections, spread over the runs in whole stretches.
        most = max(200, self._calibration_values // (3 * counts.shape[-1]))
        share = min(1.0, most / max(int(usable.sum()), 1))
        for group in np.unique(training.group):
            inside = training.group == group
            others = ~inside & usable
            if others.sum() < 10:
                continue
            template = self._fit_expected(counts[others], None if known is None else known[others])
            for run in np.unique(training.run_numbers[inside]):
                rows = np.flatnonzero(inside & usable & (training.run_numbers == run))
                rows = rows[: max(int(np.ceil(share * len(rows))), min(len(rows), 30))]
                if len(rows):
                    given = None if known is None else known[rows]
                    plain.append((counts[rows], template, given))
                    self.held_out_.append(rows)
        self._learn_baseline(plain)
        return [self._run(*each) for each in plain]

    def _learn_baseline(self, runs: Sequence[tuple[Floats, Any, Floats | None]]) -> None:
        """Learn how far runs are from templates of others."""
        self.stiffness_ = Baseline.learned(
            [(counts, template.expected(counts, given)) for counts, template, given in runs],
            self.half_life,
            self.stiffness,
            self.template_noise_,
        ).stiffness

    def _run(
        self, counts: Floats, template: Any, known: Floats | None, held: Sequence[Held] = ()
    ) -> Run:
        baseline = Baseline(self.half_life, self.stiffness_, template.noise)
        expected, errors = baseline.corrected(counts, template.expected(counts, known), held)
        shape = (len(counts), *self.plane_)
        return Run(
            counts.reshape(shape),
            expected.reshape(shape),
            None if errors is None else errors.reshape(shape),
        )

    def _fit_spread(self, runs: Sequence[Run]) -> None:
        """Learn the spread of the pulls per size of box, window and place."""
        totals: dict[int, Floats] = {}
        limits: dict[int, np.float32] = {}
        n_ls = 0
        for run in runs:
            misfit = Misfit(self.half_life)
            for part in sums(run, self._boxes(), self.windows):
                square = self._pulls(part.seen, part.wanted) ** 2
                rough = self._squares(part.seen, part.wanted)
                if part.inflation is not None:
                    square /= part.inflation
                    rough /= part.inflation
                square /= _column(misfit.factors(part.scale, rough) ** 2)
                if part.scale not in totals:
                    usual = max(float(np.median(square)) / 0.455, 1.0)
                    limits[part.scale] = np.float32(9 * usual)
                    totals[part.scale] = np.zeros(square.shape[1:])
                np.minimum(square, limits[part.scale], out=square)
                totals[part.scale] += square.sum(axis=0)
            n_ls += len(run.counts)
        self.spread_ = []
        for scale in range(len(totals)):
            total = totals[scale]
            usual = float(np.median(total / n_ls))
            variance = (total + _PRIOR_LS * usual) / (n_ls + _PRIOR_LS)
            # Places where nothing is expected have no spread: never make them louder.
            self.spread_.append(np.sqrt(np.maximum(variance, 0.8)).astype(np.float32))

    def _fit_tails(self, runs: Sequence[Run]) -> None:
        of_runs = [self._largest(run) for run in runs]
        largest = np.concatenate(of_runs, axis=1)
        tails = []
        for values in largest:
            try:
                tail = Tail.fit(values)
                tails.append([tail.location, tail.width])
            except ValueError:  # a scale at which all pulls are equal says nothing
                tails.append([np.inf, 1.0])
        self.tails_ = np.array(tails)
        if not np.isfinite(self.tails_).any():
            raise ValueError(f"{self.me_}: constant, no scale of boxes has any spread")
        rows = np.concatenate(self.held_out_)
        self.calibration_rows_ = rows
        overall = Tail.fit(self._combined(largest))
        self.overall_ = [overall.location, overall.width]
        settled = [self._settled(*each) for each in zip(runs, of_runs, strict=True)]
        self.calibration_scores_ = self._calibrated(np.concatenate(settled, axis=1))
        del self.held_out_

    def training_scores(
        self,
        training: Training,
        conditions: pd.DataFrame | None = None,  # noqa: ARG002
    ) -> Floats:
        """Scores of the training lumisections by templates of other groups, ``(n,)``, NaN if none.

        To be called with the training of `fit`.
        """
        scores = np.full(len(training), np.nan)
        scores[self.calibration_rows_] = self.calibration_scores_
        return scores

    def _keep(self, template: Any) -> None:
        for name, value in vars(template).items():
            setattr(self, f"{_TEMPLATE}{name}_", value)

    def _learned(self) -> Any:
        return Template(**{k: getattr(self, f"{_TEMPLATE}{k}_") for k in Template.__annotations__})

    # -- score -----------------------------------------------------------------------------------

    def _boxes(self) -> tuple[Boxes, ...]:
        return all_boxes((self.plane_[0], self.plane_[1]), [(m[0], m[1]) for m in self.modules])

    def _pulls(self, seen: Reals, wanted: Reals) -> Singles:
        return pulls(seen, wanted)

    def _squares(self, seen: Reals, wanted: Reals) -> Singles:
        """Squares not above those of `_pulls`, and less by no more than SLACK up to FAR wanted."""
        return squares(seen, wanted)

    def _largest(self, run: Run) -> Floats:
        """Largest studentised pull of every scale, ``(n_scales, n_ls)``."""
        weights = [np.float32(1) / spread**2 for spread in self.spread_]
        out = np.empty((len(weights), len(run.counts)))
        misfit = Misfit(self.half_life)
        for part in sums(run, self._boxes(), self.windows):
            rough = self._squares(part.seen, part.wanted)
            if part.inflation is not None:
                rough /= part.inflation
            factors = misfit.factors(part.scale, rough)
            rough *= weights[part.scale]
            top = self._exact(part, rough, weights[part.scale])
            out[part.scale, part.rows] = np.sqrt(top) / factors
        return out

    def _exact(self, part: Sums, rough: Singles, weight: Singles) -> Floats:
        """Largest squared pull of every lumisection: taken exactly where it can be the largest."""
        n_ls, n_places = len(rough), rough[0].size
        flat = rough.reshape(n_ls, n_places)
        chosen = flat >= flat.max(axis=1, keepdims=True) / np.float32(SLACK)
        # What is far above the expected can be more than that.
        far = part.seen > np.float32(FAR) * part.wanted
        at = np.flatnonzero(chosen.ravel() | far.ravel())
        square = np.square(self._pulls(part.seen.ravel()[at], part.wanted.ravel()[at]))
        if part.inflation is not None:
            square /= part.inflation.ravel()[at]
        square *= weight.ravel()[at % n_places]
        first = np.searchsorted(at, np.arange(0, n_ls * n_places, n_places))
        return np.maximum.reduceat(square, first).astype(np.float64)

    def _logs(self, largest: Floats) -> Floats:
        """Natural logarithm of the p-value of every scale, ``(n_scales, n_ls)``."""
        location, width = self.tails_[:, :1], self.tails_[:, 1:]
        known = np.isfinite(location)
        return np.where(known, gumbel_log_p(largest, np.where(known, location, 0), width), 0.0)

    def _combined(self, largest: Floats) -> Floats:
        """-ln of the smallest p-value of all scales, ``(n_ls,)``."""
        return -self._logs(largest).min(axis=0)

    def _calibrated(self, largest: Floats) -> Floats:
        """-log10 of the p-value over all scales together, ``(n_ls,)``."""
        return -Tail(*self.overall_).log_p(self._combined(largest)) / np.log(10)

    def _score(
        self, stack: HistogramStack, rows: NDArray[np.intp], conditions: pd.DataFrame | None
    ) -> Floats:
        scores = np.full(len(rows), np.nan)
        _, largest, usable = self._scanned(stack, rows, conditions)
        scores[usable] = self._calibrated(largest)
        return scores

    def _scanned(
        self, stack: HistogramStack, rows: NDArray[np.intp], conditions: pd.DataFrame | None
    ) -> tuple[Run, Floats, NDArray[np.intp]]:
        """The run as the template sees it, its largest pulls, and which of ``rows`` are in it."""
        known = self._condition(stack, rows, conditions)
        usable = np.arange(len(rows)) if known is None else np.flatnonzero(np.isfinite(known))
        if not len(usable):
            empty = np.empty((0, *self.plane_))
            return Run(empty, empty), np.empty((len(self.tails_), 0)), usable
        given = None if known is None else known[usable]
        data, template = self._data(stack, rows[usable]), self._learned()
        run = self._run(data, template, given)
        largest = self._settled(run, self._largest(run))
        held = self._strange_places(run, largest)
        if held:
            run = self._run(data, template, given, held)
            largest = self._settled(run, self._largest(run))
        return run, largest, usable

    def _settled(self, run: Run, largest: Floats) -> Floats:
        """``largest`` without windows in which what is strange is over by their last lumisection.

        Otherwise a fault would be seen for as long as the longest window after it ended.
        """
        n_boxes = len(self._boxes())
        now = np.full_like(largest, -np.inf)
        now[:n_boxes] = largest[:n_boxes]
        asked = (self._calibrated(largest) > _NOTABLE) & (self._calibrated(now) < _STRANGE)
        out = largest.copy()
        for row in np.flatnonzero(asked):
            for _ in self.windows[1:]:
                winner = int(np.argmin(self._logs(out[:, [row]])))
                window = winner // n_boxes
                if not window:
                    break
                part = run.rows(slice(max(row + 1 - self.windows[window], 0), row + 1))
                x0, x1, y0, y1 = self._strangest(part, winner)
                seen = part.counts[:, x0:x1, y0:y1].sum(axis=(1, 2))
                wanted = part.expected[:, x0:x1, y0:y1].sum(axis=(1, 2))
                if not over(seen, wanted, float(out[winner, row]), self._pulls):
                    break
                out[window * n_boxes : (window + 1) * n_boxes, row] = -np.inf
        return out

    def _strange_places(self, run: Run, largest: Floats) -> list[Held]:
        """Rows and places of alarms, that the baseline must not learn from their row on."""
        held: list[Held] = []
        bins = np.arange(int(np.prod(self.plane_))).reshape(self.plane_)
        strange = np.flatnonzero(self._calibrated(largest) > _STRANGE)
        began = last = -np.inf
        for row in strange.tolist():
            began = row if row > last + 5 else began
            last = row
            # The place is known better after some lumisections.
            if row - began in (0, 3, 10) and len(held) < _MOST_HELD:
                part = run.rows(slice(None, row + 1))
                x0, x1, y0, y1 = self._place(part, largest[:, row])[0]
                held.append((row, bins[x0:x1, y0:y1].ravel()))
        return held

    def _condition(
        self, stack: HistogramStack, rows: NDArray[np.intp], conditions: pd.DataFrame | None
    ) -> Floats | None:
        return condition(conditions, stack, self.column)[rows] if self.conditioned_ else None

    def channels(
        self, stack: HistogramStack, conditions: pd.DataFrame | None = None
    ) -> pd.DataFrame:
        """Separate channels, a row per lumisection (index ls_number), NaN where not assessed.

        ``shape`` is the score; ``subspace`` the T2 of the template's modes over its expectation;
        ``dead_bins`` the counts in bins that good lumisections leave empty; ``slow`` the chi2 per
        degree of freedom of the last 10 lumisections against the template without the rolling
        baseline, which hides what is there from the start; ``rate`` the pull of ln(entries per
        ``recorded_lumi``) against the median of this run, NaN without conditions.
        """
        self._check_fitted(stack)
        out = pd.DataFrame(
            np.nan,
            index=pd.Index(stack.ls_numbers, name="ls_number"),
            columns=["shape", "subspace", "dead_bins", "slow", "rate"],
        )
        rows = np.flatnonzero(self._unusable(stack) == "")
        out["shape"] = self.score_samples(stack, conditions)
        known = condition(conditions, stack, self.column) if self.conditioned_ else None
        if known is not None:
            rows = rows[np.isfinite(known[rows])]
        if not len(rows):
            return out
        counts = stack.values()[rows].reshape(len(rows), -1).astype(np.float64)
        template = self._learned()
        expected, strengths = template.fitted(counts, None if known is None else known[rows])
        entries = counts.sum(axis=1)
        ls = stack.ls_numbers[rows]
        sigma2 = template.mode_variances + template.noise / (4 * entries[:, None])
        out.loc[ls, "subspace"] = (strengths**2 / sigma2).mean(axis=1) if strengths.size else 0.0
        out.loc[ls, "dead_bins"] = counts[:, self._dead(template)].sum(axis=1)
        seen, wanted = running(counts, 10), running(expected, 10)
        # A bin counts for no more than 5 standard deviations: one hot cell is no slow change.
        slow = pulls(seen, wanted).astype(np.float64) ** 2 / max(template.noise, 1.0)
        out.loc[ls, "slow"] = np.minimum(slow, 25).mean(axis=1)
        out.loc[ls, "rate"] = _rate(entries, condition(conditions, stack, "recorded_lumi")[rows])
        return out

    def _dead(self, template: Template) -> NDArray[np.bool_]:
        share = np.maximum(template.mean[0], 0) ** 2 * template.scale
        return share < 1e-3 * np.median(share[share > 0])

    # -- explain ---------------------------------------------------------------------------------

    def _explain(
        self, stack: HistogramStack, at: int, conditions: pd.DataFrame | None
    ) -> Explanation:
        rows = np.flatnonzero(self._unusable(stack) == "")
        rows = rows[rows <= at]
        run, of_run, usable = self._scanned(stack, rows, conditions)
        if not len(usable) or rows[usable[-1]] != at:
            raise ValueError(
                f"{stack.me}, LS {stack.ls_numbers[at]} is not assessed: {self._unscored_reason()}"
            )
        score = float(self._calibrated(of_run[:, -1:])[0])
        box, window = self._place(run, of_run[:, -1])
        return self._explanation(stack, rows[usable], run, box, window, score, conditions)

    def _place(self, run: Run, largest: Floats) -> tuple[Box, int]:
        """Box and window that stand out in the last lumisection of the run."""
        last = run.rows(slice(-max(self.windows), None))
        elsewhere = self._without_dead_bins(last)
        if elsewhere is not None:
            found = self._largest(elsewhere)[:, -1]
            found[np.isinf(largest)] = -np.inf
            if self._calibrated(found[:, None])[0] > _CLEAR:
                last, largest = elsewhere, found
        winner = int(np.argmin(self._logs(largest[:, None])))
        window = self.windows[winner // len(self._boxes())]
        part = last.rows(slice(-window, None))
        seen, wanted = part.counts.sum(axis=0), part.expected.sum(axis=0)
        return refined(seen, wanted, self._strangest(part, winner), self._pulls), window

    def _without_dead_bins(self, run: Run) -> Run | None:
        """The run with nothing strange in bins that good ones leave empty; None if so already.

        A few counts there are stranger than many more beside them, but the smaller part of a fault.
        """
        dead = self._dead(self._learned()).reshape(self.plane_)
        if not run.counts[:, dead].any():
            return None
        return replace(run, counts=np.where(dead, run.expected, run.counts))

    def _explanation(
        self,
        stack: HistogramStack,
        rows: NDArray[np.intp],
        run: Run,
        box: tuple[int, int, int, int],
        window: int,
        score: float,
        conditions: pd.DataFrame | None,  # noqa: ARG002
    ) -> Explanation:
        """Explanation of the last of ``rows`` by the box and window that stand out."""
        x0, x1, y0, y1 = box
        seen = run.counts[:, x0:x1, y0:y1].sum(axis=(1, 2))
        wanted = run.expected[:, x0:x1, y0:y1].sum(axis=(1, 2))
        began = onset(pulls(np.cumsum(seen[::-1]), np.cumsum(wanted[::-1])), window)
        shown = max(began, len(seen) - window)
        return describe(
            stack,
            int(stack.ls_numbers[rows[-1]]),
            score,
            place_of(stack, box),
            float(seen[shown:].sum()),
            float(wanted[shown:].sum()),
            since=int(stack.ls_numbers[rows[began]]),
            reference=Reference(
                ((stack.run_number, int(stack.ls_numbers[rows[-1]])),),
                run.expected[-1].reshape(stack.values().shape[1:]),
            ),
        )

    def _strangest(self, part: Run, scale: int) -> Box:
        """Box of this scale that stands out in all lumisections of ``part`` together."""
        all_of = self._boxes()
        boxes = all_of[scale % len(all_of)]
        seen, wanted = (
            boxes.sums(integral_image(m.sum(axis=0, keepdims=True)))
            for m in (part.counts, part.expected)
        )
        z = self._pulls(seen, wanted)
        if part.errors is not None:
            errors = boxes.sums(integral_image(part.errors.sum(axis=0, keepdims=True)))
            z /= np.sqrt(1 + relative_variance(errors, wanted) * wanted)
        z = np.abs(z[0] / self.spread_[scale])
        i, j = np.unravel_index(int(np.argmax(z)), z.shape)
        x, y = boxes.starts((self.plane_[0], self.plane_[1]))
        x0, y0 = int(x[i]), int(y[j])
        return x0, x0 + boxes.size[0], y0, y0 + boxes.size[1]


def over(
    seen: Floats,
    wanted: Floats,
    size: float,
    pull_of: Callable[[Reals, Reals], Singles] = pulls,
) -> bool:
    """Whether what a box shows over some lumisections is gone from the latest of them.

    ``seen`` and ``wanted`` are ``(n,)``, the latest last; ``size`` is the studentised pull of all
    together. Where it began is where the latest so many differ most; it is gone if fewer of them
    are weaker than their part of that by more than three standard deviations.

    >>> over(np.array([0.0, 0.0, 100.0]), np.full(3, 100.0), 20.0)
    True
    >>> over(np.array([100.0, 0.0, 0.0]), np.full(3, 100.0), 20.0)
    False
    """
    back = np.cumsum(wanted[::-1])
    z = pull_of(np.cumsum(seen[::-1]), back).astype(np.float64)
    unit = max(abs(float(z[-1])) / size, 1.0)
    z *= np.sign(z[-1])
    began = int(np.argmax(z))
    part = np.sqrt(back[:began] / max(float(back[began]), 1e-12))
    return bool((z[:began] < part * z[began] - 3 * unit).any())


def onset(back: NDArray[Any], window: int, most: int = 500) -> int:
    """Position at which a difference that lasts until the end began: the likeliest change.

    ``back[i]`` is the pull of the last ``i + 1`` lumisections together.
    """
    sign = np.sign(back[min(window, len(back)) - 1])
    return len(back) - 1 - int(np.argmax(sign * back[:most]))


def _column(values: Floats) -> Singles:
    return values.astype(np.float32)[:, None, None]


def _rate(entries: Floats, luminosity: Floats) -> Floats:
    """Pull of ln(entries / luminosity) against the run's median, NaN where there is none."""
    out = np.full(len(entries), np.nan)
    good = np.isfinite(luminosity) & (luminosity > 0)
    if good.sum() < 5:
        return out
    ratio = np.log(entries[good] / luminosity[good])
    spread = 1.4826 * float(np.median(np.abs(ratio - np.median(ratio))))
    out[good] = np.abs(ratio - np.median(ratio)) / np.hypot(spread, 0.01)
    return out
