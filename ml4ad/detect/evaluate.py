"""How good is a detector: faults put into good lumisections of runs it has not seen."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, clone
from sklearn.metrics import roc_auc_score, roc_curve

from ml4ad.detect.base import Detector, Place, as_stacks
from ml4ad.detect.calibrate import LS_PER_SHIFT, alpha
from ml4ad.detect.combine import Combined
from ml4ad.detect.foreign import as_detector
from ml4ad.detect.incidents import of_element
from ml4ad.simulate.faults import FAULTS, Fault, boxes, inject, place
from ml4ad.stack import Floats, HistogramStack

#: Lumisections before a fault that a detector which looks back is shown.
_BASELINE_LS = 100
_MOST_DRAWN = 200


@dataclass(frozen=True)
class Trial:
    """A fault of a size in bins, to be put at places and times drawn at random.

    ``kind`` is one of `ml4ad.simulate.faults.FAULTS`, which tell what ``strength`` means; None is
    the usual one. ``size`` is in bins per axis; empty where the kind takes everything. It lasts
    ``n_ls`` lumisections, from the run's first if ``from_start``. ``name`` is what tables call it.
    Raises ValueError for what cannot be.
    """

    kind: str
    size: tuple[int, ...] = ()
    strength: float | None = None
    n_ls: int = 20
    name: str = ""
    from_start: bool = False

    def __post_init__(self) -> None:
        if self.kind not in FAULTS:
            raise ValueError(f"fault {self.kind!r}, want one of {', '.join(FAULTS)}")
        if self.kind == "missing_element":
            raise ValueError("missing_element, which leaves nothing to be scored: want another")
        if self.n_ls < 1:
            raise ValueError(f"{self}: {self.n_ls} lumisections, want at least 1")
        if any(width < 1 for width in self.size):
            raise ValueError(f"{self}: {list(self.size)} bins, want at least 1 per axis")
        if FAULTS[self.kind].place in ("cell", "region") and not self.size:
            raise ValueError(f"{self}: no size, want bins per axis, such as [4, 4]")
        if FAULTS[self.kind].place == "all" and self.size:
            raise ValueError(f"{self}: size {list(self.size)}, want none: it takes everything")
        # The strength is checked where it is known what it means.
        Fault(self.kind, "*", strength=self.strength, x=(0, 0), x_to=0)

    def __str__(self) -> str:
        if self.name:
            return self.name
        size = " x ".join(map(str, self.size))
        strength = "" if self.strength is None else f" {self.strength:g}"
        start = " from the start" if self.from_start else ""
        return f"{self.kind} {size}{strength}{start}".replace("  ", " ").strip()

    def drawn(self, stack: HistogramStack, rng: np.random.Generator, *, quiet: int = 20) -> Fault:
        """This fault somewhere on the stack, from a lumisection after the first ``quiet``."""
        spans: dict[str, tuple[float, float]] = {}
        partner: dict[str, float] = {}
        for name, axis, width in zip("xy", stack.axes, self.size, strict=False):
            first = int(rng.integers(0, max(axis.n_bins - width, 0) + 1))
            last = min(first + width, axis.n_bins) - 1
            spans[name] = (float(axis.centers[first]), float(axis.centers[last]))
            if self.kind == "swap" and not partner:
                # As far away as the axis lets it be.
                far = 0 if first + last >= axis.n_bins else axis.n_bins - (last - first + 1)
                partner[f"{name}_to"] = float(axis.centers[far])
        latest = max(len(stack) - self.n_ls, 1)
        at = int(rng.integers(min(quiet, latest - 1), latest))
        at = 0 if self.from_start else at
        return Fault(
            self.kind,
            stack.me,
            first_ls=int(stack.ls_numbers[at]),
            n_ls=None if self.kind == "glitch" else self.n_ls,
            strength=self.strength,
            x=spans.get("x"),
            y=spans.get("y"),
            x_to=partner.get("x_to"),
            y_to=partner.get("y_to"),
        )


def trials(stack: HistogramStack, *, n_ls: int = 20) -> list[Trial]:
    """Usual faults for an element of this kind."""
    shape = [axis.n_bins for axis in stack.axes]
    if len(shape) == 1:
        region = (max(shape[0] // 20, 1),)
        listed = [
            Trial("dead_region", region, n_ls=n_ls),
            Trial("noisy_region", region, 0.5, n_ls),
            Trial("swap", (max(shape[0] // 8, 1),), n_ls=n_ls),
            Trial("bump", region, 0.02, n_ls),
            Trial("gain_shift", (), 0.05, n_ls),
            Trial("gain_shift", (), 0.05, n_ls, from_start=True),
        ]
    else:
        small, module = (4,) * 2, (max(shape[0] // 2, 1), max(shape[1] // 18, 1))
        listed = [
            Trial("dead_cell", (1, 1), n_ls=n_ls),
            Trial("hot_cell", (1, 1), n_ls=n_ls),
            Trial("dead_region", small, n_ls=n_ls),
            Trial("dead_region", small, n_ls=n_ls, from_start=True),
            Trial("hv_off", module, 0.5, n_ls),
            Trial("hv_off", module, 0.1, n_ls),
            Trial("noisy_region", module, 0.2, n_ls),
            Trial("swap", (max(shape[0] // 4, 1), max(shape[1] // 8, 1)), n_ls=n_ls),
        ]
    if shape[0] < 4:
        listed = [t for t in listed if t.kind != "swap"]
    return [t for t in listed if FAULTS[t.kind].profiles or not stack.is_profile]


@dataclass(frozen=True)
class Protocol:
    """How detectors are tried, so that another person can do the same.

    ``n_trials`` faults of each kind are put in; ``false_alarms`` in a shift of 8 hours are allowed
    for the threshold; ``contamination`` is the share of training lumisections that hold a fault of
    the list, certified good by mistake; ``prevalence`` is the share of bad lumisections that false
    discovery rates are told for. ``seed`` is of all that is random.
    """

    n_trials: int = 50
    false_alarms: float = 1.0
    contamination: float = 0.0
    prevalence: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n_trials < 1:
            raise ValueError(f"{self.n_trials} trials, want at least 1")
        if not 0 <= self.contamination < 0.5:
            raise ValueError(f"contamination {self.contamination:g}, want 0 to less than 0.5")
        if not 0 < self.prevalence < 1:
            raise ValueError(f"prevalence {self.prevalence:g}, want between 0 and 1")
        alpha(self.false_alarms)


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found: ``table`` a row per fault, and per detector the rest.

    ``table`` is indexed by (detector, fault): ``auc``, ``fpr_at_99`` (false positive rate at 99 %
    detection), ``fdr_at_99`` (share of false ones among what is called bad then, at the protocol's
    prevalence) and ``tpr_at_1e-3`` of single lumisections, ``found_in_1``, ``found_in_3`` and
    ``found_in_6`` (share of faults found within so many lumisections at no more than
    ``false_alarms`` per shift), ``delay`` and ``delay_90`` in lumisections, ``iou`` of the place
    and ``placed`` (share of the places whose middle is inside the fault).
    ``detectors`` is indexed by detector: ``alarms``, ``incidents``, ``nominal``, ``not_assessed``,
    ``ms_per_ls``, ``fit_s``. ``curves`` maps (detector, fault) to false and true positive rates,
    ``delays`` to lumisections until each fault was found, infinite where it never was. ``faults``
    are those that were put in, as long as the runs allow.
    """

    table: pd.DataFrame
    detectors: pd.DataFrame
    curves: Mapping[tuple[str, str], tuple[Floats, Floats]]
    delays: Mapping[tuple[str, str], Floats]
    protocol: Protocol
    training_runs: tuple[int, ...]
    test_runs: tuple[int, ...]
    faults: tuple[Trial, ...] = ()

    @property
    def seed(self) -> int:
        """Of all that was random."""
        return self.protocol.seed


