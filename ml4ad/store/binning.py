"""What the lumisections of a block share: kind, axes, title. As text, stored once per text.

ASCII JSON, because titles and labels come from files and may hold what PostgreSQL refuses in text.
Floats are written so that they come back exactly.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from typing import Any

import numpy as np

from ml4ad.stack import Axis, HistogramStack


def describe(stack: HistogramStack) -> str:
    """Text from which `parse` gives back all of a stack that is not an array of lumisections."""
    described: dict[str, Any] = {
        "kind": stack.kind,
        "axes": [_axis_record(axis) for axis in stack.axes],
        "title": stack.title,
    }
    if stack.flags:
        described["flags"] = stack.flags
    if stack.error_mode:
        described["error_mode"] = stack.error_mode
    if tuple(stack.value_range) != (0.0, 0.0):
        described["value_range"] = [float(limit) for limit in stack.value_range]
    return json.dumps(described, separators=(",", ":"))


@lru_cache(maxsize=4096)
def parse(description: str) -> dict[str, Any]:
    """Arguments of `HistogramStack` that the text describes."""
    record = json.loads(description)
    return {
        "kind": record["kind"],
        "axes": tuple(_axis(axis) for axis in record["axes"]),
        "title": record["title"],
        "flags": record.get("flags", 0),
        "error_mode": record.get("error_mode", ""),
        "value_range": tuple(record.get("value_range", (0.0, 0.0))),
    }


def digest(description: str) -> bytes:
    """Short name of a description, ``(16,)`` bytes: its BLAKE2b."""
    return hashlib.blake2b(description.encode("ascii"), digest_size=16).digest()


@lru_cache(maxsize=4096)
def _axis_record(axis: Axis) -> dict[str, Any]:
    record: dict[str, Any] = {"name": axis.name}
    low, high = float(axis.edges[0]), float(axis.edges[-1])
    regular = Axis.regular(axis.n_bins, low, high) if _may_be_regular(axis) else None
    if regular is not None and np.array_equal(regular.edges, axis.edges):
        record["regular"] = [axis.n_bins, low, high]
    else:
        record["edges"] = axis.edges.tolist()
    if axis.variable:
        record["variable"] = True
    if axis.title:
        record["title"] = axis.title
    if axis.labels:
        record["labels"] = list(axis.labels)
    return record


def _may_be_regular(axis: Axis) -> bool:
    # The same sum as in Axis.regular, without its refusal of steps that vanish in rounding.
    low, high = axis.edges[0], axis.edges[-1]
    return bool(low + (high - low) / axis.n_bins == axis.edges[1]) or axis.n_bins == 1


def _axis(record: dict[str, Any]) -> Axis:
    described = {
        "title": record.get("title", ""),
        "name": record["name"],
        "labels": tuple(record.get("labels", ())),
    }
    if "edges" in record:
        edges = np.array(record["edges"], dtype=np.float64)
    else:
        edges = Axis.regular(*record["regular"]).edges
    return Axis(edges, variable=record.get("variable", False), **described)
