"""OPERATE: files and their errors, runs of notebooks, workers, the schedule; start and repeat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from ml4ad import ingest
from ml4ad.dashboards import page
from ml4ad.pipelines import records

if TYPE_CHECKING:
    from ml4ad.archive import Archive


class Operate(page.Page):
    """Widgets of the page; ``run_id`` is the notebook run chosen first, 0 the newest."""

    name = "operate"

    def __init__(self, archive: Archive | None = None, *, run_id: int = 0) -> None:
        super().__init__(archive)
        self._run_id = run_id
        self.files = widgets.HTML()
        self.runs = widgets.HTML()
        self.body.children = [self.files, self.runs]
        self.begin()

    def load(self) -> None:
        """Ask for everything that the page shows."""
        self.files.value = f"<h2>Files</h2>{page.table(ingest.states(self.archive))}"
        found = records.table(records.recent(self.archive.engine))
        self.runs.value = f"<h2>Runs of notebooks</h2>{page.table(found)}"

    def follow(self) -> None:
        """Everything is looked at again."""
        self.load()

    def view(self) -> dict[str, Any]:
        """What the address holds."""
        return {"id": self._run_id or ""}

    def apply(self, wanted: Mapping[str, Sequence[str]]) -> None:
        """Nothing yet can be asked for."""
