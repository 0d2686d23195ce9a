"""How good is a detector: faults put into good lumisections of runs it has not seen."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.metrics import roc_auc_score, roc_curve

from ml4ad.detect.base import Detector, Place, as_stacks
from ml4ad.detect.calibrate import LS_PER_SHIFT, alpha
from ml4ad.detect.combine import Combined
from ml4ad.detect.incidents import of_element
from ml4ad.simulate.faults import FAULTS, Fault, boxes, inject, place
from ml4ad.stack import Floats, HistogramStack


@dataclass(frozen=True)
class Trial:
    """A fault of a size in bins, to be put at places and times drawn at random.

    ``size`` is in bins per axis; empty where the kind takes everything. ``strength`` None is the
    usual one of the kind.
    """

    kind: str
    size: tuple[int, ...] = ()
    strength: float | None = None
    n_ls: int = 20
    name: str = ""

    def __str__(self) -> str:
        if self.name:
            return self.name
        size = " x ".join(map(str, self.size))
        strength = "" if self.strength is None else f" {self.strength:g}"
        return f"{self.kind} {size}{strength}".replace("  ", " ").strip()

    def drawn(self, stack: HistogramStack, rng: np.random.Generator, *, quiet: int = 20) -> Fault:
        """This fault somewhere on the stack, from a lumisection after the first ``quiet``."""
        spans: dict[str, tuple[float, float]] = {}
        for name, axis, width in zip("xy", stack.axes, self.size, strict=False):
            first = int(rng.integers(0, max(axis.n_bins - width, 0) + 1))
            last = min(first + width, axis.n_bins) - 1
            spans[name] = (float(axis.centers[first]), float(axis.centers[last]))
        latest = max(len(stack) - self.n_ls, 1)
        at = int(rng.integers(min(quiet, latest - 1), latest))
        return Fault(
            self.kind,
            stack.me,
            first_ls=int(stack.ls_numbers[at]),
            n_ls=None if self.kind == "glitch" else self.n_ls,
            strength=self.strength,
            x=spans.get("x"),
            y=spans.get("y"),
        )


def trials(stack: HistogramStack, *, n_ls: int = 20) -> list[Trial]:
    """Usual faults for an element of this kind."""
    shape = [axis.n_bins for axis in stack.axes]
    if len(shape) == 1:
        region = (max(shape[0] // 20, 1),)
        listed = [
            Trial("dead_region", region, n_ls=n_ls),
            Trial("noisy_region", region, 0.5, n_ls),
            Trial("gain_shift", (), 0.05, n_ls),
        ]
    else:
        small, module = (4,) * 2, (max(shape[0] // 2, 1), max(shape[1] // 18, 1))
        listed = [
            Trial("dead_cell", (1, 1), n_ls=n_ls),
            Trial("dead_region", small, n_ls=n_ls),
            Trial("hv_off", module, 0.5, n_ls),
            Trial("hv_off", module, 0.1, n_ls),
            Trial("noisy_region", module, 0.2, n_ls),
        ]
    return [t for t in listed if FAULTS[t.kind].profiles or not stack.is_profile]


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found: ``table`` a row per fault, and per detector the rest.

    ``table`` is indexed by (detector, fault): ``auc``, ``fpr_at_99`` (false positive rate at 99 %
    detection) and ``tpr_at_1e-3`` of single lumisections, ``found_in_1``, ``found_in_3`` and
    ``found_in_6`` (share of faults found within so many lumisections at no more than
    ``false_alarms`` per shift), ``delay`` and ``delay_90`` in lumisections, ``iou`` of the place.
    ``detectors`` is indexed by detector: ``alarms``, ``nominal``, ``ms_per_ls``, ``fit_s``.
    ``curves`` maps (detector, fault) to false and true positive rates.
    """

    table: pd.DataFrame
    detectors: pd.DataFrame
    curves: Mapping[tuple[str, str], tuple[Floats, Floats]]
    seed: int
    training_runs: tuple[int, ...]
    test_runs: tuple[int, ...]


