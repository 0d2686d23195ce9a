"""Records of notebook runs in the database: begun, kept alive, ended, looked up.

A run says that it lives every few seconds. One that has been silent for longer than `SILENT_S` is
marked lost by whoever looks next.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from ml4ad import provenance, store
from ml4ad.store.execution import RunState, pipeline_run

if TYPE_CHECKING:
    import pandas as pd

    from ml4ad.pipelines.notebook import Notebook

#: A run says that it lives so often, and counts as lost after so long without, in seconds.
HEARTBEAT_S = 5.0
SILENT_S = 30.0

#: Longest error message that is kept.
MAX_MESSAGE = 5000

_T = pipeline_run.c

# What a moment of a job is told by; there is one record of each.
_MOMENT = ("job", "planned_at")


class AlreadyRunError(RuntimeError):
    """The run that was planned for this moment is somebody else's already."""


@dataclass(frozen=True)
class Record:
    """One run of a notebook; see the table ``pipeline_run`` for what the fields hold."""

    pipeline_run_id: int
    notebook: str
    path: str
    digest: str
    given: dict[str, Any]
    parameters: dict[str, Any]
    state: RunState
    reason: str
    who: str
    host: str
    pid: int
    cwd: str
    cluster: str
    code_version: str
    job: str | None
    planned_at: datetime | None
    rerun_of: int | None
    chain_id: int | None
    started_at: datetime
    heartbeat_at: datetime
    finished_at: datetime | None
    n_cells: int
    cell: int
    error_name: str | None
    error_message: str | None
    output: str | None
    page: str | None

    @property
    def duration(self) -> timedelta:
        """How long it ran; while it runs, until it last said so."""
        return (self.finished_at or self.heartbeat_at) - self.started_at

    def __str__(self) -> str:
        what = f"run {self.pipeline_run_id} of {self.notebook}: {self.state}"
        return f"{what}: {self.reason}" if self.reason else what


@dataclass(frozen=True)
class Origin:
    """What a run was started by, where that was not a person."""

    job: str | None = None
    planned_at: datetime | None = None
    rerun_of: int | None = None
    chain_id: int | None = None


@contextmanager
def opened(database_url: str | None = None) -> Iterator[sa.Engine]:
    """Engine on ``database_url`` or the database of the settings; closed at the end."""
    engine = store.engine(database_url)
    try:
        yield engine
    finally:
        engine.dispose()


def begin(
    engine: sa.Engine, notebook: Notebook, given: Mapping[str, Any], folder: Path, origin: Origin
) -> Record:
    """Record of a run that starts now; its output will lie in a folder of its own in ``folder``.

    Raises AlreadyRunError if the job's run for this moment has a record, unless it was refused.
    """
    parameters = notebook.defaults() | dict(given)
    row = _row(notebook, given, parameters, RunState.RUNNING, origin)
    with engine.begin() as connection:
        # Whoever refused this moment may have met the very process that is about to begin it.
        taking = _insert(row).on_conflict_do_update(
            index_elements=_MOMENT,
            set_={"reason": "", "finished_at": None} | row,
            where=_T.state == RunState.REFUSED,
        )
        added = connection.execute(taking.returning(pipeline_run)).one_or_none()
        if added is None:
            raise AlreadyRunError(_taken(connection, origin))
        name = f"{added.started_at:%Y%m%dT%H%M%S}-{notebook.name}-{added.pipeline_run_id}"
        output = str(folder.absolute() / name / f"{notebook.name}.ipynb")
        changed = connection.execute(
            sa.update(pipeline_run)
            .where(_T.pipeline_run_id == added.pipeline_run_id)
            .values(output=output)
            .returning(pipeline_run)
        )
        return _record(changed.one())


def note(
    engine: sa.Engine, notebook: Notebook, given: Mapping[str, Any], origin: Origin, **said: Any
) -> Record | None:
    """Record of a planned run that will not take place: ``state`` and ``reason`` say why.

    None if there is a record of it.
    """
    row = _row(notebook, given, notebook.defaults() | dict(given), said["state"], origin)
    row |= {"reason": said["reason"], "finished_at": sa.func.now()}
    with engine.begin() as connection:
        adding = _insert(row).on_conflict_do_nothing(index_elements=_MOMENT)
        added = connection.execute(adding.returning(pipeline_run)).one_or_none()
    return None if added is None else _record(added)


def taken(engine: sa.Engine, origin: Origin) -> str:
    """Sentence that tells which run the job's moment belongs to."""
    with engine.connect() as connection:
        return _taken(connection, origin)


