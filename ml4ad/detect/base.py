"""What every detector is: an estimator that learns from stacks, scores stacks and gives reasons."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError

from ml4ad.detect.calibrate import Tail
from ml4ad.stack import Axis, Floats, HistogramStack, Ints

Stacks: TypeAlias = "HistogramStack | Sequence[HistogramStack]"

MIN_TRAINING = 20


@dataclass(frozen=True)
class Place:
    """A box of bins: ``bins`` holds ``(first, last)`` per axis, from 0, the last one included.

    ``ranges`` holds the axis values from edge to edge, ``titles`` the axes' names, ``labels`` what
    the first and the last bin are called where an axis has labels, else "".
    """

    bins: tuple[tuple[int, int], ...]
    ranges: tuple[tuple[float, float], ...]
    titles: tuple[str, ...]
    labels: tuple[str, ...] = ()

    @classmethod
    def of(cls, axes: Sequence[Axis], bins: Sequence[tuple[int, int]]) -> Place:
        """Place of these bins on these axes."""
        return cls(
            bins=tuple((int(a), int(b)) for a, b in bins),
            ranges=tuple(
                (float(axis.edges[a]), float(axis.edges[b + 1]))
                for axis, (a, b) in zip(axes, bins, strict=True)
            ),
            titles=tuple(axis.title or "xyz"[i] for i, axis in enumerate(axes)),
            labels=tuple(_labels(axis, a, b) for axis, (a, b) in zip(axes, bins, strict=True)),
        )

    @property
    def n_bins(self) -> int:
        """Number of bins inside."""
        return int(np.prod([b - a + 1 for a, b in self.bins]))

    def overlap(self, other: Place) -> float:
        """Intersection over union of both boxes, 0 to 1.

        >>> axes = [Axis.regular(4, 0, 4)]
        >>> Place.of(axes, [(0, 1)]).overlap(Place.of(axes, [(1, 2)]))  # doctest: +ELLIPSIS
        0.333...
        """
        common = 1
        for (a, b), (c, d) in zip(self.bins, other.bins, strict=True):
            common *= max(0, min(b, d) - max(a, c) + 1)
        return common / (self.n_bins + other.n_bins - common)

    def __str__(self) -> str:
        size = " x ".join(str(b - a + 1) for a, b in self.bins)
        noun = "bin" if self.n_bins == 1 else "bins"
        middles = [f"{number((low + high) / 2, 3)}" for low, high in self.ranges]
        labels = self.labels or ("",) * len(middles)
        at = ", ".join(
            f"{title.split('[')[0].strip()} = {label or middle + _unit(title)}"
            for title, middle, label in zip(self.titles, middles, labels, strict=True)
        )
        return f"{size} {noun} at {at}"


def number(value: float, digits: int = 4) -> str:
    """A number as people write it: no exponent from a thousand on.

    >>> number(26400.4), number(410.26), number(0.0123456)
    ('26,400', '410.3', '0.01235')
    """
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}g}"


def _labels(axis: Axis, first: int, last: int) -> str:
    names = [axis.labels[i] for i in sorted({first, last})] if axis.labels else [""]
    return " to ".join(names) if all(names) else ""


def _unit(title: str) -> str:
    start, end = title.find("["), title.find("]")
    return f" {title[start + 1 : end]}" if 0 <= start < end else ""


@dataclass(frozen=True)
class Reference:
    """Known-good lumisections that a histogram was compared with, and what they look like.

    ``lumisections`` holds ``(run_number, ls_number)``, nearest first; ``contents`` is
    ``(nx[, ny[, nz]])``, scaled to the entries of the histogram that was compared.
    """

    lumisections: tuple[tuple[int, int], ...]
    contents: Floats


@dataclass(frozen=True)
class Explanation:
    """Why a lumisection has its score, in terms that a shifter can check in the histogram.

    ``direction`` is "empty", "low", "high" or "none"; ``strength`` is observed / expected - 1;
    ``since`` the lumisection at which the difference began, as far as the stack shows it.
    """

    me: str
    run_number: int
    ls_number: int
    score: float
    place: Place | None
    direction: str
    strength: float
    observed: float
    expected: float
    since: int
    reference: Reference | None
    sentence: str


def describe(
    stack: HistogramStack,
    ls_number: int,
    score: float,
    place: Place | None,
    observed: float,
    expected: float,
    *,
    since: int | None = None,
    reference: Reference | None = None,
    what: str = "entries",
) -> Explanation:
    """Explanation with its sentence, from the place and what was seen and expected there."""
    strength = observed / expected - 1 if expected else float(observed > 0)
    direction = "low" if observed < expected else "high"
    word = f"{abs(strength):.0%} {direction}" if abs(strength) >= 0.005 else f"hardly {direction}"
    if not -1 <= strength < 9.99:  # what has a sign may be lower than nothing
        word = f"far too {direction}"
    if not expected and observed > 0:
        word = "filled"
    if what == "entries" and expected > 0 and observed <= 0.02 * expected:
        direction = word = "empty"
    started = ls_number if since is None else since
    name = stack.me.rsplit("/", 1)[-1]
    if place is None:
        direction, sentence = "none", f"{name}: nothing stands out in LS {ls_number}"
    else:
        numbers = f"expected {number(expected)}, seen {number(observed)}"
        sentence = f"{name}: {place}, {word} since LS {started}; {numbers}"
    return Explanation(
        me=stack.me,
        run_number=stack.run_number,
        ls_number=int(ls_number),
        score=float(score),
        place=place,
        direction=direction,
        strength=float(strength),
        observed=float(observed),
        expected=float(expected),
        since=int(started),
        reference=reference,
        sentence=sentence,
    )


@dataclass(frozen=True)
class Training:
    """Usable lumisections of all training stacks, one row each, in the order of the stacks.

    ``counts`` is ``(n, *bins)`` without flow; ``group`` numbers what must be held out together
    in a cross-fit: the run, or with one run only a quarter of it.
    """

    counts: Floats
    run_numbers: Ints
    ls_numbers: Ints
    group: Ints
    stacks: tuple[HistogramStack, ...]
    rows: tuple[NDArray[np.intp], ...]

    def __len__(self) -> int:
        return len(self.run_numbers)


def as_stacks(stacks: Stacks) -> tuple[HistogramStack, ...]:
    """The stacks as a tuple; ValueError if there is none or they differ in kind or binning."""
    listed = (stacks,) if isinstance(stacks, HistogramStack) else tuple(stacks)
    if not listed:
        raise ValueError("no stack to fit: want at least one")
    first = listed[0]
    for other in listed[1:]:
        check_axes(first.axes, other, f"run {first.run_number}")
        if first.is_profile != other.is_profile:
            raise ValueError(f"{first.me} is a {first.kind}, {other.me} a {other.kind}")
    return listed


def check_axes(axes: Sequence[Axis], stack: HistogramStack, origin: str) -> None:
    """Raise ValueError, naming the difference, unless the stack has this binning."""
    if len(axes) != len(stack.axes):
        raise ValueError(
            f"{stack.me}: {len(stack.axes)} axes in run {stack.run_number}, {len(axes)} in {origin}"
        )
    for i, (ours, theirs) in enumerate(zip(axes, stack.axes, strict=True)):
        if not ours.same_binning(theirs):
            raise ValueError(
                f"{stack.me}: binning of {'xyz'[i]} differs: {theirs!r} in run "
                f"{stack.run_number}, {ours!r} in {origin}"
            )


def condition(
    conditions: pd.DataFrame | None, stack: HistogramStack, column: str = "pileup"
) -> Floats:
    """One condition of every lumisection of the stack, ``(n_ls,)``; NaN where it is not known.

    ``conditions`` is indexed by (run_number, ls_number). Raises ValueError for another index.
    """
    if conditions is None or column not in conditions.columns:
        return np.full(len(stack), np.nan)
    if list(conditions.index.names) != ["run_number", "ls_number"]:
        raise ValueError(
            f"conditions indexed by {list(conditions.index.names)}, want run_number, ls_number"
        )
    if not conditions.index.is_unique:
        run, ls = conditions.index[conditions.index.duplicated()][0]
        raise ValueError(f"conditions hold run and lumisection ({run}, {ls}) more than once")
    runs = np.full(len(stack), stack.run_number)
    wanted = pd.MultiIndex.from_arrays([runs, stack.ls_numbers], names=conditions.index.names)
    return conditions[column].reindex(wanted).to_numpy(dtype=np.float64)


class Detector(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Estimator over stacks: `fit`, `score_samples`, `reasons`, `explain`, `save`, `load`.

    A subclass has ``_fit(training, conditions)`` and ``_score(stack, rows, conditions)`` and keeps
    what it learned in attributes that end in an underscore: arrays, numbers, texts, lists of
    those, other detectors, scikit-learn estimators. ``counts_only`` says that profiles are refused.
    ``score_kind`` is "p" where the score is -log10 of a p-value already, else "plain". ``lookback``
    0 says that a score depends on its lumisection alone; None, that it may depend on all before it
    in the run.
    """

    counts_only: ClassVar[bool] = True
    score_kind: ClassVar[str] = "plain"
    lookback: ClassVar[int | None] = None
    min_entries: float = 100.0

    # -- to be written by each detector ----------------------------------------------------------

    @abstractmethod
    def _fit(self, training: Training, conditions: pd.DataFrame | None) -> None:
        """Learn from the usable lumisections."""

    @abstractmethod
    def _score(
        self, stack: HistogramStack, rows: NDArray[np.intp], conditions: pd.DataFrame | None
    ) -> Floats:
        """Scores of these rows of the stack; NaN where conditions lack."""

    # -- what people call ------------------------------------------------------------------------

    def fit(self, stacks: Stacks, conditions: pd.DataFrame | None = None) -> Self:
        """This detector, fitted to known-good lumisections of one element.

        Lumisections that cannot be used (empty, not finite, negative, low statistics) are left
        out. Raises ValueError if fewer than 20 are left, all are alike and hold one bin, the
        binnings differ, or the kind is not one that this detector takes.
        """
        listed = as_stacks(stacks)
        first = listed[0]
        if self.counts_only and first.is_profile:
            raise ValueError(
                f"{first.me} is a {first.kind}: {type(self).__name__} takes counts, "
                "for profiles use Profiles"
            )
        self.me_ = first.me
        self.axes_ = [[axis.edges, axis.title] for axis in first.axes]
        training = self._training(listed)
        if len(training) < MIN_TRAINING:
            seen = sum(len(s) for s in listed)
            raise ValueError(
                f"{first.me}: {len(training)} usable lumisections of {seen} to learn from, "
                f"want at least {MIN_TRAINING}"
            )
        filled = (np.nan_to_num(training.counts) != 0).any(axis=0)
        if filled.sum() < 2 and not first.is_profile:
            raise ValueError(
                f"{first.me}: constant, {int(filled.sum())} bins ever filled: no shape to learn"
            )
        self.n_training_ = len(training)
        self.runs_ = sorted({s.run_number for s in listed})
        self._fit(training, conditions)
        return self

    def score_samples(
        self, stack: HistogramStack, conditions: pd.DataFrame | None = None
    ) -> Floats:
        """Strangeness of every lumisection, ``(n_ls,)``: high is strange, NaN is not assessed.

        `reasons` tells why a lumisection was not assessed. Raises NotFittedError before `fit`, and
        ValueError if the stack's binning or kind is not the model's.
        """
        self._check_fitted(stack)
        why = self._unusable(stack)
        rows = np.flatnonzero(why == "")
        scores = np.full(len(stack), np.nan)
        if len(rows):
            scores[rows] = self._score(stack, rows, conditions)
        return scores

    def reasons(
        self, stack: HistogramStack, conditions: pd.DataFrame | None = None
    ) -> dict[int, str]:
        """Why lumisections have no score, by number: those of the stack and those it misses."""
        self._check_fitted(stack)
        why = self._unusable(stack)
        unscored = np.isnan(self.score_samples(stack, conditions)) & (why == "")
        why[unscored] = self._unscored_reason()
        found = {int(n): str(w) for n, w in zip(stack.ls_numbers, why, strict=True) if w}
        found.update({int(n): "absent" for n in stack.missing})
        return dict(sorted(found.items()))

    def explain(
        self, stack: HistogramStack, ls_number: int, conditions: pd.DataFrame | None = None
    ) -> Explanation:
        """Where, how and since when a lumisection differs from what was expected.

        Raises KeyError if the stack lacks it, ValueError if it was not assessed.
        """
        self._check_fitted(stack)
        at = stack.position(ls_number)
        why = self._unusable(stack)[at]
        if why:
            raise ValueError(f"{stack.me}, LS {ls_number} is not assessed: {why}")
        return self._explain(stack, at, conditions)

    def _explain(
        self, stack: HistogramStack, at: int, conditions: pd.DataFrame | None
    ) -> Explanation:
        score = self._score(stack, np.array([at]), conditions)[0]
        return describe(stack, int(stack.ls_numbers[at]), score, None, 0.0, 0.0)

    def cross_scores(
        self, stacks: Stacks, conditions: pd.DataFrame | None = None
    ) -> tuple[Floats, Ints]:
        """Scores of known-good lumisections by detectors fitted on *other* runs, and their group.

        With one run only, quarters of it take the place of runs. Lumisections that cannot be used
        are left out. The scores are ``(n,)``.
        """
        from sklearn.base import clone

        training = self._training(as_stacks(stacks))
        scores = np.full(len(training), np.nan)
        for group in np.unique(training.group):
            test = training.group == group
            if len(training) - test.sum() < MIN_TRAINING:
                continue
            fitted = clone(self).fit(selected(training, ~test), conditions)
            scores[test] = np.concatenate(
                [fitted.score_samples(s, conditions) for s in selected(training, test)]
            )
        return scores, training.group

    def strain(self, scores: Floats) -> Floats:
        """Scores as their `tail` takes them; a detector with long tails bends them."""
        return scores

    def tail(self, scores: Floats) -> Tail:
        """Tail that turns strained scores into p-values, from ``scores`` of good lumisections.

        These must be of lumisections that the detector did not learn from (`cross_scores`). Scores
        that are p-values already need no other.
        """
        if self.score_kind == "p":
            return Tail(0.0, 1 / float(np.log(10)))
        return Tail.fit(self.strain(scores))

    # -- shared work -----------------------------------------------------------------------------

    def _training(self, stacks: Sequence[HistogramStack]) -> Training:
        rows = [np.flatnonzero(self._unusable(s) == "") for s in stacks]
        runs = np.concatenate([np.full(len(r), s.run_number) for s, r in zip(stacks, rows)])  # noqa: B905
        numbers = np.concatenate([s.ls_numbers[r] for s, r in zip(stacks, rows)])  # noqa: B905
        counts = np.concatenate([s.values()[r] for s, r in zip(stacks, rows)]).astype(np.float64)  # noqa: B905
        return Training(counts, runs, numbers, groups(runs), tuple(stacks), tuple(rows))

    def _unusable(self, stack: HistogramStack) -> NDArray[Any]:
        """Reason against every lumisection, ``(n_ls,)`` of texts, "" where there is none."""
        why = np.full(len(stack), "", dtype=object)
        if stack.is_profile:
            weights = stack.sum_of_weights
            assert weights is not None  # noqa: S101 (for the type checker)
            flat = weights.reshape(len(stack), -1)
            finite = np.isfinite(stack.contents.reshape(len(stack), -1)).all(axis=1)
        else:
            flat = stack.values().reshape(len(stack), -1)
            finite = np.ones(len(stack), dtype=bool)
        total = flat.sum(axis=1, dtype=np.float64)
        finite &= np.isfinite(total)
        low = flat.min(axis=1) if flat.shape[1] else np.zeros(len(stack))
        why[(total < self.min_entries) & finite] = "low statistics"
        why[(total == 0) & finite] = "empty"
        why[(low < 0) & finite] = "negative counts"
        why[~finite] = "not finite"
        return why

    def _unscored_reason(self) -> str:
        return "no conditions"

    def _check_fitted(self, stack: HistogramStack) -> None:
        if not hasattr(self, "axes_"):
            raise NotFittedError(f"{type(self).__name__} is not fitted: call fit first")
        check_axes(self._axes(), stack, f"the model of {self.me_}")
        if self.counts_only and stack.is_profile:
            raise ValueError(f"{stack.me} is a {stack.kind}: the model learned counts")

    def _axes(self) -> tuple[Axis, ...]:
        return tuple(Axis(np.asarray(edges), title=str(title)) for edges, title in self.axes_)

    # -- disk ------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write parameters and everything learned to one ``.npz`` file, without pickle.

        Raises ValueError, naming it, if something learned cannot be written so.
        """
        from ml4ad.detect import saved

        saved.write(self, path)


class Flat(Detector):
    """Detector that sees each histogram as a row of bins, whatever came before it.

    A subclass has ``_learn(counts, training)`` and ``_judge(counts)``; counts are ``(n, d)``.
    """

    lookback: ClassVar[int | None] = 0

    @abstractmethod
    def _learn(self, counts: Floats, training: Training) -> None:
        """Learn from usable histograms."""

    @abstractmethod
    def _judge(self, counts: Floats) -> Floats:
        """Scores of histograms, ``(n,)``."""

    def _unscored_reason(self) -> str:
        return "the detector gave no number"

    def _fit(self, training: Training, conditions: pd.DataFrame | None) -> None:  # noqa: ARG002
        self._learn(training.counts.reshape(len(training), -1), training)

    def _score(
        self,
        stack: HistogramStack,
        rows: NDArray[np.intp],
        conditions: pd.DataFrame | None,  # noqa: ARG002
    ) -> Floats:
        return self._judge(stack.values()[rows].reshape(len(rows), -1).astype(np.float64))


def selected(training: Training, mask: NDArray[np.bool_]) -> list[HistogramStack]:
    """Stacks of the training lumisections where ``mask`` is true; empty ones left out."""
    out, start = [], 0
    for stack, rows in zip(training.stacks, training.rows, strict=True):
        chosen = rows[mask[start : start + len(rows)]]
        start += len(rows)
        if len(chosen):
            out.append(stack.select(stack.ls_numbers[chosen]))
    return out


def groups(run_numbers: Ints, at_most: int = 4) -> Ints:
    """Number of the group that each lumisection is held out with, ``(n,)``.

    Runs are dealt to at most ``at_most`` groups of about equal size; one run alone is cut into as
    many consecutive parts.

    >>> groups(np.array([1, 1, 2, 3, 3, 3]), at_most=2)
    array([1, 1, 1, 0, 0, 0])
    """
    runs, inverse, sizes = np.unique(run_numbers, return_inverse=True, return_counts=True)
    if len(runs) == 1:
        return np.arange(len(run_numbers)) * at_most // max(len(run_numbers), 1)
    filled = np.zeros(min(at_most, len(runs)))
    group_of = np.zeros(len(runs), dtype=np.int64)
    for i in np.argsort(-sizes, kind="stable"):
        group_of[i] = np.argmin(filled)
        filled[group_of[i]] += sizes[i]
    return group_of[inverse]
