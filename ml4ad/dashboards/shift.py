"""SHIFT: which run, is it all right, where not, since when, and what people say of it."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets
import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from ml4ad import verdict
from ml4ad.dashboards import controls, glance, page, plots
from ml4ad.dashboards.browser import Plot
from ml4ad.dashboards.held import Held, Key
from ml4ad.dashboards.news import News
from ml4ad.detect import alarms, registry
from ml4ad.detect.reasons import REASONS
from ml4ad.detect.scored import ScoreMap, score_map
from ml4ad.dqmio.names import matcher
from ml4ad.stack import Floats, Ints
from ml4ad.store import schema

if TYPE_CHECKING:
    import pandas as pd

    from ml4ad.archive import Archive
    from ml4ad.detect.base import Explanation

#: Without a new file for so long, the page says so.
SILENCE_S = 1800
#: News come by themselves; what nobody tells (conditions, files that were forgotten) is looked for
#: every so many pulses.
_LOOK_EVERY = 15
_PER_PB = "pb\N{SUPERSCRIPT MINUS}\N{SUPERSCRIPT ONE}"


@dataclass(frozen=True)
class Board:
    """Scores of all models of a run, elements down: grouped by subsystem, worst first.

    ``log_p`` and ``codes`` are ``(n_rows, n_ls)``; ``maps`` and ``rows`` say where a row is from.
    """

    mes: tuple[str, ...]
    ls_numbers: Ints
    log_p: Floats
    codes: NDArray[np.uint8]
    maps: tuple[ScoreMap, ...]
    log_alpha: float

    def row(self, me: str) -> int:
        """Row of an element; KeyError if it has none."""
        if me not in self.mes:
            raise KeyError(f"{me} has no score in this run")
        return self.mes.index(me)

    def scored(self, me: str) -> ScoreMap:
        """The model's map in which the element is; KeyError if there is none."""
        for one in self.maps:
            if me in one.mes:
                return one
        raise KeyError(f"{me} has no score in this run")


def board(maps: Sequence[ScoreMap]) -> Board | None:
    """One board of the maps of several models; None if they hold no score."""
    filled = [one for one in maps if one.mes]
    if not filled:
        return None
    numbers = np.unique(np.concatenate([one.ls_numbers for one in filled]))
    best: dict[str, tuple[Floats, NDArray[np.uint8]]] = {}
    for one in filled:
        at = np.searchsorted(numbers, one.ls_numbers)
        for i, me in enumerate(one.mes):
            log_p, codes = np.full(len(numbers), np.nan), np.ones(len(numbers), dtype=np.uint8)
            log_p[at], codes[at] = one.log_p[i], one.codes[i]
            if me in best:
                # Of several models the one that sees most counts.
                theirs, their_codes = best[me]
                ours = (codes == 0) & ((their_codes != 0) | (log_p < theirs))
                log_p, codes = np.where(ours, log_p, theirs), np.where(ours, codes, their_codes)
            best[me] = log_p, codes
    least = {me: float(np.nanmin(log_p, initial=0)) for me, (log_p, _) in best.items()}
    groups: dict[str, float] = {}
    for me, value in least.items():
        group = me.split("/", 1)[0]
        groups[group] = min(groups.get(group, 0.0), value)
    order = sorted(best, key=lambda me: (groups[me.split("/", 1)[0]], me.split("/")[0], least[me]))
    return Board(
        tuple(order),
        numbers,
        np.array([best[me][0] for me in order]),
        np.array([best[me][1] for me in order]),
        tuple(filled),
        max(one.log_alpha for one in filled),
    )


