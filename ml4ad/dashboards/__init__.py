"""The pages that Voila shows: each is a class whose ``widget`` a notebook displays."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ml4ad.dashboards.certify import Certify as Certify
    from ml4ad.dashboards.explore import Explore as Explore
    from ml4ad.dashboards.models import Models as Models
    from ml4ad.dashboards.operate import Operate as Operate
    from ml4ad.dashboards.shift import Shift as Shift

_HOMES = {name: name.lower() for name in ("Certify", "Explore", "Models", "Operate", "Shift")}

__all__ = ["Certify", "Explore", "Models", "Operate", "Shift"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ml4ad.dashboards' has no attribute {name!r}")
    return getattr(importlib.import_module(f"ml4ad.dashboards.{_HOMES[name]}"), name)
