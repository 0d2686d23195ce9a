"""MODELS: what was learned from what, how well it finds faults, and what is put to work."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets
import numpy as np
import pandas as pd
import sqlalchemy as sa

from ml4ad.conditions import ranges
from ml4ad.conditions.certified import certifications
from ml4ad.dashboards import controls, curves, page, started
from ml4ad.dashboards.browser import Plot
from ml4ad.detect import registry
from ml4ad.detect.compare import compare
from ml4ad.detect.prove import proofs
from ml4ad.detect.realised import realised
from ml4ad.detect.registry import Model
from ml4ad.detect.scored import ScoreMap, score_map
from ml4ad.store import schema, scoring

if TYPE_CHECKING:
    from ml4ad.archive import Archive

_LOOKS = (
    ("Learned from", "learned"),
    ("Scores", "scores"),
    ("Faults found", "faults"),
    ("Alarms", "alarms"),
    ("Compare", "compare"),
)
_ALL = ("all elements", "")
_LOOK_EVERY = 5
_FLOW = {"flex_flow": "row wrap", "align_items": "center", "grid_gap": "2px 6px"}

#: A run that a model has scored: dataset and number.
Scored = tuple[str, int]


class Models(page.Page):
    """Widgets of the page; ``model`` is shown first, "" the newest."""

    name = "models"

    def __init__(self, archive: Archive | None = None, *, model: str = "") -> None:
        super().__init__(archive)
        url = None if archive is None else archive.url
        self.starter = started.Starter(lambda: url)
        self._pulses = 0
        self._models: pd.DataFrame | None = None
        self._controls()
        self._given = {"model": [model]} if model else {}
        self.begin()

    def _controls(self) -> None:
        self.list = widgets.Select(rows=5, layout={"width": "auto"})
        self.strip = widgets.HTML()
        self.by = widgets.Text(placeholder="your name", layout={"width": "150px"})
        self.why = widgets.Text(placeholder="reason", layout={"width": "260px"})
        self.budget = widgets.BoundedFloatText(
            description="False alarms per shift", min=1e-6, max=1e6, layout={"width": "230px"}
        )
        self.budget.style.description_width = "initial"
        self.activate = widgets.Button(description="Put to work")
        self.retire = widgets.Button(description="Retire")
        self.look = widgets.ToggleButtons(options=list(_LOOKS))
        self.look.style.button_width = "112px"
        self.me = widgets.Dropdown(description="Element", options=[_ALL])
        self.me.layout.width = "520px"
        self.scored = widgets.Dropdown(description="Run", layout={"width": "460px"})
        self.other = widgets.Dropdown(description="with", layout={"width": "300px"})
        self.only = widgets.Dropdown(
            description="Only LS of", options=[("all that was scored", "")]
        )
        self.trials = widgets.BoundedIntText(
            description="Each fault", value=50, min=1, max=1000, layout={"width": "170px"}
        )
        self.trials.tooltip = "How often each fault is put in"
        self.prove = widgets.Button(description="Put faults in", layout={"width": "130px"})
        self.judge = widgets.Button(description="Score this run with both")
        self.judge.layout.width = "200px"
        self.said = widgets.HTML()
        self.first, self.second = Plot(label="picture"), Plot(label="picture")
        self.more = widgets.HTML()
        self.on(self.list, self._model_chosen)
        for control in (self.look, self.me, self.scored, self.other, self.only):
            self.on(control, self.show)
        self.on_click(self.activate, self._activate)
        self.on_click(self.retire, self._retire)
        self.on_click(self.prove, self._prove)
        self.on_click(self.judge, self._judge)
        self._fields: dict[str, tuple[widgets.Widget, ...]] = {
            "learned": (),
            "scores": (self.scored, self.me),
            "faults": (self.me, self.trials, self.prove),
            "alarms": (self.only,),
            "compare": (self.other, self.scored, self.me, self.judge),
        }
        self._form = widgets.HBox(layout=_FLOW)
        half = {"flex": "1 1 440px", "min_width": "0", "overflow": "visible"}
        for plot in (self.first, self.second):
            plot.layout = half
        self._all = widgets.VBox(
            [
                widgets.HTML("<h2>Models</h2>"),
                self.list,
                self.strip,
                widgets.HBox(
                    [self.by, self.why, self.budget, self.activate, self.retire], layout=_FLOW
                ),
                self.starter.widget,
                self.look,
                self._form,
                self.said,
                widgets.HBox([self.first, self.second], layout=_FLOW | {"width": "100%"}),
                self.more,
            ]
        )
        self._nothing = widgets.HTML()

    # -- what there is ----------------------------------------------------------------------------

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
        lists = certifications(self.archive.engine)["name"].astype(str)
        with self.setting():
            named = [_listed(row) for row in self._models.to_dict("records")]
            controls.offer(self.list, named)
            controls.offer(self.only, [("all that was scored", ""), *((n, n) for n in lists)])
        self.list.rows = min(max(len(named), 2), 5)
        given, self._given = self._given, {}
        if given:
            self.apply(given)
        else:
            self._model_chosen()

    def follow(self) -> None:
        """Models that were trained, changed or tried meanwhile are shown."""
        self._pulses += 1
        ended = self.starter.follow(self.archive.engine)
        if not ended and self._pulses % _LOOK_EVERY:
            return
        found = registry.models(self.archive)
        if ended or self._models is None or not found.equals(self._models):
            self.load()
            self.publish()

    @property
    def chosen(self) -> Model:
        """The model that is shown."""
        return registry.get(self.archive, self.list.value)

    def _model_chosen(self) -> None:
        model = self.chosen
        names = registry.learned(self.archive, model)
        runs = _runs_scored(self.archive, model)
        others = [option for option in self.list.options if option[1] != str(model)]
        with self.setting():
            self.budget.value = model.false_alarms
            controls.offer(self.me, [_ALL, *((name, name) for name in names)])
            controls.offer(
                self.scored, [(f"{run} of {dataset}", (dataset, run)) for dataset, run in runs]
            )
            controls.offer(self.other, others)
        self.activate.disabled = model.state == "training"
        self.retire.disabled = model.state not in ("active", "candidate")
        self.strip.value = self._strip(model, len(names))
        self.show()

    def _strip(self, model: Model, n_learned: int) -> str:
        word = {"active": "At work", "candidate": "Candidate, not at work"}.get(model.state)
        kind = {"active": "good", "training": "warn"}.get(model.state, "")
        facts = {
            "Model": str(model),
            "Detector": model.detector,
            "Elements": page.number(n_learned),
            "Learned from": f"{page.number(model.selection.get('n_lumisections'))} LS",
            "False alarms": f"{page.number(model.false_alarms)} per shift, nominal",
            "Made": f"{model.created_at:%Y-%m-%d %H:%M} by {model.created_by}",
        }
        return page.strip(word or model.state.capitalize(), kind, facts)

    # -- looks ------------------------------------------------------------------------------------

    def show(self) -> None:
        """Show the chosen side of the chosen model."""
        look = self.look.value
        if self._form.children != self._fields[look]:
            self._form.children = self._fields[look]
        self.said.value = self.more.value = ""
        figures: Sequence[Any] = getattr(self, f"_show_{look}")(self.chosen)
        for plot, figure in zip((self.first, self.second), [*figures, {}, {}], strict=False):
            plot.layout.display = "" if figure else "none"
            plot.figure = figure

    def _show_learned(self, model: Model) -> Sequence[Any]:
        spans = model.selection.get("lumisections") or {}
        demands = {
            name: own
            for name, own in model.selection.items()
            if own is not None and name not in ("lumisections", "n_lumisections")
        }
        told = {
            **{name: str(own) for name, own in demands.items()},
            "runs": ", ".join(spans) or page.NONE,
            "lumisections": ranges.dumps(ranges.of_mapping(spans)) if spans else page.NONE,
            "elements": " ".join(model.patterns),
            "scores": " ".join(model.datasets),
            "parameters": ", ".join(f"{k} = {v}" for k, v in model.parameters.items()) or page.NONE,
            "seed": str(model.seed),
            "code": model.code_version,
        }
        every = registry.elements(self.archive, model.model_id)
        refused = every.loc[every["reason"] != "", ["me", "reason"]]
        parts = [page.table(pd.DataFrame({"what": list(told), "value": list(told.values())}))]
        if len(refused):
            parts += ["<h2>Not learned</h2>", page.table(refused)]
        parts += ["<h2>History</h2>", page.table(registry.history(self.archive, model.model_id))]
        kept = every[every["reason"] == ""].drop(columns="reason")
        parts += ["<h2>Elements</h2>", page.table(kept)]
        self.more.value = "".join(parts)
        return ()

    def _map(self, model: Model) -> ScoreMap | None:
        if self.scored.value is None:
            self.said.value = page.empty(
                f"Model {model} has scored no run.",
                f"Score: `ml4ad score --model {model}`, or on the page Operate.",
            )
            return None
        return score_map(self.archive, model.model_id, *self.scored.value)

    def _show_scores(self, model: Model) -> Sequence[Any]:
        found = self._map(model)
        if found is None:
            return ()
        rows = np.array([self.me.value in ("", me) for me in found.mes], dtype=bool)
        if not rows.any():
            self.said.value = page.empty(
                f"{self.me.value} has no score in run {found.run_number}.", "Choose another run."
            )
            return ()
        log_p, flagged = found.log_p[rows], found.flagged[rows]
        n_scored = int((found.codes[rows] == 0).sum())
        nominal = n_scored * float(np.exp(found.log_alpha))
        self.said.value = (
            f"<p>{page.number(n_scored)} of {page.number(log_p.size)} pairs of element and "
            f"lumisection have a score; {page.number(int(flagged.sum()))} alarm, "
            f"{page.number(nominal, 2)} would by chance if all were good.</p>"
        )
        figures = [curves.significances(log_p, found.log_alpha)]
        if self.me.value:
            fitted = registry.fitted(self.archive, model.model_id, self.me.value)
            threshold = fitted.tail.threshold(float(np.exp(found.log_alpha)))
            strains = fitted.detector.strain(found.scores[rows][0])
            figures.append(curves.scores(strains, threshold))
        return figures

    def _show_faults(self, model: Model) -> Sequence[Any]:
        known = proofs(model)
        shown = {me: own for me, own in known.items() if self.me.value in ("", me)}
        if not shown:
            of = f" in {self.me.value}" if self.me.value else ""
            self.said.value = page.empty(
                f"Nobody has put faults{of} to try model {model}.",
                "`Put faults in` does it, on lumisections that the detector has not seen; it takes "
                "minutes. Of all elements the first five are tried.",
            )
            return ()
        rows = [
            {"me": me, "fault": fault} | own
            for me, proof in shown.items()
            for fault, own in proof["faults"].items()
        ]
        table = pd.DataFrame(rows).rename(columns={"iou": "place (IoU)"})
        self.more.value = page.table(table)
        me, proof = next(iter(shown.items()))
        runs = ", ".join(map(str, proof["test_runs"]))
        self.said.value = (
            f"<p><b>{html.escape(me)}</b>: each fault {proof['n_trials']} times in run {runs}, "
            f"of which the detector has seen nothing. Without faults "
            f"{page.number(proof['alarms'])} alarms there, "
            f"nominal {page.number(proof['nominal'], 2)}.</p>"
        )
        return curves.roc(proof["curves"]), curves.found_within(proof["faults"])

    def _show_alarms(self, model: Model) -> Sequence[Any]:
        found = realised(self.archive, model.model_id, only=self.only.value or None)
        if not len(found):
            self.said.value = page.empty(
                f"Model {model} has scored no lumisection of these.",
                f"Score: `ml4ad score --model {model}`; or choose another list.",
            )
            return ()
        nominal, alarms = float(found["nominal"].sum()), int(found["realised"].sum())
        self.said.value = (
            f"<p>{page.number(alarms)} alarms, nominal {page.number(nominal, 3)}, on "
            f"{page.number(int(found['n_ls'].sum()))} lumisections. On known-good lumisections the "
            "two agree; where faults are, there are more.</p>"
        )
        beyond = _beyond_chance(found["realised"], found["nominal"])
        shown = found.astype({"run_number": str}).assign(
            judged=["beyond chance" if one else "" for one in beyond]
        )
        self.more.value = page.table(
            shown.rename(columns={"judged": "against chance"}), marked={"realised": beyond}
        )
        return (
            curves.alarms_by_run(found["run_number"].tolist(), found["nominal"], found["realised"]),
        )

    def _show_compare(self, model: Model) -> Sequence[Any]:
        if self.other.value is None:
            self.said.value = page.empty("There is no other model to compare with.")
            return ()
        if self.scored.value is None:
            self._map(model)
            return ()
        dataset, run_number = self.scored.value
        other = registry.get(self.archive, self.other.value)
        theirs = score_map(self.archive, other.model_id, dataset, run_number)
        if not theirs.mes:
            self.said.value = page.empty(
                f"Model {other} has not scored run {run_number} of {dataset}.",
                "`Score this run with both` does it.",
            )
            return ()
        table = compare(self.archive, model.model_id, other.model_id, dataset, run_number)
        words = {"first": str(model), "second": str(other)}
        self.more.value = page.table(
            table.rename(columns=lambda name: " ".join(words.get(p, p) for p in name.split("_")))
        )
        ours = score_map(self.archive, model.model_id, dataset, run_number)
        both = [me for me in ours.mes if me in theirs.mes and self.me.value in ("", me)]
        self.said.value = (
            f"<p>{words['first']} alarms {page.number(int(table['flagged_first'].sum()))} times, "
            f"{words['second']} {page.number(int(table['flagged_second'].sum()))} times, both "
            f"{page.number(int(table['flagged_both'].sum()))} times.</p>"
        )
        if not both:
            return ()
        pairs = [_shared(ours, theirs, me) for me in both]
        numbers = np.concatenate([own[0] for own in pairs])
        log_p = np.concatenate([own[1] for own in pairs]), np.concatenate([own[2] for own in pairs])
        alphas = ours.log_alpha, theirs.log_alpha
        return (curves.against((str(model), str(other)), log_p, alphas, numbers),)

    # -- actions ----------------------------------------------------------------------------------

    def _activate(self) -> None:
        model = self.chosen
        budget = self.budget.value if self.budget.value != model.false_alarms else None
        changed = registry.activate(
            self.archive, model.model_id, why=self.why.value, by=self._name(), false_alarms=budget
        )
        self.load()
        self.note(f"{changed} is at work.")

    def _retire(self) -> None:
        changed = registry.retire(
            self.archive, self.chosen.model_id, why=self.why.value, by=self._name()
        )
        self.load()
        self.note(f"{changed} is retired; its scores stay.")

    def _name(self) -> str:
        name = self.by.value.strip()
        if not name:
            raise ValueError("say who you are: your name goes into the history of the model")
        return name

    def _prove(self) -> None:
        given = {"model": self.list.value, "n_trials": self.trials.value}
        self.starter.begin(
            ["prove"], given | ({"elements": [self.me.value]} if self.me.value else {})
        )

    def _judge(self) -> None:
        if self.scored.value is None or self.other.value is None:
            raise ValueError("choose another model and a run first")
        dataset, run_number = self.scored.value
        both = [self.list.value, self.other.value]
        self.starter.begin(
            ["score"],
            {"models": both, "dataset": dataset, "run_numbers": [run_number], "workers": 0},
        )

    # -- address ----------------------------------------------------------------------------------

    def view(self) -> dict[str, Any]:
        """What the address holds."""
        if self._models is None or self.list.value is None:
            return {}
        out: dict[str, Any] = {"model": self.list.value, "look": self.look.value}
        used = self._fields[self.look.value]
        for name, control in (("me", self.me), ("with", self.other), ("only", self.only)):
            if control in used:
                out[name] = control.value
        if self.scored in used and self.scored.value is not None:
            out |= {"dataset": self.scored.value[0], "run": self.scored.value[1]}
        return out

    def apply(self, wanted: Mapping[str, Sequence[str]]) -> None:
        """Show the model, and the side of it, that the address names."""
        said = {name: values[0] for name, values in wanted.items()}
        with self.setting():
            if "model" in said:
                controls.choose(self.list, str(registry.get(self.archive, said["model"])), "model")
            if "look" in said:
                controls.choose(self.look, said["look"], "look")
        self._model_chosen()
        with self.setting():
            for name, control in (("me", self.me), ("with", self.other), ("only", self.only)):
                if name in said:
                    controls.choose(control, said[name], name)
            if "run" in said:
                asked = said.get("dataset", ""), controls.number(said["run"], "run")
                controls.choose(self.scored, asked, "scored run")
        self.show()


def _listed(row: Mapping[Any, Any]) -> tuple[str, str]:
    """A model as an option: in words, and as it is named."""
    name = f"{row['name']}:{row['version']}"
    said = [row["state"], row["detector"], f"{row['n_elements']} elements"]
    if row["n_lumisections"] > 0:
        said.append(f"{page.number(int(row['n_lumisections']))} LS")
    return f"{name}: {', '.join(said)}, {row['created_at']:%Y-%m-%d %H:%M}", name


def _beyond_chance(realised: Iterable[int], nominal: Iterable[float]) -> list[bool]:
    """Whether so many alarms, or more, come in less than 1 % of runs where all is good."""
    from scipy.stats import poisson

    return [bool(poisson.sf(n - 1, mean) < 0.01) for n, mean in zip(realised, nominal, strict=True)]


def _runs_scored(archive: Archive, model: Model) -> list[Scored]:
    """Runs that a model has scored, the newest first."""
    score, dataset = scoring.score, schema.dataset
    query = (
        sa.select(dataset.c.dataset, score.c.run_number)
        .distinct()
        .join_from(score, dataset, dataset.c.dataset_id == score.c.dataset_id)
        .where(score.c.model_id == model.model_id)
        .order_by(score.c.run_number.desc(), dataset.c.dataset)
    )
    with archive.engine.connect() as connection:
        return [(str(name), int(run)) for name, run in connection.execute(query)]


def _shared(ours: ScoreMap, theirs: ScoreMap, me: str) -> tuple[Any, Any, Any]:
    """Lumisections in which both have a score of the element, and both logarithms of p."""
    numbers, here, there = np.intersect1d(ours.ls_numbers, theirs.ls_numbers, return_indices=True)
    first = ours.log_p[ours.mes.index(me), here]
    second = theirs.log_p[theirs.mes.index(me), there]
    kept = np.isfinite(first) & np.isfinite(second)
    return numbers[kept], first[kept], second[kept]