class Shift(page.Page):
    """Widgets and pictures of the page; ``run_number`` 0 opens the newest, and follows."""

    name = "shift"

    def __init__(
        self, archive: Archive | None = None, run_number: int = 0, *, dataset: str = ""
    ) -> None:
        super().__init__(archive)
        self._held = Held()
        self._news = News()
        self._pulses = 0
        self._runs: pd.DataFrame | None = None
        self._board: Board | None = None
        self._incidents: pd.DataFrame | None = None
        self._at: tuple[str, int] | None = None
        self._whole: tuple[str, int] | None = None
        self._facts: dict[str, str] = {}
        self._last: datetime | None = None
        self._controls()
        given = {"dataset": dataset, "run": run_number or ""}
        self._given = {name: [str(value)] for name, value in given.items() if value}
        self.begin()

    def _controls(self) -> None:
        self.dataset = widgets.Dropdown(description="Dataset", layout={"width": "400px"})
        self.run = widgets.Dropdown(description="Run", layout={"width": "240px"})
        self.newest = widgets.Checkbox(
            description="follow the newest run", value=True, indent=False, layout={"width": "170px"}
        )
        self.strip = widgets.HTML()
        self.map = Plot(label="alarm map: arrow keys choose")
        self.list = widgets.Select(rows=6, tooltip="Incidents", layout={"width": "auto"})
        self.list.add_class("ml4ad-incidents")
        self.reason = widgets.HTML()
        self.plot = Plot(label="histogram and reference")
        self.trend = Plot(label="significance over lumisections")
        self.by = widgets.Text(placeholder="your name", layout={"width": "150px"})
        self.why = widgets.Text(placeholder="reason or comment", layout={"width": "280px"})
        self.first = widgets.BoundedIntText(description="LS", min=1, max=1_000_000, value=1)
        self.last = widgets.BoundedIntText(description="to", min=1, max=1_000_000, value=1)
        for box in (self.first, self.last):
            box.layout.width, box.style.description_width = "130px", "26px"
        self.scope = widgets.Dropdown(
            options=[("of this element", "me"), ("of all elements", "all")],
            tooltip="What it is said of",
            layout={"width": "150px"},
        )
        kinds = {"seen": "Seen", "known": "Known problem", "bad": "Bad", "good": "Good"}
        self.says = {
            kind: widgets.Button(description=text, layout={"width": "118px"})
            for kind, text in kinds.items()
        }
        self.verdicts = widgets.HTML()
        self._listing = widgets.HTML("<h2>What is wrong</h2>")
        self.on(self.dataset, self._dataset_chosen)
        self.on(self.run, self._run_chosen)
        self.on(self.list, self._incident_chosen)
        self.on(self.map, self._cell_chosen, "clicked")
        for box in (self.first, self.last):
            self.on(box, self._mark)
        for kind, button in self.says.items():
            self.on_click(button, partial(self.say, kind))
        flow = {"flex_flow": "row wrap", "align_items": "center", "grid_gap": "2px 6px"}
        self._detail = widgets.VBox(
            [
                self.reason,
                self.plot,
                widgets.HBox([self.by, self.why, self.first, self.last, self.scope], layout=flow),
                widgets.HBox([*self.says.values()], layout=flow),
                self.trend,
            ]
        )
        both = widgets.Box([self.map, self._detail])
        both.add_class("ml4ad-two")
        self._all = widgets.VBox(
            [
                widgets.HBox([self.dataset, self.run, self.newest], layout=flow),
                self.strip,
                self._listing,
                self.list,
                both,
                self.verdicts,
            ]
        )
        self._nothing = widgets.HTML()

    # -- what there is ----------------------------------------------------------------------------

    def load(self) -> None:
        """Ask for runs, scores, incidents and verdicts; keep what is chosen."""
        # First: what is told from now on is not in what is read below.
        self._news.take(self.archive.engine)
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
        self._offer_runs()
        if self._given:
            given, self._given = self._given, {}
            self.apply(given)
        else:
            self._refresh()

    def _offer_runs(self) -> None:
        if self._runs is None:
            return
        own = self._runs[self._runs["dataset"] == self.dataset.value]
        listed = controls.runs_listed(own.sort_values("run_number", ascending=False))
        with self.setting():
            before = self.run.value
            controls.offer(self.run, listed)
            if before is None or self.newest.value:
                self.run.value = listed[0][1]

    def _dataset_chosen(self) -> None:
        with self.setting():
            self.newest.value = True
        self._offer_runs()
        self._at = None
        self._refresh()

    def _run_chosen(self) -> None:
        with self.setting():
            self.newest.value = self.run.value == self.run.options[0][1]
        self._at = None
        self._refresh()

    def follow(self) -> None:
        """Take the news, and look for what nobody tells from time to time."""
        news = self._news.take(self.archive.engine)
        self._pulses += 1
        look = self._pulses % _LOOK_EVERY == 0 or any(one.get("what") == "file" for one in news)
        if look or self._news.missed or self._runs is None or not len(self._runs):
            runs = self.archive.runs()
            runs = runs[runs["n_ls"] > 0]
            if self._news.missed or self._runs is None or not runs.equals(self._runs):
                self.load()
                self.publish()
                return
            self._ask_strip()
        if any(one.get("run_number") == self.run.value for one in news):
            self._refresh()
        elif self._runs is not None and len(self._runs):
            self.strip.value = self._strip()

    # -- the run ----------------------------------------------------------------------------------

    def _refresh(self) -> None:
        dataset, run_number = self.dataset.value, self.run.value
        used = [one for one in registry.active(self.archive) if matcher(one.datasets)(dataset)]
        maps = [score_map(self.archive, one.model_id, dataset, run_number) for one in used]
        self._board = board(maps)
        self._said = verdict.list_(self.archive, run_number, dataset=dataset)
        self._incidents = alarms.incidents(self.archive, run_number, dataset=dataset)
        self._ask_strip()
        self._show_incidents()
        self.strip.value = self._strip()
        self._show_verdicts()
        if self._board is None:
            what = "its scores are not here yet" if used else "no model is active"
            under_way = glance.training(self.archive)
            if under_way and not used:
                what += f" yet, {under_way}"
            command = (
                "Train one: `ml4ad train`, then `ml4ad models activate NAME`."
                if not used
                else f"Score it: `ml4ad score --run {run_number}`; this page follows by itself."
            )
            self.map.figure = {}
            self._listing.value = page.empty(
                f"Run {run_number} was not assessed: {what}. That does not mean that it is good.",
                command,
            )
            self.list.layout.display = "none"
            self._show_whole()
            return
        self._listing.value = "<h2>What is wrong</h2>"
        self.list.layout.display = ""
        self.map.figure = plots.alarm_map(
            self._board.mes,
            self._board.ls_numbers,
            self._board.log_p,
            self._board.codes,
            REASONS,
            self._board.log_alpha,
        )
        if self._at is not None and self._at[0] in self._board.mes:
            self._show(*self._at)
        elif len(self._incidents):
            self._incident_chosen()
        else:
            self._show_whole()

    def _show_incidents(self) -> None:
        found = self._incidents
        if found is None:
            return
        said = self._said[self._said["incident_id"].notna()]
        last = dict(
            zip(said["incident_id"], said["verdict"] + " by " + said["said_by"], strict=True)
        )
        options = []
        for row in found.to_dict("records"):
            span = f"LS {row['first_ls']}" + (
                "" if row["last_ls"] == row["first_ls"] else f" to {row['last_ls']}"
            )
            mark = f"[{last[row['incident_id']]}] " if row["incident_id"] in last else ""
            now = "NOW " if row["open"] else ""
            options.append((f"{mark}{now}{span}: {row['sentence']}", row["incident_id"]))
        with self.setting():
            controls.offer(self.list, options)
        self.list.rows = min(max(len(options), 2), 6)

    def _strip(self) -> str:
        if self._runs is None:
            return ""
        own = self._runs[
            (self._runs["dataset"] == self.dataset.value)
            & (self._runs["run_number"] == self.run.value)
        ]
        word, kind = self._state()
        facts = {"Run": str(self.run.value)} | self._facts
        if len(own):
            lacking = int(own["last_ls"].iloc[0] - own["n_ls"].iloc[0])
            here = f"{page.number(int(own['n_ls'].iloc[0]))} LS"
            facts["Complete"] = here + (f", {lacking} missing" if lacking else ", none missing")
        since = None if self._last is None else (datetime.now(UTC) - self._last).total_seconds()
        facts["Last data"] = f"{page.ago(since)} ago" if since is not None else page.NONE
        is_late = since is not None and since > SILENCE_S and self.newest.value
        strip = page.strip(word, kind, facts, {"Last data"} if is_late else set())
        if is_late and since is not None:
            strip += (
                '<div class="ml4ad-banner late" role="status">'
                f"<b>No new data for {page.ago(since)}.</b> If the run is over, "
                "that is as it should be. If it goes on, files do not arrive or are not taken in: "
                "call the expert on duty.</div>"
            )
        return strip

    def _state(self) -> tuple[str, str]:
        if self._board is None or self._incidents is None:
            return "Not assessed", "warn"
        said = self._said[self._said["incident_id"].notna()]
        answered = set(said.loc[said["verdict"].isin(["known", "good"]), "incident_id"])
        left = [i for i in self._incidents["incident_id"] if i not in answered]
        if left:
            return f"{len(left)} incident{'s' if len(left) > 1 else ''}", "bad"
        part = float((self._board.codes == 0).mean())
        if part < 0.5:
            return f"Only {part:.0%} assessed", "warn"
        return "All right", "good"

    def _ask_strip(self) -> None:
        """Ask for what the strip tells of the run, and when the last file of the dataset came."""
        frame = self.archive.conditions(run_number=self.run.value)
        self._facts = {}
        for name, column in (
            ("Fill", "fill_number"),
            ("Recorded luminosity", "recorded_lumi"),
            ("Pileup", "pileup"),
        ):
            if column not in frame or not frame[column].notna().any():
                continue
            known = frame[column].dropna().astype("float64")
            last = float(known.iloc[-1])
            if column == "fill_number":
                self._facts[name] = str(int(last))
            elif column == "recorded_lumi":
                self._facts[name] = f"{page.number(float(known.sum()) * 1e-6, 3)} {_PER_PB}"
            else:
                self._facts[f"{name}, LS {known.index[-1][1]}"] = page.number(last, 3)
        query = (
            sa.select(sa.func.max(schema.file.c.finished_at))
            .join(schema.dataset, schema.dataset.c.dataset_id == schema.file.c.dataset_id)
            .where(schema.dataset.c.dataset == self.dataset.value)
        )
        with self.archive.engine.connect() as connection:
            self._last = connection.scalar(query)

    def _show_verdicts(self) -> None:
        if not len(self._said):
            self.verdicts.value = "<h2>What people said</h2>Nothing yet of this run."
            return
        columns = ["said_at", "said_by", "verdict", "first_ls", "last_ls", "me", "workspace", "why"]
        shown = (
            self._said[columns].iloc[::-1].replace({"me": {"": "all"}, "workspace": {"": "all"}})
        )
        self.verdicts.value = f"<h2>What people said</h2>{page.table(shown)}"

    def close(self) -> None:
        """Give up the connection on which news come."""
        self._news.close()

    # -- one place --------------------------------------------------------------------------------

    def _incident_chosen(self) -> None:
        found = self._incidents
        if found is None or self.list.value is None:
            return
        row = found[found["incident_id"] == self.list.value].iloc[0]
        with self.setting():
            self.first.value, self.last.value = int(row["first_ls"]), int(row["last_ls"])
        self._show(str(row["me"]), int(row["peak_ls"]))

    def _cell_chosen(self) -> None:
        if self._board is None or not self.map.clicked:
            return
        me, ls_number = self._board.mes[int(self.map.clicked["y"])], int(self.map.clicked["x"])
        with self.setting():
            self.first.value = self.last.value = ls_number
        self._show(me, ls_number)

    def _show_whole(self) -> None:
        """No place is chosen: there is the run to explore, and to speak of as a whole."""
        dataset, run_number = self.dataset.value, self.run.value
        self.plot.figure, self.trend.figure = {}, {}
        self.map.marks = []
        link = controls.query({"dataset": dataset, "run": run_number})
        where = "Choose a place in the map, or" if self._board is not None else "You can"
        self.reason.value = (
            f"<h2>Run {run_number}</h2>{where} say what you know of the whole run, or of some "
            f'lumisections. <a href="explore.ipynb?{link}">Explore it</a>'
        )
        if self._whole == (dataset, run_number) or self._runs is None:
            # Somebody may be writing here while news come.
            return
        self._whole = dataset, run_number
        own = self._runs
        own = own[(own["dataset"] == dataset) & (own["run_number"] == run_number)].iloc[0]
        with self.setting():
            self.scope.value = "all"
            self.first.value, self.last.value = int(own["first_ls"]), int(own["last_ls"])

    def _mark(self) -> None:
        """Mark the range of the boxes where it is chosen, in the map and in the trend."""
        if self._board is None or self._at is None or self._at[0] not in self._board.mes:
            return
        row = self._board.row(self._at[0])
        of = len(self._board.mes)
        self.map.marks = [plots.cell_mark(row, self.first.value, self.last.value, of)]
        self._show_trend(self._at[0], row)

    def _show(self, me: str, ls_number: int) -> None:
        if self._board is None:
            return
        if self._whole is not None:
            with self.setting():
                self.scope.value = "me"
        self._at, self._whole = (me, ls_number), None
        i, column = self._board.row(me), np.searchsorted(self._board.ls_numbers, ls_number)
        at = min(int(column), len(self._board.ls_numbers) - 1)
        here = self._board.ls_numbers[at] == ls_number
        code = int(self._board.codes[i, at]) if here else 1
        self._mark()
        link = controls.query({"dataset": self.dataset.value, "run": self.run.value, "me": me})
        more = f'<a href="explore.ipynb?{link}&amp;ls={ls_number}">Explore it</a>'
        head = f"<h2>{html.escape(me)}, LS {ls_number}</h2>"
        if code:
            self.plot.figure = self._alone(me, ls_number)
            self.reason.value = f"{head}Not assessed: {REASONS.get(code, 'other')}. {more}"
            return
        why = alarms.explain(self.archive, self._board.scored(me), me, ls_number)
        if why is None or why.reference is None:
            self.plot.figure = self._alone(me, ls_number)
            self.reason.value = f"{head}There is no reference to compare it with. {more}"
            return
        self.reason.value = f"{head}{html.escape(why.sentence)}. {_compared_with(why)} {more}"
        self._compare(me, ls_number, why)

    def _observed(self, me: str, ls_number: int) -> plots.Shown | None:
        key = Key(me, self.dataset.value, self.run.value)
        try:
            stack = self._held.get(self.archive, key).select(ls_number)
        except KeyError:
            # Scores outlive a file that was forgotten.
            return None
        return plots.Shown.of(stack, f"LS {ls_number}") if len(stack) else None

    def _alone(self, me: str, ls_number: int) -> plots.Figure:
        observed = self._observed(me, ls_number)
        if observed is None:
            return {}
        if len(observed.axes) == 2:
            return plots.maps([observed], height=300)
        return plots.histograms([observed], height=300)

    def _compare(self, me: str, ls_number: int, why: Explanation) -> None:
        observed = self._observed(me, ls_number)
        if observed is None or why.reference is None:
            self.plot.figure = {}
            return
        contents = np.asarray(why.reference.contents, dtype=np.float64)
        if contents.shape != observed.values.shape:
            self.plot.figure = self._alone(me, ls_number)
            return
        expected = plots.Shown(
            "expected", observed.axes, contents, np.sqrt(np.abs(contents)), observed.is_profile
        )
        self.plot.figure = plots.compared(
            observed,
            expected,
            n_references=len(why.reference.lumisections),
            box=why.place.ranges if why.place is not None else (),
            # With a banner above, what people say of it is still in sight on a small screen.
            height=260,
        )

    def _show_trend(self, me: str, row: int) -> None:
        if self._board is None:
            return
        powers = -self._board.log_p[row] / np.log(10)
        figure = plots.trends(
            {me.rsplit("/", 1)[-1]: (self._board.ls_numbers, powers)},
            unit="-log<sub>10</sub> p",
            mark=(self.first.value, self.last.value),
            height=170,
        )
        figure["layout"]["shapes"].append(
            {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "yref": "y"}
            | {"y0": -self._board.log_alpha / np.log(10), "y1": -self._board.log_alpha / np.log(10)}
            | {"line": {"color": "#e42536", "width": 1, "dash": "dash"}}
        )
        figure["layout"]["yaxis"]["title"] = {"text": "-log<sub>10</sub> p"}
        figure["layout"]["margin"] = {"l": 64, "r": 14, "t": 6, "b": 40}
        self.trend.figure = figure

    # -- what people say --------------------------------------------------------------------------

    def say(self, kind: str) -> None:
        """Keep a verdict of the range in the boxes, with the name and the time."""
        if not self.by.value.strip():
            raise ValueError("say who you are: your name goes with the verdict")
        at = self._at if self._whole is None else None
        if at is None and self.scope.value == "me":
            raise ValueError(
                "choose an incident, or a cell of the map, first; or say it of all elements"
            )
        found = self._incidents
        of_incident = None
        if found is not None and self.list.value is not None and at is not None:
            row = found[found["incident_id"] == self.list.value].iloc[0]
            overlaps = row["first_ls"] <= self.last.value and self.first.value <= row["last_ls"]
            if at[0] in row["mes"] and overlaps:
                of_incident = int(self.list.value)
        verdict.add(
            self.archive,
            self.run.value,
            (self.first.value, self.last.value),
            kind,
            why=self.why.value,
            dataset=self.dataset.value,
            me=at[0] if at is not None and self.scope.value == "me" else "",
            incident_id=of_incident,
            by=self.by.value,
        )
        with self.setting():
            self.why.value = ""
        self._refresh()
        self.note(f"Kept: LS {self.first.value} to {self.last.value}, {kind}.")

    # -- address ----------------------------------------------------------------------------------

    def view(self) -> dict[str, Any]:
        """What the address holds."""
        if self.run.value is None:
            return {}
        out: dict[str, Any] = {"dataset": self.dataset.value}
        if not self.newest.value or self._at is not None:
            out["run"] = self.run.value
        if self._at is not None:
            out |= {"me": self._at[0], "ls": self._at[1]}
        return out

    def apply(self, wanted: Mapping[str, Sequence[str]]) -> None:
        """Show the run, and the place in it, that the address names."""
        said = {name: values[0] for name, values in wanted.items()}
        with self.setting():
            if "dataset" in said:
                controls.choose(self.dataset, said["dataset"], "dataset")
                self._offer_runs()
            if "run" in said:
                controls.choose(self.run, controls.number(said["run"], "run"), "run")
                self.newest.value = self.run.value == self.run.options[0][1]
        # What was shown before is of another view.
        self._at = None
        self._refresh()
        if "me" in said and "ls" in said:
            ls_number = controls.number(said["ls"], "ls")
            with self.setting():
                self.first.value = self.last.value = ls_number
                found = self._incidents
                for row in [] if found is None else found.to_dict("records"):
                    inside = row["first_ls"] <= ls_number <= row["last_ls"]
                    if inside and said["me"] in row["mes"]:
                        self.list.value = row["incident_id"]
                        self.first.value, self.last.value = row["first_ls"], row["last_ls"]
                        break
            self._show(said["me"], ls_number)


def _compared_with(why: Explanation) -> str:
    if why.reference is None or not why.reference.lumisections:
        return ""
    runs: dict[int, list[int]] = {}
    for run_number, ls_number in why.reference.lumisections:
        runs.setdefault(int(run_number), []).append(int(ls_number))
    parts = [
        f"run {run} LS {', '.join(map(str, sorted(numbers)[:6]))}"
        + (" and more" if len(numbers) > 6 else "")
        for run, numbers in list(runs.items())[:3]
    ]
    return f"Compared with known-good {'; '.join(parts)}."
