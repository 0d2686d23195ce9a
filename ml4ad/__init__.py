"""Finds anomalies in the data quality of the CMS experiment.

DQMIO files are read (`ml4ad.dqmio`), kept in PostgreSQL (`ml4ad.store`), and come back as arrays
(`ml4ad.connect`), so that detectors can learn what is normal and people can see what is not.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ml4ad import dqmio as dqmio
    from ml4ad.archive import Archive as Archive
    from ml4ad.archive import connect as connect
    from ml4ad.stack import Axis as Axis
    from ml4ad.stack import HistogramStack as HistogramStack

__version__ = version("ml4ad")

# Where each public name lives; looked up on first use, so that `import ml4ad` costs nothing.
_HOMES = {
    "HistogramStack": "ml4ad.stack",
    "Axis": "ml4ad.stack",
    "connect": "ml4ad.archive",
    "Archive": "ml4ad.archive",
}
_MODULES = (
    "dqmio",
    "settings",
    "simulate",
    "store",
    "workspaces",
    "conditions",
    "ingest",
    "archive",
    "trends",
    "detect",
    "verdict",
    "pictures",
    "pipelines",
)

__all__ = ["Archive", "Axis", "HistogramStack", "connect", *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"ml4ad.{name}")
    raise AttributeError(f"module 'ml4ad' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
