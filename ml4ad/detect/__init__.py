"""Detectors that learn what is normal from known-good lumisections and give reasons."""

from __future__ import annotations

from ml4ad.detect.base import Detector, Explanation, Place, Reference, load
from ml4ad.detect.nearest import NearestReference
from ml4ad.detect.scan import Scan

__all__ = ["Detector", "Explanation", "NearestReference", "Place", "Reference", "Scan", "load"]