def evaluate(
    detector: Detector | Mapping[str, Detector],
    good_stacks: Sequence[HistogramStack],
    *,
    faults: Iterable[Trial] | None = None,
    conditions: pd.DataFrame | None = None,
    seed: int = 0,
    n_trials: int = 50,
    false_alarms: float = 1.0,
    contamination: float = 0.0,
) -> Evaluation:
    """How well one detector, or several by name, find faults in runs they have not seen.

    The first half of the runs of ``good_stacks`` (by number) is learned from and calibrated on, the
    later half is tested. Each fault is put ``n_trials`` times into test runs; losses are binomial
    and excess is Poisson, as `ml4ad.simulate` does it. ``contamination`` is the share of training
    lumisections that hold a fault of the list, certified good by mistake. The detectors are not
    changed. Raises ValueError for fewer than two runs.
    """
    stacks = sorted(as_stacks(good_stacks), key=lambda s: s.run_number)
    runs = sorted({s.run_number for s in stacks})
    if len(runs) < 2:
        raise ValueError(f"{len(runs)} runs to evaluate on, want at least 2: train and test differ")
    half = runs[: (len(runs) + 1) // 2]
    training = [s for s in stacks if s.run_number in half]
    test = [s for s in stacks if s.run_number not in half]
    wanted = list(faults) if faults is not None else trials(stacks[0])
    rng = np.random.default_rng(seed)
    if contamination:
        training = [_contaminated(s, wanted, contamination, rng) for s in training]
    named = detector if isinstance(detector, Mapping) else {type(detector).__name__: detector}
    rows, summaries = {}, {}
    curves: dict[tuple[str, str], tuple[Floats, Floats]] = {}
    for name, candidate in named.items():
        fitted, summary, quiet = _prepared(candidate, training, test, conditions, false_alarms)
        summaries[name] = summary
        for trial in wanted:
            # The same faults for every detector.
            draws = np.random.default_rng([seed, wanted.index(trial)])
            row, curve = _tried(
                fitted, trial, test, conditions, summary["threshold"], quiet, draws, n_trials
            )
            rows[name, str(trial)] = row
            curves[name, str(trial)] = curve
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index = pd.MultiIndex.from_tuples(table.index, names=["detector", "fault"])
    summary_table = pd.DataFrame.from_dict(summaries, orient="index").rename_axis("detector")
    tested = tuple(r for r in runs if r not in half)
    return Evaluation(table, summary_table, curves, seed, tuple(half), tested)


def _prepared(
    candidate: Detector,
    training: Sequence[HistogramStack],
    test: Sequence[HistogramStack],
    conditions: pd.DataFrame | None,
    false_alarms: float,
) -> tuple[Detector, dict[str, float], Floats]:
    """Fitted detector, its summary with the score that is an alarm, and scores of good LS."""
    began = time.perf_counter()
    fitted = clone(candidate).fit(training, conditions)
    own = getattr(fitted, "training_scores", None)
    if fitted.score_kind == "p":
        tail = fitted.tail(np.empty(0))
    elif own is not None:
        tail = fitted.tail(own(fitted._training(training), conditions))
    else:
        tail = fitted.tail(candidate.cross_scores(training, conditions)[0])
    fit_seconds = time.perf_counter() - began
    level = alpha(false_alarms)
    began = time.perf_counter()
    scores = [fitted.score_samples(s, conditions) for s in test]
    seconds = time.perf_counter() - began
    n_ls = sum(len(s) for s in test)
    logs = [tail.log_p(fitted.strain(s)) / np.log(10) for s in scores]
    incidents = sum(
        len(of_element(s.me, s.run_number, s.ls_numbers, p, level))
        for s, p in zip(test, logs, strict=True)
    )
    threshold = tail.threshold(level)
    every = np.concatenate(scores)
    summary = {
        "threshold": threshold,
        "alarms": float((fitted.strain(every) > threshold).sum()),
        "incidents": float(incidents),
        "nominal": false_alarms * n_ls / LS_PER_SHIFT,
        "not_assessed": float(np.isnan(every).sum()),
        "ms_per_ls": 1e3 * seconds / n_ls,
        "fit_s": fit_seconds,
    }
    return fitted, summary, every[np.isfinite(every)]


def _tried(
    fitted: Detector,
    trial: Trial,
    test: Sequence[HistogramStack],
    conditions: pd.DataFrame | None,
    threshold: float,
    quiet: Floats,
    rng: np.random.Generator,
    n_trials: int,
) -> tuple[dict[str, float], tuple[Floats, Floats]]:
    first_scores, delays, overlaps = [], [], []
    usable = [s for s in test if len(s) > trial.n_ls]
    if not usable:
        raise ValueError(f"{trial}: no test run has more than {trial.n_ls} lumisections")
    for i in range(n_trials):
        stack = usable[i % len(usable)]
        fault = trial.drawn(stack, rng)
        bad = inject(_around(stack, fault, trial.n_ls), fault, rng)
        start = int(np.searchsorted(bad.ls_numbers, fault.first_ls))
        scores = fitted.score_samples(bad, conditions)[start:]
        first_scores.append(scores[0])
        over = np.flatnonzero(fitted.strain(scores) > threshold)
        delays.append(over[0] + 1 if len(over) else np.inf)
        if len(over) and FAULTS[trial.kind].place != "all":
            found = fitted.explain(bad, int(bad.ls_numbers[start + over[0]]), conditions).place
            if found is not None:
                overlaps.append(found.overlap(_place(fault, stack)))
    seen = np.nan_to_num(np.array(first_scores), nan=float(quiet.min()))
    truth = np.repeat([0, 1], [len(quiet), len(seen)])
    false, true, _ = roc_curve(truth, np.concatenate([quiet, seen]))
    delay = np.array(delays, dtype=np.float64)
    row = {
        "auc": float(roc_auc_score(truth, np.concatenate([quiet, seen]))),
        "fpr_at_99": float(false[np.argmax(true >= 0.99)]),
        "tpr_at_1e-3": float(true[false <= 1e-3].max()),
        **{f"found_in_{n}": float((delay <= n).mean()) for n in (1, 3, 6)},
        "delay": float(np.quantile(delay, 0.5, method="higher")),
        "delay_90": float(np.quantile(delay, 0.9, method="higher")),
        "iou": float(np.mean(overlaps)) if overlaps else np.nan,
    }
    return row, (false, true)


def _around(stack: HistogramStack, fault: Fault, n_ls: int, *, before: int = 100) -> HistogramStack:
    """The lumisections of the fault and enough before it for a baseline of the run."""
    start = int(np.searchsorted(stack.ls_numbers, fault.first_ls))
    kept = stack.ls_numbers[max(start - before, 0) : start + (fault.n_ls or n_ls)]
    return stack.select(kept)


def _place(fault: Fault, stack: HistogramStack) -> Place:
    box = boxes(place(fault, stack.axes))[0]
    return Place.of(stack.axes, [(low - 1, high - 1) for low, high in box])


def _contaminated(
    stack: HistogramStack, wanted: Sequence[Trial], share: float, rng: np.random.Generator
) -> HistogramStack:
    """The stack with about ``share`` of its lumisections bad, a fault for each few of them."""
    length = 3
    n_faults = max(1, round(share * len(stack) / length))
    for _ in range(n_faults):
        trial = replace(wanted[int(rng.integers(len(wanted)))], n_ls=length)
        stack = inject(stack, trial.drawn(stack, rng, quiet=0), rng)
    return stack


def references() -> dict[str, Detector]:
    """Detectors of others and ours by name, to be evaluated side by side on maps and 1D counts."""
    from ml4ad.detect.foreign import MomentsForest
    from ml4ad.detect.reference import NMF, PCA, BetaBinomial, LossProduct

    return {
        "default": Combined(),
        "BetaBinomial": BetaBinomial(),
        "NMF": NMF(),
        "PCA": PCA(),
        "LossProduct": LossProduct(),
        "MomentsForest": MomentsForest(),
    }
