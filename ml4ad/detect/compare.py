"""Two models side by side, on the lumisections that both have scored."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ml4ad.detect.registry import ModelLike
from ml4ad.detect.scored import ScoreMap, score_map
from ml4ad.stack import Floats, Ints

if TYPE_CHECKING:
    from ml4ad.archive import Archive


def compare(
    archive: Archive, first: ModelLike, second: ModelLike, dataset: str, run_number: int
) -> pd.DataFrame:
    """How two models judge the same run: a row per element that either has scored.

    Columns: me, n_first and n_second (lumisections with a score), n_both, correlation (Spearman's,
    of the scores where both have one; NaN for fewer than three), flagged_first, flagged_second,
    flagged_both, and first_onset, second_onset (first lumisection that alarms, NA if none). Raises
    KeyError for a model or dataset that is not there, ValueError if one has not scored the run.
    """
    ours, theirs = (score_map(archive, own, dataset, run_number) for own in (first, second))
    for own in (ours, theirs):
        if not own.mes:
            raise ValueError(
                f"model {own.model} has not scored run {run_number} of {dataset}: "
                f"`ml4ad score --model {own.model} --run {run_number}`"
            )
    every = np.union1d(ours.ls_numbers, theirs.ls_numbers)
    rows = []
    for me in sorted({*ours.mes, *theirs.mes}):
        (a, a_flag), (b, b_flag) = (_of(own, me, every) for own in (ours, theirs))
        both = np.isfinite(a) & np.isfinite(b)
        ranked = pd.Series(a[both]).corr(pd.Series(b[both]), method="spearman")
        rows.append(
            {
                "me": me,
                "n_first": int(np.isfinite(a).sum()),
                "n_second": int(np.isfinite(b).sum()),
                "n_both": int(both.sum()),
                "correlation": ranked if both.sum() > 2 else np.nan,
                "flagged_first": int(a_flag.sum()),
                "flagged_second": int(b_flag.sum()),
                "flagged_both": int((a_flag & b_flag).sum()),
                "first_onset": int(every[a_flag][0]) if a_flag.any() else None,
                "second_onset": int(every[b_flag][0]) if b_flag.any() else None,
            }
        )
    return pd.DataFrame(rows).astype({"first_onset": "Int64", "second_onset": "Int64"})


def _of(own: ScoreMap, me: str, every: Ints) -> tuple[Floats, NDArray[np.bool_]]:
    scores, flagged = np.full(len(every), np.nan), np.zeros(len(every), dtype=bool)
    if me in own.mes:
        row, at = own.mes.index(me), np.searchsorted(every, own.ls_numbers)
        scores[at], flagged[at] = own.scores[row], own.flagged[row]
    return scores, flagged
