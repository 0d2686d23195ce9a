"""OMS, Run Registry, golden and DCS JSON: files first, live clients behind the same call."""

from ml4ad.conditions import ranges
from ml4ad.conditions.certified import (
    certification,
    certifications,
    flags,
    reference_run,
    references,
    states,
)
from ml4ad.conditions.choose import as_ranges, good
from ml4ad.conditions.complete import completeness
from ml4ad.conditions.provide import OfflineWarning, load
from ml4ad.conditions.query import lumisections, rates, runs
from ml4ad.conditions.record import Certification, Conditions
from ml4ad.conditions.storage import Loaded

__all__ = [
    "Certification",
    "Conditions",
    "Loaded",
    "OfflineWarning",
    "as_ranges",
    "certification",
    "certifications",
    "completeness",
    "flags",
    "good",
    "load",
    "lumisections",
    "ranges",
    "rates",
    "reference_run",
    "references",
    "runs",
    "states",
]
