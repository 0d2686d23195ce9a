"""MODELS: what was learned from what, how well it finds faults, and what is put to work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets
import pandas as pd

from ml4ad.dashboards import controls, page
from ml4ad.detect import registry

if TYPE_CHECKING:
    from ml4ad.archive import Archive


class Models(page.Page):
    """Widgets of the page; ``model`` is shown first, "" the newest."""

    name = "models"

    def __init__(self, archive: Archive | None = None, *, model: str = "") -> None:
        super().__init__(archive)
        self._models: pd.DataFrame | None = None
        self.model = widgets.Dropdown(description="Model", layout={"width": "400px"})
        self.list = widgets.HTML()
        self._all = widgets.VBox([self.model, self.list])
        self._nothing = widgets.HTML()
        self._given = {"model": [model]} if model else {}
        self.on(self.model, self._refresh)
        self.begin()

    def load(self) -> None:
        """Ask for the models; show the chosen one."""
        self._models = registry.models(self.archive)
        if not len(self._models):
            self._nothing.value = page.empty(
                "No model was trained yet.",
                "Train one: `ml4ad train`, or the notebook `train`. This page follows by itself.",
            )
            self.body.children = [self._nothing]
            return
        self.body.children = [self._all]
        with self.setting():
            found = self._models.to_dict("records")
            controls.offer(self.model, [f"{row['name']}:{row['version']}" for row in found])
        given, self._given = self._given, {}
        if given:
            self.apply(given)
        else:
            self._refresh()

    def _refresh(self) -> None:
        if self._models is not None:
            shown = self._models.assign(patterns=self._models["patterns"].map(" ".join))
            self.list.value = page.table(shown)

    def follow(self) -> None:
        """Models that were trained meanwhile are shown."""
        found = registry.models(self.archive)
        if self._models is None or not found.equals(self._models):
            self.load()
            self.publish()

    def view(self) -> dict[str, Any]:
        """What the address holds."""
        return {"model": self.model.value}

    def apply(self, wanted: Mapping[str, Sequence[str]]) -> None:
        """Show the model that the address names."""
        if "model" in wanted:
            with self.setting():
                controls.choose(self.model, wanted["model"][0], "model")
        self._refresh()
