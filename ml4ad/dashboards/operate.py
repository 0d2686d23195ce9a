"""OPERATE: files and their errors, runs of notebooks, workers, the schedule; start and repeat."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets
import pandas as pd

from ml4ad import cluster, ingest, settings
from ml4ad.dashboards import controls, curves, glance, page, started
from ml4ad.dashboards.browser import Plot
from ml4ad.ingest import pace
from ml4ad.pipelines import outlook, records, schedule
from ml4ad.pipelines.records import Record
from ml4ad.store import State
from ml4ad.store.execution import RunState

if TYPE_CHECKING:
    from ml4ad.archive import Archive

#: What can be started, by its notebook.
_ACTIONS = (("Ingest", "ingest"), ("Index only", "index"), ("Retry", "retry"), ("Score", "score"))
_EXPLAINED = {
    "ingest": "Notes the files at the paths and takes them in, with all others that wait.",
    "index": "Notes the files at the paths, without reading their histograms.",
    "retry": "Takes in again what failed or is bad: the files chosen, or all if none is.",
    "score": "Scores what is new, or all again, with the models at work.",
}
_BAD = ("FAILED", "BAD")
_MOST_ERRORS = 200
_MOST_RUNS = 30
#: Everything is asked for every so many pulses; what is at work at each.
_LOOK_EVERY = 5
_FLOW = {"flex_flow": "row wrap", "align_items": "center", "grid_gap": "2px 6px"}


class Operate(page.Page):
    """Widgets of the page; ``run_id`` is the notebook's run chosen first, 0 the newest."""

    name = "operate"

    def __init__(self, archive: Archive | None = None, *, run_id: int = 0) -> None:
        super().__init__(archive)
        url = None if archive is None else archive.url
        self.starter = started.Starter(lambda: url)
        self._pulses = 0
        self._records: list[Record] = []
        self._asked: Future[list[tuple[str, pd.DataFrame | str]]] | None = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="workers")
        self._controls()
        self._given = {"id": [str(run_id)]} if run_id else {}
        self.begin()

    def _controls(self) -> None:
        self.strip = widgets.HTML()
        self.action = widgets.ToggleButtons(options=list(_ACTIONS), tooltips=[*_EXPLAINED.values()])
        self.action.style.button_width = "92px"
        self.explained = widgets.HTML()
        self.paths = widgets.Text(
            description="Paths", placeholder="/eos/cms/store/data/Run2024F, root://..., *.root"
        )
        self.paths.layout.width = "430px"
        self.dataset = widgets.Combobox(
            description="Dataset", placeholder="as the path tells", layout={"width": "330px"}
        )
        self.numbers = widgets.Text(
            description="Runs", placeholder="all, or 383218, 383219", layout={"width": "280px"}
        )
        self.everything = widgets.Checkbox(
            description="also what is scored", indent=False, layout={"width": "170px"}
        )
        self.workers = widgets.BoundedIntText(
            description="Workers", value=2, min=0, max=1000, layout={"width": "150px"}
        )
        self.workers.tooltip = "Local processes; 0: the notebook's own"
        self.cluster = widgets.Dropdown(description="on", options=[("this machine", "")])
        self.cluster.style.description_width = "24px"
        self.cluster.layout.width = "160px"
        self.go = widgets.Button(description="Start", layout={"width": "100px"})
        self.go.add_class("ml4ad-go")
        self.files = widgets.HTML()
        self.rate = Plot(label="MB taken in per hour")
        self.failed = widgets.SelectMultiple(
            rows=6, description="Failed files", layout={"width": "auto"}
        )
        self.failed.style.description_width = "initial"
        self.why = widgets.HTML()
        self.dask = widgets.HTML()
        self.notebook = widgets.Dropdown(description="Notebook", options=[("all", "")])
        self.state = widgets.Dropdown(
            description="State", options=[("all", ""), *((str(s), str(s)) for s in RunState)]
        )
        for control in (self.notebook, self.state):
            control.layout.width = "220px"
        self.runs = widgets.HTML()
        self.run = widgets.Dropdown(description="Run", layout={"width": "360px"})
        self.rerun = widgets.Button(description="Run it again")
        self.detail = widgets.HTML()
        self.jobs = widgets.HTML()
        self.job = widgets.Dropdown(description="Job", layout={"width": "260px"})
        self.now = widgets.Button(description="Run it now")
        self.on(self.action, self._show_fields)
        self.on(self.failed, self._show_why)
        for control in (self.notebook, self.state):
            self.on(control, self._show_runs)
        self.on(self.run, self._show_detail)
        self.on_click(self.go, self.start)
        self.on_click(self.rerun, self._again)
        self.on_click(self.now, self._job_now)
        self._fields = {
            "ingest": (self.paths, self.dataset, self.workers, self.cluster),
            "index": (self.paths, self.dataset),
            "retry": (self.workers, self.cluster),
            "score": (self.dataset, self.numbers, self.everything, self.workers, self.cluster),
        }
        self._form = widgets.HBox(layout=_FLOW)
        self._wrong = widgets.VBox([widgets.HTML("<h2>What failed</h2>"), self.failed, self.why])
        self._planned = widgets.HBox([self.job, self.now], layout=_FLOW)
        half = {"flex": "1 1 420px", "min_width": "0", "overflow": "visible"}
        left = widgets.VBox([widgets.HTML("<h2>Files</h2>"), self.files], layout=half)
        right = widgets.VBox([widgets.HTML("<h2>Taken in</h2>"), self.rate], layout=half)
        wrapped = _FLOW | {"align_items": "flex-start", "grid_gap": "2px 24px"}
        self.body.children = [
            self.strip,
            widgets.HBox([self.action, self.explained], layout=_FLOW),
            self._form,
            self.starter.widget,
            widgets.HTML("<h2>Runs of notebooks</h2>"),
            widgets.HBox([self.notebook, self.state, self.run, self.rerun], layout=_FLOW),
            self.runs,
            self.detail,
            widgets.HBox([left, right], layout=wrapped),
            self._wrong,
            widgets.HTML("<h2>Workers</h2>"),
            self.dask,
            widgets.HTML("<h2>Schedule</h2>"),
            self.jobs,
            self._planned,
        ]

    # -- what there is ----------------------------------------------------------------------------

    def load(self) -> None:
        """Ask for everything that the page shows; keep what is chosen."""
        self._states = ingest.states(self.archive).set_index("state")
        self._errors = ingest.errors(self.archive, _MOST_ERRORS)
        named = list(settings.load().clusters)
        with self.setting():
            self.dataset.options = tuple(self.archive.datasets()["dataset"])
            controls.offer(self.cluster, [("this machine", ""), *((n, n) for n in named)])
            listed = [(f"{e.state}: {e.path}", e.path) for e in self._errors]
            kept = [path for path in self.failed.value if path in {path for _, path in listed}]
            if list(self.failed.options) != listed:
                self.failed.options = listed
                self.failed.value = kept
        self.failed.rows = min(max(len(listed), 2), 6)
        self._wrong.layout.display = "" if listed else "none"
        self._load_runs()
        self._load_schedule()
        self._show_files()
        self._show_why()
        self._show_fields()
        self.strip.value = self._strip()
        self._ask_workers()
        given, self._given = self._given, {}
        if given:
            self.apply(given)

    def follow(self) -> None:
        """What is at work is looked at each time, the rest every ten seconds."""
        self._pulses += 1
        ended = self.starter.follow(self.archive.engine)
        if ended or self._pulses % _LOOK_EVERY == 0:
            self.load()
        elif self.starter.is_busy or any(one.state is RunState.RUNNING for one in self._records):
            self._load_runs()
            self._ask_workers()

    def close(self) -> None:
        """End what was begun for the page; what it started goes on."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    # -- files ------------------------------------------------------------------------------------

    def _strip(self) -> str:
        waits = pace.waiting(self.archive)
        rates = pace.rates(self.archive).iloc[0]
        n_bad = int(sum(self._states["n_files"].get(state, 0) for state in _BAD))
        n_taken = int(self._states["n_files"].get(State.PROCESSED, 0))
        if n_bad:
            word, kind = f"{n_bad} file{'s' if n_bad > 1 else ''} failed or bad", "bad"
        elif waits["n_files"]:
            word, kind = f"{waits['n_files']} files wait", "warn"
        else:
            word, kind = ("All is taken in", "good") if n_taken else ("No files yet", "warn")
        oldest = page.NONE
        if waits["n_files"]:
            oldest = f"{page.ago((datetime.now(UTC) - waits['oldest']).total_seconds())} ago"
        facts = {
            "Waiting": f"{waits['n_files']} files, {page.size(waits['bytes'])}",
            "Oldest waits since": oldest,
            "Taken in, last hour": f"{rates.n_files} files, {page.size(rates.bytes)}",
            "Rate of taking in": (
                f"{page.number(rates.mb_per_minute, 3)} MB/min" if rates.n_files else page.NONE
            ),
            "Database": page.size(pace.database_bytes(self.archive)),
            "At work": f"{sum(r.state is RunState.RUNNING for r in self._records)} runs",
            "Schedule": "kept" if self._keeper else "nobody keeps it",
        }
        under_way = glance.training(self.archive)
        if under_way:
            facts["Models"] = under_way
        late = {"Schedule"} if self._jobs and not self._keeper else set()
        return page.strip(word, kind, facts, late)

    def _show_files(self) -> None:
        shown = self._states.reset_index()
        if not len(shown):
            self.files.value = page.empty(
                "No file is known yet.",
                "Give paths above, and start `Ingest`; or use `ml4ad ingest FOLDER`.",
            )
            self.rate.figure = {}
            return
        sizes = {name: shown[name].map(page.size) for name in ("bytes", "packed_bytes")}
        self.files.value = page.table(
            pd.DataFrame(
                {
                    "state": shown["state"],
                    "files": shown["n_files"],
                    "size": sizes["bytes"],
                    "in the database": sizes["packed_bytes"],
                    "oldest, indexed at": shown["oldest"],
                }
            )
        )
        history = pace.history(self.archive)
        begins = history["begin"].dt.strftime("%Y-%m-%dT%H:%M:%S").tolist()
        self.rate.figure = curves.hourly(
            begins, history["bytes"] / 1e6, unit="MB of files per hour"
        )

    def _show_why(self) -> None:
        chosen = set(self.failed.value)
        errors = [e for e in self._errors if not chosen or e.path in chosen][:20]
        rows = [
            {"when": e.when, "state": e.state, "attempts": e.attempts, "file": e.path}
            | {"reason": e.reason}
            for e in errors
        ]
        self.why.value = page.table(pd.DataFrame(rows)) if rows else ""

    # -- runs of notebooks ------------------------------------------------------------------------

    def _load_runs(self) -> None:
        self._records = records.recent(self.archive.engine, limit=200)
        known = sorted({one.notebook for one in self._records} | {self.notebook.value} - {""})
        with self.setting():
            controls.offer(self.notebook, [("all", ""), *((name, name) for name in known)])
        self._show_runs()

    def _show_runs(self) -> None:
        shown = [
            one
            for one in self._records
            if self.notebook.value in ("", one.notebook) and self.state.value in ("", one.state)
        ][:_MOST_RUNS]
        with self.setting():
            listed = [
                (f"{r.pipeline_run_id}: {r.notebook}, {r.state}", r.pipeline_run_id) for r in shown
            ]
            # Chosen by an address, it may be older than what is listed.
            if self.run.value is not None and self.run.value not in {n for _, n in listed}:
                listed += [one for one in self.run.options if one[1] == self.run.value]
            controls.offer(self.run, listed)
        self.rerun.disabled = not listed
        self._show_detail()
        if not shown:
            here = "No notebook was run yet." if not self._records else "No run is like that."
            self.runs.value = page.empty(here, "Start one above, or with `ml4ad run`.")
            return
        rows = [
            {
                "run": str(one.pipeline_run_id),
                "notebook": one.notebook,
                "state": _mooded(one.state),
                "cell": started.progress(one),
                "started": pd.Timestamp(one.started_at),
                "seconds": round(one.duration.total_seconds(), 1),
                "who": one.who,
                "job": one.job or "",
                "executed": started.link(one),
                "reason": one.reason,
            }
            for one in shown
        ]
        self.runs.value = page.table(pd.DataFrame(rows), links=["state", "cell", "executed"])

    def _show_detail(self) -> None:
        if self.run.value is None:
            self.detail.value = ""
            return
        record = next((r for r in self._records if r.pipeline_run_id == self.run.value), None)
        if record is None:
            record = records.find(self.archive.engine, self.run.value)
        said = records.described(record)
        head = html.escape(f"Run {record.pipeline_run_id} of {record.notebook}: all that is known")
        rows = pd.DataFrame({"what": list(said), "value": list(said.values())})
        self.detail.value = f"<details><summary>{head}</summary>{page.table(rows)}</details>"

    def _again(self) -> None:
        if self.run.value is None:
            raise ValueError("no run is chosen")
        self.starter.again(self.run.value)

    # -- start ------------------------------------------------------------------------------------

    def _show_fields(self) -> None:
        action = self.action.value
        self.explained.value = f'<span class="ml4ad-caption">{_EXPLAINED[action]}</span>'
        children = (*self._fields[action], self.go)
        if self._form.children != children:
            self._form.children = children
        self.dataset.placeholder = "all" if action == "score" else "as the path tells"

    def start(self) -> None:
        """Start what is chosen, with what the fields say."""
        action = self.action.value
        given: dict[str, Any] = {}
        if action in ("ingest", "index"):
            given["paths"] = _paths(self.paths.value, needed=action == "index")
        if action == "retry":
            if not self._errors:
                raise ValueError("nothing failed: there is nothing to try again")
            given["paths"] = list(self.failed.value)
        if action == "score":
            given["run_numbers"] = _numbers(self.numbers.value)
            given["new_only"] = not self.everything.value
        if self.dataset.value.strip() and action != "retry":
            given["dataset"] = self.dataset.value.strip()
        if action != "index":
            given |= {"workers": self.workers.value, "cluster": self.cluster.value}
        self.starter.begin([action], given)

    # -- workers ----------------------------------------------------------------------------------

    def _ask_workers(self) -> None:
        """Show what the last question brought, and ask again; schedulers may take seconds."""
        running = [one for one in self._records if one.state is RunState.RUNNING]
        if self._asked is not None and self._asked.done():
            self.dask.value = "".join(map(_workers_said, self._asked.result()))
            self._asked = None
        if self._asked is not None:
            return
        places = [Path(one.output or "").with_name(cluster.SCHEDULER_FILE) for one in running]
        there = [(str(one), p) for one, p in zip(running, places, strict=True) if p.is_file()]
        if there:
            self._asked = self._pool.submit(_workers, there)
        elif running:
            where = ", ".join(
                f"run {r.pipeline_run_id} of {r.notebook} on {r.host} ({r.cluster or 'itself'})"
                for r in running
            )
            self.dask.value = f"No Dask scheduler answers from here. At work: {html.escape(where)}."
        else:
            named = ", ".join(settings.load().clusters) or "none, runs use this machine"
            self.dask.value = f"No run is at work. Clusters of the settings: {html.escape(named)}."

    # -- schedule ---------------------------------------------------------------------------------

    def _load_schedule(self) -> None:
        path = schedule.default_path()
        self._keeper = records.holder(self.archive.engine, records.SCHEDULE)
        try:
            self._jobs = dict(schedule.read(path).jobs)
        except (ValueError, OSError) as error:
            self._jobs = {}
            self._planned.layout.display = "none"
            self.jobs.value = page.empty("The schedule cannot be read.", str(error))
            return
        with self.setting():
            controls.offer(self.job, list(self._jobs))
        self._planned.layout.display = "" if self._jobs else "none"
        if not self._jobs:
            self.jobs.value = page.empty(
                "Nothing is scheduled.",
                f"Add a job with `ml4ad schedule add`; it is kept in {path}.",
            )
            return
        planned = outlook.table(self.archive.engine, schedule.read(path)).astype({"next": "object"})
        shown = planned.assign(last_run=planned["last_run"].astype("string").fillna(page.NONE))
        kept = self._keeper or "Nobody keeps it: jobs do not start. Use `ml4ad schedule run`."
        mood = "" if self._keeper else ' class="warn"'
        self.jobs.value = (
            f"{page.table(shown.astype({'last_run': 'object'}))}<p><b{mood}>{html.escape(kept)}</b>"
        )

    def _job_now(self) -> None:
        job = self._jobs[self.job.value]
        self.starter.begin(
            list(job.notebooks), dict(job.parameters), timeout_s=job.timeout_s, job=job.name
        )

    # -- address ----------------------------------------------------------------------------------

    def view(self) -> dict[str, Any]:
        """What the address holds."""
        return {
            "action": "" if self.action.value == "ingest" else self.action.value,
            "paths": self.paths.value,
            "dataset": self.dataset.value,
            "runs": self.numbers.value,
            "notebook": self.notebook.value,
            "state": self.state.value,
            "id": self.run.value if self._is_chosen() else "",
        }

    def _is_chosen(self) -> bool:
        return bool(self.run.options) and self.run.value != self.run.options[0][1]

    def apply(self, wanted: Mapping[str, Sequence[str]]) -> None:
        """Set the form and choose the run as the address says; nothing is started."""
        said = {name: values[0] for name, values in wanted.items()}
        with self.setting():
            if "action" in said:
                controls.choose(self.action, said["action"], "action")
            for name, control in (
                ("paths", self.paths),
                ("dataset", self.dataset),
                ("runs", self.numbers),
            ):
                if name in said:
                    control.value = said[name]
            for name, control in (("notebook", self.notebook), ("state", self.state)):
                if name in said:
                    controls.choose(control, said[name], name)
            if "id" in said:
                record = records.find(self.archive.engine, controls.number(said["id"], "id"))
                label = f"{record.pipeline_run_id}: {record.notebook}, {record.state}"
                others = [o for o in self.run.options if o[1] != record.pipeline_run_id]
                self.run.options = [*others, (label, record.pipeline_run_id)]
                self.run.value = record.pipeline_run_id
        self._show_fields()
        self._show_runs()


def _mooded(state: RunState) -> str:
    mood = {RunState.DONE: "good", RunState.RUNNING: "", RunState.MISSED: "warn"}.get(state, "bad")
    return f'<b class="{mood}">{state}</b>'


def _paths(text: str, *, needed: bool) -> list[str]:
    """Paths with commas between; ValueError for one that is not whole: the page has no folder."""
    paths = [path.strip() for path in text.split(",") if path.strip()]
    if needed and not paths:
        raise ValueError("no path: say which files or folders to look at")
    for path in paths:
        if not path.startswith("/") and "://" not in path:
            raise ValueError(f"path {path!r}: want it from / on, or as a URL such as root://...")
    return paths


def _numbers(text: str) -> list[int]:
    return [controls.number(part.strip(), "run") for part in text.split(",") if part.strip()]


def _workers(runs: Sequence[tuple[str, Path]]) -> list[tuple[str, pd.DataFrame | str]]:
    """Workers of each run, or why they are not known."""
    found: list[tuple[str, pd.DataFrame | str]] = []
    for run, path in runs:
        try:
            found.append((run, cluster.workers(path)))
        except (OSError, ValueError, KeyError) as error:
            found.append((run, f"its Dask scheduler does not answer: {error}"))
    return found


def _workers_said(found: tuple[str, pd.DataFrame | str]) -> str:
    run, workers = found
    if isinstance(workers, str):
        return f"<p>{html.escape(f'{run}: {workers}')}</p>"
    sizes = {name: workers[name].map(page.size) for name in ("memory", "limit")}
    shown = workers.assign(**sizes).rename(columns={"n_tasks": "tasks", "cpu": "CPU (%)"})
    return f"<p>{html.escape(run)}</p>{page.table(shown)}"
