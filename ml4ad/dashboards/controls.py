"""Choices of controls, and what an address says of them."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

if TYPE_CHECKING:
    import pandas as pd


def query(view: Mapping[str, Any]) -> str:
    """Query string of a view, escaped for HTML."""
    return html.escape(urlencode({k: v for k, v in view.items() if v}, doseq=True))


def offer(control: Any, options: Sequence[Any]) -> None:
    """Set the options, keeping what is chosen where it is still there, else the first."""
    values = [one[1] if isinstance(one, tuple) else one for one in options]
    kept = control.value
    if list(control.options) != list(options):
        control.options = list(options)
    control.value = kept if kept in values else (values[0] if values else None)


def choose(control: Any, wanted: Any, name: str) -> None:
    """Choose what an address says; ValueError, naming what there is, if that is not offered."""
    values = [one[1] if isinstance(one, tuple) else one for one in control.options]
    if wanted not in values:
        shown = ", ".join(map(str, values[:8])) or "none"
        raise ValueError(f"{name} {wanted!r} is not here; there are {shown}")
    control.value = wanted


def number(text: str, name: str) -> int:
    """A whole number of an address; ValueError naming which."""
    if not text.isdecimal():
        raise ValueError(f"{name} {text!r}: want a number")
    return int(text)


def latest(runs: pd.DataFrame) -> tuple[str, int]:
    """Dataset and number of the newest run; IndexError if there is none."""
    row = runs.sort_values(["run_number", "dataset"]).iloc[-1]
    return str(row["dataset"]), int(row["run_number"])


def runs_listed(runs: pd.DataFrame) -> list[tuple[str, int]]:
    """Runs with their number of lumisections, as options."""
    numbers, counts = runs["run_number"].tolist(), runs["n_ls"].tolist()
    return [(f"{run} ({n_ls} LS)", run) for run, n_ls in zip(numbers, counts, strict=True)]
