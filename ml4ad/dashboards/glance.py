"""The archive at a glance, for the start page; and where executed notebooks lie."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlencode

import sqlalchemy as sa

from ml4ad import verdict
from ml4ad.conditions.certified import certifications
from ml4ad.dashboards import controls, page
from ml4ad.detect import alarms, registry
from ml4ad.detect.scored import dataset_number
from ml4ad.dqmio.names import matcher
from ml4ad.ingest import pace, queue
from ml4ad.pipelines import records
from ml4ad.store import schema, scoring
from ml4ad.store.execution import RunState

if TYPE_CHECKING:
    from ml4ad.archive import Archive

Mood = Literal["", "good", "warn", "bad"]
#: However many look at it, the archive is asked once in so many seconds.
_FRESH_S = 5.0
#: Of so many newest runs of notebooks the start page speaks.
_RUNS = 50


@dataclass(frozen=True)
class Fact:
    """One line: a name, its value in words, and whether that is good."""

    name: str
    value: str
    mood: Mood = ""


@dataclass(frozen=True)
class Glance:
    """Facts by page, or what kept them from being had; ``query`` leads pages to the newest run."""

    at: str
    facts: Mapping[str, tuple[Fact, ...]] = field(default_factory=dict)
    query: str = ""
    trouble: str = ""
    reason: str = ""


class Look:
    """Looks at the archive of the settings when called; safe to be called by many threads."""

    def __init__(self, archive: Archive | None = None) -> None:
        self._archive = archive
        self._lock = threading.Lock()
        self._seen: tuple[float, Glance] | None = None

    def __call__(self) -> Glance:
        """What there is now, at most seconds old; a database that is gone is told, not raised."""
        with self._lock:
            if self._seen is None or time.monotonic() - self._seen[0] > _FRESH_S:
                self._seen = time.monotonic(), self._look()
            return self._seen[1]

    def _look(self) -> Glance:
        at = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        try:
            archive = self._connected()
            return Glance(at, facts(archive), newest(archive))
        except (ConnectionError, sa.exc.SQLAlchemyError, RuntimeError, ValueError) as error:
            said = (str(error).strip().splitlines() or [type(error).__name__])[0]
            return Glance(at, trouble="The database does not answer.", reason=said)

    def _connected(self) -> Archive:
        if self._archive is None:
            from ml4ad.archive import connect

            self._archive = connect()
        return self._archive

    def executed(self, run_id: int, kind: Literal["html", "ipynb"]) -> Path:
        """Path of an executed notebook, or its page; LookupError says why it cannot be shown."""
        record = records.find(self._connected().engine, run_id)
        named = record.page if kind == "html" else record.output
        if named is None:
            raise LookupError(f"{record}. It has left no {kind} yet.")
        path = Path(named)
        if path.suffix != f".{kind}" or not path.is_file():
            raise LookupError(f"{record}. {path} is not here; it ran on {record.host}.")
        return path


def newest(archive: Archive) -> str:
    """Query string that opens the newest run of the archive; "" if there is none."""
    runs = archive.runs()
    held = runs[runs["n_ls"] > 0]
    if not len(held):
        return ""
    dataset, run_number = controls.latest(held)
    return urlencode({"dataset": dataset, "run": run_number})


def training(archive: Archive) -> str:
    """Which models are being trained, in words; "" if none is."""
    names = registry.models(archive, "training")["name"].astype(str).tolist()
    if not names:
        return ""
    return f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} being trained"


def facts(archive: Archive) -> dict[str, tuple[Fact, ...]]:
    """Facts by page."""
    runs = archive.runs()
    held = runs[runs["n_ls"] > 0]
    used = registry.active(archive)
    found = {"operate": (*_files(archive), *_pipelines(archive)), "models": _models(archive, used)}
    if not len(held):
        nothing = Fact("Archive", "empty: nothing was ingested yet", "warn")
        return found | dict.fromkeys(("shift", "explore", "certify"), (nothing,))
    dataset, run_number = controls.latest(held)
    here = (held["dataset"] == dataset) & (held["run_number"] == run_number)
    n_ls = int(held.loc[here, "n_ls"].iloc[0])
    lists = certifications(archive.engine)
    listed = ", ".join(lists["name"].astype(str)) if len(lists) else "none"
    return found | {
        "shift": (
            Fact("Newest run", f"{run_number}, {n_ls} LS, of {dataset}"),
            judged(archive, dataset, run_number, used),
        ),
        "explore": (
            Fact(
                "Archive",
                f"{_n(held['dataset'].nunique(), 'dataset')}, {_n(len(held), 'run')}, "
                f"{page.number(int(held['n_ls'].sum()))} lumisections",
            ),
        ),
        "certify": (Fact("Lists stored", listed),),
    }


def judged(archive: Archive, dataset: str, run_number: int, used: list[registry.Model]) -> Fact:
    """What the active models, and people, say of a run."""
    fitting = [one for one in used if matcher(one.datasets)(dataset)]
    if not fitting:
        under_way = training(archive)
        yet = f" yet, {under_way}" if under_way else ""
        return Fact("State", f"not assessed: no model is active{yet}", "warn")
    score = scoring.score
    with archive.engine.connect() as connection:
        query = sa.select(sa.func.sum(score.c.n_scored)).where(
            score.c.model_id.in_([one.model_id for one in fitting]),
            score.c.dataset_id == dataset_number(connection, dataset),
            score.c.run_number == run_number,
        )
        n_scored = connection.scalar(query)
    if not n_scored:
        return Fact("State", "not assessed: its scores are not here yet", "warn")
    found = alarms.incidents(archive, run_number, dataset=dataset)
    said = verdict.list_(archive, run_number, dataset=dataset)
    answers = said[said["verdict"].isin(["known", "good"])]
    left = set(found["incident_id"]) - set(answers["incident_id"].dropna().astype(int))
    if left:
        return Fact("State", f"{_n(len(left), 'incident')} that nobody explained", "bad")
    return Fact("State", "nothing alarms that is not explained", "good")


def _files(archive: Archive) -> tuple[Fact, ...]:
    states = queue.states(archive).set_index("state")["n_files"]
    failed = int(sum(states.get(state, 0) for state in (schema.State.FAILED, schema.State.BAD)))
    waiting = int(pace.waiting(archive)["n_files"])
    return (
        Fact("Files", f"{waiting} wait, {failed} failed or bad", "bad" if failed else ""),
        Fact("Last data", *_last(archive)),
        Fact("Database", page.size(pace.database_bytes(archive))),
    )


def _last(archive: Archive) -> tuple[str, Mood]:
    with archive.engine.connect() as connection:
        last = connection.scalar(sa.select(sa.func.max(schema.file.c.finished_at)))
    if last is None:
        return "never", "warn"
    return f"{page.ago((datetime.now(UTC) - last).total_seconds())} ago", ""


def _pipelines(archive: Archive) -> tuple[Fact, ...]:
    recent = records.recent(archive.engine, limit=_RUNS)
    at_work = [one for one in recent if one.state is RunState.RUNNING]
    ended = next((one for one in recent if one.state is not RunState.RUNNING), None)
    if ended is None:
        return (Fact("Runs of notebooks", f"{len(at_work)} at work"),)
    mood: Mood = "" if ended.state is RunState.DONE else "bad"
    last = f"{ended.notebook} is {ended.state}"
    return (Fact("Runs of notebooks", f"{len(at_work)} at work, the last: {last}", mood),)


def _models(archive: Archive, used: list[registry.Model]) -> tuple[Fact, ...]:
    names = [str(one) for one in used]
    at_work = Fact("At work", ", ".join(names) or "none", "" if names else "warn")
    candidates = Fact("Candidates", str(len(registry.models(archive, "candidate"))))
    under_way = training(archive)
    return at_work, candidates, *([Fact("Training", under_way)] if under_way else [])


def _n(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
