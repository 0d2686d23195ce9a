"""CERTIFY: from scores and verdicts to good, bad and not assessed lumisections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets
import pandas as pd

from ml4ad import verdict, workspaces
from ml4ad.conditions import ranges
from ml4ad.conditions.certified import certifications
from ml4ad.conditions.ranges import Ranges
from ml4ad.dashboards import controls, curves, page
from ml4ad.dashboards.browser import Plot
from ml4ad.verdict import Certificate

if TYPE_CHECKING:
    from ml4ad.archive import Archive

_NOTHING = ("none", "")
# Begins the value of a list that was handed in, which no stored one has.
_FILE = "file:"


class Certify(page.Page):
    """Widgets of the page; `certificate` is what is shown."""

    name = "certify"

    def __init__(self, archive: Archive | None = None, *, dataset: str = "") -> None:
        super().__init__(archive)
        self._runs: pd.DataFrame | None = None
        self.certificate: Certificate | None = None
        self._files: dict[str, Ranges] = {}
        self.dataset = widgets.Dropdown(description="Dataset", layout={"width": "400px"})
        self.runs = widgets.SelectMultiple(
            description="Runs", rows=6, layout={"width": "260px"}, tooltip="Runs to certify"
        )
        self.workspace = widgets.Dropdown(description="Workspace", options=[("all", "")])
        self.golden = widgets.Dropdown(description="Golden", options=[_NOTHING])
        self.dcs = widgets.Dropdown(description="DCS", options=[_NOTHING])
        self.lumi = widgets.BoundedFloatText(
            description="Least luminosity (1/\N{MICRO SIGN}b)", min=0, max=1e12
        )
        self.part = widgets.BoundedFloatText(
            description="Least part assessed", min=0, max=1, step=0.05, value=1.0
        )
        self.compare = widgets.Dropdown(description="Compare to", options=[_NOTHING])
        self.lumi.tooltip = "Least recorded luminosity of a lumisection, in 1/ub"
        self.part.tooltip = "Part of the elements with a model that must have a score"
        self.given = widgets.FileUpload(
            accept=".json,.txt", multiple=True, description="Add a list (JSON)", icon=""
        )
        self.given.layout.width = "180px"
        self.given.tooltip = "A list in CMS's format, for this page only; then choose it beside"
        self.map = Plot(label="state of each lumisection")
        self.summary = widgets.HTML()
        self.save = {
            "good": widgets.Button(description="Download good (golden JSON)"),
            "bad": widgets.Button(description="Download bad (JSON)"),
            "report": widgets.Button(description="Download all, with reasons"),
        }
        for button in self.save.values():
            button.layout.width = "220px"
        self.on(self.given, self._take)
        self.on(self.dataset, self._dataset_chosen)
        for control in (self.runs, self.workspace, self.golden, self.dcs):
            self.on(control, self.certify)
        for control in (self.lumi, self.part, self.compare):
            self.on(control, self.certify)
        for kind, button in self.save.items():
            self.on_click(button, self._saver(kind))
        for control in (self.workspace, self.golden, self.dcs, self.lumi, self.part, self.compare):
            control.layout.width, control.style.description_width = "310px", "150px"
        flow = {"flex_flow": "row wrap", "align_items": "flex-start", "grid_gap": "2px 6px"}
        demands = [self.workspace, self.golden, self.dcs, self.lumi, self.part, self.compare]
        demands.append(self.given)
        self._all = widgets.VBox(
            [
                widgets.HBox([self.dataset], layout=flow),
                widgets.HBox(
                    [self.runs, widgets.HBox(demands, layout=flow | {"width": "640px"})],
                    layout=flow,
                ),
                widgets.HBox([*self.save.values()], layout=flow),
                self.map,
                self.summary,
            ]
        )
        self._nothing = widgets.HTML()
        self._given = {"dataset": [dataset]} if dataset else {}
        self.begin()

    # -- what there is ----------------------------------------------------------------------------

    def load(self) -> None:
        """Ask for datasets, runs, workspaces and lists; certify what is chosen."""
        runs = self.archive.runs()
        self._runs = runs[runs["n_ls"] > 0]
        if not len(self._runs):
            self._nothing.value = page.EMPTY_ARCHIVE
            self.body.children = [self._nothing]
            return
        self.body.children = [self._all]
        with self.setting():
            before = self.dataset.value
            controls.offer(self.dataset, sorted(self._runs["dataset"].unique()))
            if before is None:
                self.dataset.value, _ = controls.latest(self._runs)
            own = [one.name for one in workspaces.stored(self.archive.engine)]
            controls.offer(self.workspace, [("all", ""), *((name, name) for name in own)])
            self._offer_lists()
        self._offer_runs()
        if self._given:
            given, self._given = self._given, {}
            self.apply(given)
        else:
            self.certify()

    def _offer_lists(self) -> None:
        lists = certifications(self.archive.engine)
        files = [(f"{name} (this page)", f"{_FILE}{name}") for name in self._files]
        for control, kind in ((self.golden, "golden"), (self.dcs, "dcs"), (self.compare, "")):
            names = lists[lists["kind"] == kind] if kind else lists
            stored = [(str(name), str(name)) for name in names["name"]]
            controls.offer(control, [_NOTHING, *stored, *files])

    def _take(self) -> None:
        """Lists that were handed in are offered, and the last one is compared to."""
        for file in self.given.value:
            content = bytes(file["content"])
            self._files[file["name"]] = ranges.parse(content, file["name"])
        with self.setting():
            self._offer_lists()
            if self.given.value:
                self.compare.value = f"{_FILE}{self.given.value[-1]['name']}"
        self.certify()

    def _list(self, chosen: str) -> str | Ranges | None:
        """A list by what a control holds: stored, of this page, or none."""
        if chosen.startswith(_FILE):
            return self._files[chosen.removeprefix(_FILE)]
        return chosen or None

    def follow(self) -> None:
        """An empty archive is looked at again."""
        if self._runs is None or not len(self._runs):
            self.load()

    def _offer_runs(self) -> None:
        if self._runs is None:
            return
        own = self._runs[self._runs["dataset"] == self.dataset.value]
        listed = controls.runs_listed(own.sort_values("run_number", ascending=False))
        known = {run for _, run in listed}
        kept = [run for run in self.runs.value if run in known]
        with self.setting():
            self.runs.options = listed
            self.runs.value = kept or [listed[0][1]]

    def _dataset_chosen(self) -> None:
        self._offer_runs()
        self.certify()

    # -- certify ----------------------------------------------------------------------------------

    def certify(self) -> None:
        """Certify the chosen runs as the controls demand, and show it."""
        self.certificate = None
        self.map.figure = {}
        for button in self.save.values():
            button.disabled = True
        if not self.runs.value:
            self.summary.value = page.empty("No run is chosen.", "Choose runs on the left.")
            return
        found = verdict.certification(
            self.archive,
            self.dataset.value,
            list(self.runs.value),
            workspace=self.workspace.value or None,
            golden=self._list(self.golden.value),
            dcs=self._list(self.dcs.value),
            min_lumi=self.lumi.value or None,
            min_assessed=self.part.value,
        )
        self.certificate = found
        self.map.figure = curves.certified(found.states)
        for button in self.save.values():
            button.disabled = False
        parts = ["<h2>Lumisections</h2>", page.table(_plain(found.summary()))]
        if not found.good:
            parts.append(
                page.empty(
                    "No lumisection is certified as good.",
                    "The reasons stand below. What was never scored is never good: see `ml4ad "
                    "score`, or ask for a smaller part of elements to be assessed.",
                )
            )
        for state in ("bad", "not assessed"):
            reasons = found.reasons(state)
            if len(reasons):
                parts += [f"<h2>{state.capitalize()}</h2>", page.table(_plain(reasons))]
        other = self._list(self.compare.value)
        if other is not None:
            differs = verdict.difference(self.archive, found, other)
            rows = [
                {"what": what.replace("_", " "), "LS": ranges.count(own)}
                | {"lumisections": ranges.dumps(own)}
                for what, own in differs.items()
            ]
            parts += ["<h2>Against the list</h2>", page.table(pd.DataFrame(rows))]
        self.summary.value = "".join(parts)

    def _saver(self, kind: str) -> Any:
        def save() -> None:
            content = self.content(kind)
            run = self.runs.value[0] if len(self.runs.value) == 1 else "runs"
            self.frame.download(f"{kind}_{run}.json", "application/json", content)

        return save

    def content(self, kind: str) -> bytes:
        """JSON of what is shown: good and bad in CMS's format, report with the reasons."""
        if self.certificate is None:
            raise ValueError("nothing is certified: choose runs first")
        if kind == "report":
            return self.certificate.to_json().encode()
        return ranges.dumps(self.certificate[kind]).encode()

    # -- address ----------------------------------------------------------------------------------

    def view(self) -> dict[str, Any]:
        """What the address holds."""
        if self.dataset.value is None:
            return {}
        return {
            "dataset": self.dataset.value,
            "run": list(self.runs.value),
            "workspace": self.workspace.value,
            "golden": self.golden.value,
            "dcs": self.dcs.value,
            "lumi": self.lumi.value or "",
            "part": "" if self.part.value == 1 else self.part.value,
            "compare": self.compare.value,
        }

    def apply(self, wanted: Mapping[str, Sequence[str]]) -> None:
        """Set the controls as the address says, then certify."""
        said = {name: values[0] for name, values in wanted.items()}
        with self.setting():
            if "dataset" in said:
                controls.choose(self.dataset, said["dataset"], "dataset")
                self._offer_runs()
            if "run" in wanted:
                asked = [controls.number(text, "run") for text in wanted["run"]]
                unknown = set(asked) - {run for _, run in self.runs.options}
                if unknown:
                    raise ValueError(f"run {min(unknown)} is not here")
                self.runs.value = asked
            for name in ("workspace", "golden", "dcs", "compare"):
                if name in said:
                    controls.choose(getattr(self, name), said[name], name)
            for name in ("lumi", "part"):
                if name in said:
                    getattr(self, name).value = float(said[name])
        self.certify()


def _plain(frame: pd.DataFrame) -> pd.DataFrame:
    """Run numbers as text: they are names, not amounts."""
    return frame.astype({"run_number": str})
