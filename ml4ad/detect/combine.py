"""Several detectors as one: each calibrated on runs it did not learn from, then combined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import clone

from ml4ad.detect.base import Detector, Explanation, Training, selected
from ml4ad.detect.calibrate import Tail, harmonic_mean
from ml4ad.detect.nearest import NearestReference
from ml4ad.detect.profiles import Profiles
from ml4ad.detect.scan import Scan
from ml4ad.stack import Floats, HistogramStack

#: p-value at which the scan's own reason is taken, even if another detector is more surprised.
_SURE = 1e-3


class Combined(Detector):
    """-log10 of the harmonic mean of several detectors' p-values: 3 is one in a thousand.

    Each detector's scores become p-values by a Gumbel tail through the bulk of its scores of known-
    good lumisections that it was *not* fitted on (other runs). One that cannot assess a
    lumisection is left out for it.

    ``detectors`` None: `NearestReference` and `Scan` for counts, `Profiles` for profiles. The first
    judges the whole histogram and what is there from the start, the second local faults and
    changes within the run.
    """

    counts_only: ClassVar[bool] = False
    score_kind: ClassVar[str] = "p"

    def __init__(
        self, detectors: Sequence[Detector] | None = None, *, min_entries: float = 100.0
    ) -> None:
        self.detectors = detectors
        self.min_entries = min_entries

    def _fit(self, training: Training, conditions: pd.DataFrame | None) -> None:
        self.detectors_ = [clone(d) for d in self._wanted(training.stacks[0])]
        self.tails_ = []
        usable = selected(training, np.ones(len(training), dtype=bool))
        for detector in self.detectors_:
            detector.fit(usable, conditions)
            tail = detector.tail(self._out_of_run(detector, training, conditions))
            self.tails_.append([tail.location, tail.width])

    def _wanted(self, stack: HistogramStack) -> list[Detector]:
        if self.detectors is not None:
            if not len(self.detectors):
                raise ValueError("no detector to combine: want at least one")
            return list(self.detectors)
        if stack.is_profile:
            return [Profiles(min_entries=self.min_entries)]
        return [
            NearestReference(min_entries=self.min_entries),
            Scan(min_entries=self.min_entries),
        ]

    def _out_of_run(
        self, detector: Detector, training: Training, conditions: pd.DataFrame | None
    ) -> Floats:
        if isinstance(detector, NearestReference | Scan | Combined):
            return detector.training_scores(training, conditions)
        return detector.cross_scores(
            selected(training, np.ones(len(training), dtype=bool)), conditions
        )[0]

    def training_scores(self, training: Training, conditions: pd.DataFrame | None = None) -> Floats:
        """Scores of the training lumisections by what did not learn from their runs, ``(n,)``."""
        logs = [
            Tail(*tail).log_p(d.strain(self._out_of_run(d, training, conditions)))
            for d, tail in zip(self.detectors_, self.tails_, strict=True)
        ]
        return -harmonic_mean(logs) / np.log(10)

    def log_p(self, stack: HistogramStack, conditions: pd.DataFrame | None = None) -> pd.DataFrame:
        """Natural logarithm of each detector's p-value: a row per lumisection (ls_number)."""
        self._check_fitted(stack)
        logs: dict[str, Floats] = {}
        for detector, tail in zip(self.detectors_, self.tails_, strict=True):
            scores = detector.score_samples(stack, conditions)
            logs[_name(detector, logs)] = Tail(*tail).log_p(detector.strain(scores))
        return pd.DataFrame(logs, index=pd.Index(stack.ls_numbers, name="ls_number"))

    def _score(
        self, stack: HistogramStack, rows: NDArray[np.intp], conditions: pd.DataFrame | None
    ) -> Floats:
        logs = self.log_p(stack, conditions).to_numpy()[rows]
        return -harmonic_mean(logs, axis=1) / np.log(10)

    def _explain(
        self, stack: HistogramStack, at: int, conditions: pd.DataFrame | None
    ) -> Explanation:
        """The reason of the detector that is most surprised, with the nearest known-good beside."""
        logs = self.log_p(stack, conditions).iloc[at]
        if logs.isna().all():
            raise ValueError(f"{stack.me}, LS {stack.ls_numbers[at]} is not assessed")
        number = int(stack.ls_numbers[at])
        winner = self.detectors_[int(np.nanargmin(logs.to_numpy()))]
        for detector, log_p in zip(self.detectors_, logs, strict=True):
            # The scan knows the place best: what it compares with has no noise of its own.
            if isinstance(detector, Scan) and log_p < np.log(_SURE):
                winner = detector
        reason = winner.explain(stack, number, conditions)
        score = float(-harmonic_mean(logs.to_numpy()) / np.log(10))
        reference = reason.reference
        for detector in self.detectors_:
            if isinstance(detector, NearestReference) and detector is not winner:
                reference = detector.explain(stack, number, conditions).reference
        return replace(reason, score=score, reference=reference)


def default(*, min_entries: float = 100.0) -> Combined:
    """The detector to use when nobody chooses: for counts and profiles of any number of axes."""
    return Combined(min_entries=min_entries)


def _name(detector: Detector, taken: dict[str, Floats]) -> str:
    name = type(detector).__name__
    return name if name not in taken else f"{name} {len(taken)}"
