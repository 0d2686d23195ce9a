"""Keeps a schedule: one process, on any machine, starts each job when its moment has come."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apscheduler.events import EVENT_JOB_MAX_INSTANCES, EVENT_JOB_MISSED
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

from ml4ad.pipelines import notebook as notebooks
from ml4ad.pipelines import records, schedule
from ml4ad.pipelines.records import Origin
from ml4ad.pipelines.schedule import Job, Schedule
from ml4ad.store.execution import RunState

if TYPE_CHECKING:
    import sqlalchemy as sa

# A moment that is noticed later than this, in seconds, is missed: the machine slept.
_GRACE_S = 60

# The lock, and changes of the file, are looked at so often, in seconds.
_LOOK_S = 5.0

# Jobs at once; more wait for a free place.
_MOST_AT_ONCE = 32


class AlreadyKeptError(RuntimeError):
    """Another process keeps the schedule of this database."""


@dataclass
class Keeper:
    """Keeps the schedule in ``path``; ``tell`` gets a line for each thing that happens."""

    path: Path
    tell: Callable[[str], None]
    stopped: threading.Event = field(default_factory=threading.Event)
    _children: set[subprocess.Popen[str]] = field(default_factory=set, init=False)

    def keep(self) -> None:
        """Keep it until `stop`; the file is read again when it changes.

        Raises AlreadyKeptError if another process keeps the schedule of this database, ValueError
        for a file that is not understood at the start; later on such a file is told and ignored.
        """
        # Looked at before it is read: a change in between is seen as one.
        seen = _changed(self.path)
        wanted = schedule.read(self.path)
        with records.opened() as engine, ExitStack() as held:
            lock = held.enter_context(self._only_one(engine))
            scheduler = self._scheduler(engine)
            held.callback(self._end, scheduler)
            self._plan(scheduler, engine, wanted)
            scheduler.start()
            while not self.stopped.wait(_LOOK_S):
                records.assert_held(lock)
                if (changed := _changed(self.path)) != seen:
                    seen = changed
                    self._plan_again(scheduler, engine)

    def stop(self) -> None:
        """End `keep`; what runs is interrupted, and its records say so."""
        self.stopped.set()

    # -- planning --------------------------------------------------------------------------------

    @contextmanager
    def _only_one(self, engine: sa.Engine) -> Iterator[sa.Connection]:
        name = f"ml4ad schedule on {socket.gethostname()}, process {os.getpid()}"
        with records.locked(engine, records.SCHEDULE, name) as lock:
            if isinstance(lock, str):
                raise AlreadyKeptError(f"the schedule is kept already: {lock}")
            yield lock

    def _scheduler(self, engine: sa.Engine) -> BackgroundScheduler:
        scheduler = BackgroundScheduler(
            executors={"default": ThreadPoolExecutor(_MOST_AT_ONCE)},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": _GRACE_S},
            timezone="UTC",
        )

        def refused(event: Any) -> None:
            job = scheduler.get_job(event.job_id).args[1]
            for at in event.scheduled_run_times:
                self._note(engine, job, at, RunState.REFUSED, "the run before it is still at it")

        def missed(event: Any) -> None:
            job = scheduler.get_job(event.job_id).args[1]
            at = event.scheduled_run_time
            self._note(engine, job, at, RunState.MISSED, "noticed too late")

        scheduler.add_listener(refused, EVENT_JOB_MAX_INSTANCES)
        scheduler.add_listener(missed, EVENT_JOB_MISSED)
        return scheduler

    def _plan(self, scheduler: BackgroundScheduler, engine: sa.Engine, wanted: Schedule) -> None:
        scheduler.remove_all_jobs()
        now = datetime.now(UTC)
        for job in wanted.jobs.values():
            self._tell_missed(engine, job, now)
            trigger = job.when.trigger()
            scheduler.add_job(self._fire, trigger, args=[engine, job], id=job.name)
            self.tell(f"{job.name}: next at {job.when.next(now) or 'no time'}")
        if not wanted.jobs:
            self.tell(f"{self.path}: no job; add one with `ml4ad schedule add`")

    def _plan_again(self, scheduler: BackgroundScheduler, engine: sa.Engine) -> None:
        try:
            wanted = schedule.read(self.path)
        except (ValueError, OSError) as error:
            self.tell(f"not read again: {error}")
            return
        self.tell(f"{self.path} has changed")
        self._plan(scheduler, engine, wanted)

    def _tell_missed(self, engine: sa.Engine, job: Job, now: datetime) -> None:
        last = records.last_planned(engine, job.name)
        missed = [] if last is None else job.when.between(last, now)
        if missed:
            runs = "1 run" if len(missed) == 1 else f"{len(missed)} runs, the first at {missed[0]}"
            reason = f"{runs}: nothing kept the schedule"
            self._note(engine, job, missed[-1], RunState.MISSED, reason)

    def _note(
        self, engine: sa.Engine, job: Job, at: datetime, state: RunState, reason: str
    ) -> None:
        read = notebooks.read(job.notebooks[0])
        given = {name: v for name, v in job.parameters.items() if name in read.parameters}
        origin = Origin(job=job.name, planned_at=at)
        records.note(engine, read, given, origin, state=state, reason=reason)
        self.tell(f"{job.name} at {at}: {state}: {reason}")

    # -- running ---------------------------------------------------------------------------------

    def _fire(self, engine: sa.Engine, job: Job) -> None:
        """Run ``job`` in a process of its own, and wait for it."""
        now = datetime.now(UTC)
        order = {
            "notebooks": list(job.notebooks),
            "parameters": dict(job.parameters),
            "timeout_s": job.timeout_s,
            "job": job.name,
            "planned_at": (job.when.last(now) or now).isoformat(),
        }
        del engine
        child = subprocess.Popen(
            [sys.executable, "-m", "ml4ad.pipelines"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._children.add(child)
        self.tell(f"{job.name}: started")
        try:
            said, complained = child.communicate(json.dumps(order))
        finally:
            self._children.discard(child)
        lines = [line for line in (said + complained).splitlines() if line.strip()]
        self.tell(f"{job.name}: {lines[-1] if lines else f'ended with {child.returncode}'}")

    def _end(self, scheduler: BackgroundScheduler) -> None:
        scheduler.remove_all_jobs()
        for child in list(self._children):
            child.terminate()
        if scheduler.running:
            scheduler.shutdown(wait=True)


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