def beat(engine: sa.Engine, run_id: int, cell: int) -> None:
    """Say that the run lives and is at ``cell``; one that was thought lost lives again."""
    values = {"heartbeat_at": sa.func.now(), "cell": cell, "state": RunState.RUNNING, "reason": ""}
    with engine.begin() as connection:
        connection.execute(
            sa.update(pipeline_run)
            .where(_T.pipeline_run_id == run_id)
            .where(_T.state.in_([RunState.RUNNING, RunState.LOST]))
            .values(finished_at=None, **values)
        )


def end(engine: sa.Engine, run_id: int, state: RunState, **values: Any) -> Record:
    """The record after it ended in ``state``; ``values`` are further columns."""
    if values.get("error_message"):
        values["error_message"] = _storable(values["error_message"])
    values["reason"] = _storable(values.get("reason", ""))
    with engine.begin() as connection:
        changed = connection.execute(
            sa.update(pipeline_run)
            .where(_T.pipeline_run_id == run_id)
            .values(state=state, finished_at=sa.func.now(), heartbeat_at=sa.func.now(), **values)
            .returning(pipeline_run)
        )
        return _record(changed.one())


def paged(engine: sa.Engine, run_id: int, page: Path) -> Record:
    """The record after its page was written to ``page``."""
    with engine.begin() as connection:
        changed = connection.execute(
            sa.update(pipeline_run)
            .where(_T.pipeline_run_id == run_id)
            .values(page=str(page))
            .returning(pipeline_run)
        )
        return _record(changed.one())


def find(engine: sa.Engine, run_id: int) -> Record:
    """Record number ``run_id``; KeyError if there is none."""
    with engine.begin() as connection:
        _mark_lost(connection)
        row = connection.execute(
            sa.select(pipeline_run).where(_T.pipeline_run_id == run_id)
        ).one_or_none()
        if row is None:
            newest = connection.scalar(sa.select(sa.func.max(_T.pipeline_run_id)))
            known = f"the newest is {newest}" if newest else "there is none yet"
            raise KeyError(f"no run {run_id}: {known}")
        return _record(row)


def recent(
    engine: sa.Engine,
    *,
    notebook: str | None = None,
    state: str | None = None,
    job: str | None = None,
    limit: int = 20,
) -> list[Record]:
    """The newest records first, at most ``limit``; ValueError for an unknown state."""
    if state is not None and state not in set(RunState):
        raise ValueError(f"state {state!r}, want one of {', '.join(RunState)}")
    query = sa.select(pipeline_run).order_by(_T.pipeline_run_id.desc()).limit(limit)
    for column, wanted in ((_T.notebook, notebook), (_T.state, state), (_T.job, job)):
        if wanted is not None:
            query = query.where(column == wanted)
    with engine.begin() as connection:
        _mark_lost(connection)
        return [_record(row) for row in connection.execute(query)]


def table(records: list[Record]) -> pd.DataFrame:
    """The records as a DataFrame, one row each."""
    import pandas as pd

    rows = [
        {
            "run": record.pipeline_run_id,
            "notebook": record.notebook,
            "state": str(record.state),
            "started": pd.Timestamp(record.started_at),
            "seconds": round(record.duration.total_seconds(), 1),
            "cell": f"{record.cell}/{record.n_cells}",
            "who": record.who,
            "host": record.host,
            "job": record.job,
            "given": " ".join(f"{name}={value}" for name, value in record.given.items()),
            "reason": record.reason,
        }
        for record in records
    ]
    columns = ["run", "notebook", "state", "started", "seconds", "cell", "who", "host", "job"]
    return pd.DataFrame(rows, columns=[*columns, "given", "reason"])


def described(record: Record) -> dict[str, Any]:
    """All fields of a record that say something, as texts, with its duration."""
    values = {field.name: getattr(record, field.name) for field in fields(Record)}
    values |= {
        "given": json.dumps(record.given),
        "parameters": json.dumps(record.parameters),
        "seconds": f"{record.duration.total_seconds():.1f}",
    }
    return {name: str(value) for name, value in values.items() if value not in (None, "")}


def last_planned(engine: sa.Engine, job: str) -> datetime | None:
    """Latest moment for which a run of ``job`` has a record, whatever came of it."""
    with engine.connect() as connection:
        return connection.scalar(sa.select(sa.func.max(_T.planned_at)).where(_T.job == job))


def running(engine: sa.Engine, job: str) -> Record | None:
    """The run of ``job`` that is under way, or None."""
    found = recent(engine, job=job, state=RunState.RUNNING, limit=1)
    return found[0] if found else None