def evaluate(
    detector: Detector | BaseEstimator | Mapping[str, Detector | BaseEstimator],
    good_stacks: Sequence[HistogramStack],
    *,
    faults: Iterable[Trial] | None = None,
    conditions: pd.DataFrame | None = None,
    seed: int = 0,
    n_trials: int = 50,
    false_alarms: float = 1.0,
    contamination: float = 0.0,
    prevalence: float = 0.01,
) -> Evaluation:
    """How well one detector, or several by name, find faults in runs they have not seen.

    The first half of the runs of ``good_stacks`` (by number) is learned from and calibrated on, the
    later half is tested. Each fault is put ``n_trials`` times into test runs, and lasts at most
    half of the longest; losses are binomial and excess is Poisson, as `ml4ad.simulate` does it. The
    other numbers are those of `Protocol`.
    Outlier detectors of scikit-learn are taken as `OutlierDetector` takes them; what is given is
    not changed. Raises ValueError for fewer than two runs, no detector or no fault, TypeError for
    what is no detector.

    >>> from ml4ad import Axis, HistogramStack, detect
    >>> from sklearn.svm import OneClassSVM
    >>> rng = np.random.default_rng(1)
    >>> good = [
    ...     HistogramStack.from_arrays(
    ...         rng.poisson(50, (60, 20)), Axis.regular(20, 0, 1), ls_numbers=range(1, 61),
    ...         run_number=run, me="A/b",
    ...     )
    ...     for run in range(1, 5)
    ... ]
    >>> mine = OneClassSVM(gamma=100)
    >>> found = detect.evaluate({"mine": mine, "PCA": detect.PCA()}, good, n_trials=5)
    >>> found.table["auc"].groupby("detector").size().to_dict()
    {'PCA': 6, 'mine': 6}
    """
    protocol = Protocol(n_trials, false_alarms, contamination, prevalence, seed)
    stacks = sorted(as_stacks(good_stacks), key=lambda s: s.run_number)
    runs = sorted({s.run_number for s in stacks})
    if len(runs) < 2:
        raise ValueError(f"{len(runs)} runs to evaluate on, want at least 2: train and test differ")
    half = runs[: (len(runs) + 1) // 2]
    training = [s for s in stacks if s.run_number in half]
    test = [s for s in stacks if s.run_number not in half]
    wanted = list(faults) if faults is not None else trials(stacks[0])
    longest = max(len(s) for s in test) // 2
    wanted = [replace(trial, n_ls=max(min(trial.n_ls, longest), 1)) for trial in wanted]
    given = detector if isinstance(detector, Mapping) else {type(detector).__name__: detector}
    named = {name: as_detector(one) for name, one in given.items()}
    if not named or not wanted:
        raise ValueError(f"{len(named)} detectors and {len(wanted)} faults, want some of each")
    rng = np.random.default_rng(seed)
    if contamination:
        training = [_contaminated(s, wanted, contamination, rng) for s in training]
    rows, summaries = {}, {}
    curves: dict[tuple[str, str], tuple[Floats, Floats]] = {}
    delays: dict[tuple[str, str], Floats] = {}
    for name, candidate in named.items():
        fitted, summary, quiet = _prepared(candidate, training, test, conditions, false_alarms)
        summaries[name] = summary
        for number, trial in enumerate(wanted):
            # The same faults for every detector.
            draws = np.random.default_rng([seed, number])
            tried = _tried(fitted, trial, test, conditions, summary["threshold"], draws, n_trials)
            key = name, str(trial)
            rows[key], curves[key] = _judged(tried, quiet, prevalence)
            delays[key] = tried.delays
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index = pd.MultiIndex.from_tuples(table.index, names=["detector", "fault"])
    summary_table = pd.DataFrame.from_dict(summaries, orient="index").rename_axis("detector")
    tested = tuple(r for r in runs if r not in half)
    return Evaluation(
        table, summary_table, curves, delays, protocol, tuple(half), tested, tuple(wanted)
    )


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


@dataclass(frozen=True)
class _Tried:
    """What came of all trials of one fault: ``(n_trials,)`` each, places where there were some."""

    first_scores: Floats
    delays: Floats
    overlaps: Floats
    inside: Floats


def _tried(
    fitted: Detector,
    trial: Trial,
    test: Sequence[HistogramStack],
    conditions: pd.DataFrame | None,
    threshold: float,
    rng: np.random.Generator,
    n_trials: int,
) -> _Tried:
    first_scores, delays, overlaps, inside = [], [], [], []
    usable = [s for s in test if len(s) > trial.n_ls]
    if not usable:
        raise ValueError(f"{trial}: no test run has more than {trial.n_ls} lumisections")
    for i in range(n_trials):
        stack = usable[i % len(usable)]
        before = 0 if fitted.lookback == 0 else _BASELINE_LS
        bad, fault = _spoiled(trial, stack, rng, before=before)
        start = int(np.searchsorted(bad.ls_numbers, fault.first_ls))
        scores = fitted.score_samples(bad, conditions)[start:]
        first_scores.append(scores[0])
        over = np.flatnonzero(fitted.strain(scores) > threshold)
        delays.append(over[0] + 1 if len(over) else np.inf)
        if len(over) and FAULTS[trial.kind].place != "all":
            found = fitted.explain(bad, int(bad.ls_numbers[start + over[0]]), conditions).place
            if found is not None:
                true = _place(fault, stack)
                overlaps.append(found.overlap(true))
                inside.append(
                    all(
                        a <= (c + d) / 2 <= b
                        for (a, b), (c, d) in zip(true.bins, found.bins, strict=True)
                    )
                )
    return _Tried(*(np.array(own, np.float64) for own in (first_scores, delays, overlaps, inside)))


def _judged(
    tried: _Tried, quiet: Floats, prevalence: float
) -> tuple[dict[str, float], tuple[Floats, Floats]]:
    """Row of the table, and false and true positive rates."""
    # What was not assessed was not found.
    seen = np.nan_to_num(tried.first_scores, nan=float(quiet.min()))
    truth = np.repeat([0, 1], [len(quiet), len(seen)])
    both = np.concatenate([quiet, seen])
    false, true, _ = roc_curve(truth, both)
    enough = int(np.argmax(true >= 0.99))
    wrong, right = (1 - prevalence) * false[enough], prevalence * true[enough]
    row = {
        "auc": float(roc_auc_score(truth, both)),
        "fpr_at_99": float(false[enough]),
        "fdr_at_99": float(wrong / (wrong + right)),
        "tpr_at_1e-3": float(true[false <= 1e-3].max()),
        **{f"found_in_{n}": float((tried.delays <= n).mean()) for n in (1, 3, 6)},
        "delay": float(np.quantile(tried.delays, 0.5, method="higher")),
        "delay_90": float(np.quantile(tried.delays, 0.9, method="higher")),
        "iou": float(tried.overlaps.mean()) if len(tried.overlaps) else np.nan,
        "placed": float(tried.inside.mean()) if len(tried.inside) else np.nan,
    }
    return row, (false, true)


def _spoiled(
    trial: Trial, stack: HistogramStack, rng: np.random.Generator, *, before: int
) -> tuple[HistogramStack, Fault]:
    """The lumisections around a fault with it in them: one that makes a difference.

    What is dead already cannot die: nobody could find that. Raises ValueError where a fault of this
    kind changes nothing wherever it is put.
    """
    for _ in range(_MOST_DRAWN):
        fault = trial.drawn(stack, rng)
        good = _around(stack, fault, trial.n_ls, before=before)
        bad = inject(good, fault, rng)
        if not np.array_equal(good.contents, bad.contents):
            return bad, fault
    raise ValueError(
        f"{trial}: changes nothing of {stack.me}, run {stack.run_number}, "
        f"at {_MOST_DRAWN} places drawn at random"
    )


def _around(stack: HistogramStack, fault: Fault, n_ls: int, *, before: int) -> HistogramStack:
    """The lumisections of the fault and so many before it, for a baseline of the run."""
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
        trial = wanted[int(rng.integers(len(wanted)))]
        trial = replace(trial, n_ls=length, from_start=False)
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
