"""Why a lumisection has no score: each has one or a reason, and never scored is never good."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

SCORED = 0
#: Number that is stored -> what people read. Numbers are never used anew.
REASONS: Mapping[int, str] = {
    1: "absent",
    2: "empty",
    3: "low statistics",
    4: "no conditions",
    5: "other binning",
    6: "not finite",
    7: "negative counts",
    8: "no model",
    9: "model unreadable",
    10: "histogram unreadable",
    11: "not of this model's kind",
    12: "failed",
    13: "other",
}
#: Reasons that may be gone at the next attempt, although nothing new came.
TRY_AGAIN = ("model unreadable", "histogram unreadable", "failed")
#: Reasons that more is told of, in the row's detail, and that stay.
TOLD = ("other binning", "not of this model's kind", "other")
_CODES = {text: code for code, text in REASONS.items()}


def code(text: str) -> int:
    """Number of a reason; that of "other" where a detector gives a reason of its own.

    >>> code("low statistics"), code("Mondays")
    (3, 13)
    """
    return _CODES.get(text, _CODES["other"])


def texts(codes: NDArray[np.uint8]) -> NDArray[np.object_]:
    """What the numbers mean, ``(n,)``; "" where there is a score.

    >>> texts(np.array([0, 1], dtype=np.uint8))
    array(['', 'absent'], dtype=object)
    """
    table = np.full(256, "other", dtype=object)
    table[SCORED] = ""
    for number, text in REASONS.items():
        table[number] = text
    return table[codes]