# -- locks ---------------------------------------------------------------------------------------

#: Name of the lock that the keeper of the schedule holds; a job's is its own name.
SCHEDULE = ""

_LOCKS = 0x6D6C3471


@contextmanager
def locked(engine: sa.Engine, name: str, holder: str) -> Iterator[sa.Connection | str]:
    """The connection that holds the lock ``name``, or who else holds it, as text.

    It is the database's, so that it counts on all machines, and falls when its holder ends.
    ``holder`` is what others are told, at most 63 characters.
    """
    key = _key(name)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.select(sa.func.set_config("application_name", holder[:63], False)))
        taken = connection.scalar(sa.select(sa.func.pg_try_advisory_lock(_LOCKS, key)))
        try:
            yield connection if taken else _holder(connection, key)
        finally:
            # Not given back to the pool: whoever got it would have the name, and the lock.
            connection.invalidate()


def assert_held(lock: sa.Connection) -> None:
    """Raise DatabaseError if the connection that holds a lock is gone, and so the lock."""
    lock.execute(sa.select(1))


def holder(engine: sa.Engine, name: str) -> str:
    """Who holds the lock ``name``, "" if nobody does."""
    with engine.connect() as connection:
        return _found_holder(connection, _key(name)) or ""


def _key(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], signed=True)


def _holder(connection: sa.Connection, key: int) -> str:
    return _found_holder(connection, key) or "by somebody who has just ended"


def _found_holder(connection: sa.Connection, key: int) -> str | None:
    locks = sa.table("pg_locks", sa.column("pid"), sa.column("classid"), sa.column("objid"))
    columns: list[sa.ColumnClause[Any]] = [
        sa.column(name) for name in ("pid", "datname", "application_name")
    ]
    activity = sa.table("pg_stat_activity", *columns)
    return connection.scalar(
        sa.select(activity.c.application_name)
        .join(locks, locks.c.pid == activity.c.pid)
        .where(activity.c.datname == sa.func.current_database())
        .where(locks.c.classid == sa.cast(_LOCKS, sa.BigInteger))
        .where(locks.c.objid == sa.cast(key % 2**32, sa.BigInteger))
    )


# -- rows ----------------------------------------------------------------------------------------


def _row(
    notebook: Notebook,
    given: Mapping[str, Any],
    parameters: Mapping[str, Any],
    state: RunState,
    origin: Origin,
) -> dict[str, Any]:
    return {
        "notebook": notebook.name,
        "path": str(notebook.path),
        "digest": notebook.digest,
        "given": dict(given),
        "parameters": dict(parameters),
        "state": state,
        "who": provenance.user(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "cwd": str(Path.cwd()),
        "cluster": str(parameters.get("cluster", "")),
        "code_version": provenance.code_version(),
        "job": origin.job,
        "planned_at": origin.planned_at,
        "rerun_of": origin.rerun_of,
        "chain_id": origin.chain_id,
        "started_at": sa.func.now(),
        "heartbeat_at": sa.func.now(),
        "n_cells": notebook.n_cells + bool(given),  # papermill adds a cell for them
        "cell": 0,
    }


def _insert(row: Mapping[str, Any]) -> Any:
    return insert(pipeline_run).values(**row)


def _taken(connection: sa.Connection, origin: Origin) -> str:
    of_moment = (_T.job == origin.job) & (_T.planned_at == origin.planned_at)
    holder = _record(connection.execute(sa.select(pipeline_run).where(of_moment)).one())
    return f"job {origin.job}: its run of {origin.planned_at} is {holder}, on {holder.host}"


def _mark_lost(connection: sa.Connection) -> None:
    silent = sa.func.now() - timedelta(seconds=SILENT_S)
    connection.execute(
        sa.update(pipeline_run)
        .where(_T.state == RunState.RUNNING, _T.heartbeat_at < silent)
        .values(
            state=RunState.LOST,
            finished_at=_T.heartbeat_at,
            reason=sa.literal("nothing heard since ")
            + sa.cast(sa.func.date_trunc("second", _T.heartbeat_at), sa.Text)
            + sa.literal(" from process ")
            + sa.cast(_T.pid, sa.Text)
            + sa.literal(" on ")
            + _T.host,
        )
    )


def _record(row: sa.Row[Any]) -> Record:
    values = {field.name: getattr(row, field.name) for field in fields(Record)}
    return Record(**values | {"state": RunState(row.state)})


def _storable(text: str) -> str:
    # PostgreSQL's text holds no NUL.
    return text.replace("\0", "\\0")[:MAX_MESSAGE]
