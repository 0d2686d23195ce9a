"""Which files are to be taken in, and taking them in one after the other."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import pandas as pd
import sqlalchemy as sa

from ml4ad.ingest import selection
from ml4ad.ingest.attempts import Attempts
from ml4ad.ingest.catalogue import index
from ml4ad.ingest.take import Ingested, Told, ingest_file
from ml4ad.store import State
from ml4ad.store.dimensions import FILE_LOCK
from ml4ad.store.schema import file
from ml4ad.workspaces import Workspace


def ingest(
    target: Any,
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | None = None,
    *,
    dataset: str | None = None,
    era: str | None = None,
    memory_mb: int | None = None,
    replace: bool = False,
    workspaces: Iterable[Workspace] | None = None,
    attempts: int = 3,
    backoff_s: float = 2.0,
) -> list[Ingested]:
    """What became of each file at ``paths``, or of all that wait, when all are done.

    ``paths`` are indexed first. ``target`` is an engine, or an archive. See `enqueue` for
    ``workspaces``; `in_turn` and `ingest_parallel` tell of each file as it ends.
    """
    engine: sa.Engine = getattr(target, "engine", target)
    file_ids, lost = None, []
    if paths is not None:
        found = list(index(engine, paths, dataset, era))
        lost = [Ingested(0, f.path, State.FAILED, f.reason) for f in found if f.file_id is None]
        file_ids = [f.file_id for f in found if f.file_id is not None]
    queued = enqueue(engine, file_ids, replace=replace, workspaces=workspaces)
    done = in_turn(
        *(engine, queued),
        memory_mb=memory_mb,
        replace=replace,
        attempts=attempts,
        backoff_s=backoff_s,
    )
    return [*lost, *done]


def in_turn(
    target: Any,
    file_ids: Iterable[int] | None = None,
    *,
    attempts: int = 3,
    backoff_s: float = 2.0,
    memory_mb: int | None = None,
    replace: bool = False,
    told: Callable[[Told], object] | None = None,
) -> Iterator[Ingested]:
    """What becomes of each file, one after the other here; those given, or all that wait.

    As `ml4ad.ingest.ingest_parallel` without workers: what FAILED, or lost the database, is tried
    again up to ``attempts`` times, when the others had their turn and ``backoff_s`` seconds have
    passed, twice as long each time. ``told`` is called with how far a file has come.
    Raises ValueError for attempts below 1 or a negative wait, DatabaseError if the database stays
    away.
    """
    engine: sa.Engine = getattr(target, "engine", target)
    waiting = Attempts(enqueue(engine, file_ids, replace=replace), attempts, backoff_s)
    url = engine.url.render_as_string(hide_password=False)
    take = partial(ingest_file, url, memory_mb=memory_mb, replace=replace, told=told)
    try:
        while waiting:
            time.sleep(waiting.due_in_s())
            number, attempt = waiting.pop()
            record = waiting.ended(engine, number, attempt, partial(take, number))
            if record is not None:
                yield record
    finally:
        # Of a file that was left in the middle nothing is stored.
        release_orphans(engine)


def enqueue(
    target: Any,
    file_ids: Iterable[int] | None = None,
    *,
    replace: bool = False,
    workspaces: Iterable[Workspace] | None = None,
) -> list[int]:
    """Numbers of the files to take in, now PENDING; of those given, or of all.

    Of those given also what FAILED is tried again, and with ``replace`` what had lumisections
    refused. Files whose worker died wait again.

    ``workspaces`` tell which files and which of their elements: of a file that was never stored
    only these are, of one that is stored those that it lacks are added, and what is there stays.
    Without them a new file is stored whole, and any other as was asked for.
    """
    engine: sa.Engine = getattr(target, "engine", target)
    release_orphans(engine)
    waiting: sa.ColumnElement[bool] = file.c.state.in_([State.INDEXED, State.PENDING])
    scope: sa.ColumnElement[bool] = file.c.dataset_id.is_not(None)
    if file_ids is not None:
        ids = sa.bindparam("ids", sorted(set(file_ids)), type_=sa.ARRAY(sa.Integer))
        scope &= file.c.file_id == sa.any_(ids)
        waiting |= file.c.state == State.FAILED
        if replace:
            waiting |= (file.c.state == State.PROCESSED) & (file.c.n_refused > 0)
    if workspaces is not None:
        scope &= file.c.dataset_id.in_(selection.want(engine, scope, workspaces))
    with engine.begin() as connection:
        # In one order everywhere: two that enqueue the same files must not wait in a circle.
        wanted = sa.select(file.c.file_id).where(scope, waiting | selection.lacking())
        locked = wanted.order_by(file.c.file_id).with_for_update()
        numbers = list(connection.scalars(locked))
        these = sa.bindparam("these", numbers, type_=sa.ARRAY(sa.Integer))
        # What is stored and only lacks some elements stays PROCESSED until a worker has it.
        begun = sa.update(file).where(file.c.file_id == sa.any_(these), waiting)
        connection.execute(begun.values(state=State.PENDING))
    return numbers


def retry(target: Any, paths: Iterable[str] | None = None) -> list[int]:
    """Numbers of files that FAILED or are BAD and are PENDING again; of those at paths, or of all.

    They begin to count their attempts anew. A file whose dataset is unknown must be indexed again.
    """
    engine: sa.Engine = getattr(target, "engine", target)
    chosen = file.c.state.in_([State.FAILED, State.BAD]) & file.c.dataset_id.is_not(None)
    if paths is not None:
        these_paths = sa.bindparam("paths", sorted(set(paths)), type_=sa.ARRAY(sa.Text))
        chosen &= file.c.path == sa.any_(these_paths)
    with engine.begin() as connection:
        locked = sa.select(file.c.file_id).where(chosen).order_by(file.c.file_id).with_for_update()
        numbers = list(connection.scalars(locked))
        these = sa.bindparam("these", numbers, type_=sa.ARRAY(sa.Integer))
        waiting = sa.update(file).where(file.c.file_id == sa.any_(these))
        connection.execute(waiting.values(state=State.PENDING, attempts=0))
    return numbers


def release_orphans(target: Any) -> int:
    """Number of files whose worker is gone; they are PENDING again."""
    engine: sa.Engine = getattr(target, "engine", target)
    locks = sa.table(
        "pg_locks",
        *(sa.column(name) for name in ("locktype", "classid", "objid", "database", "granted")),
        schema="pg_catalog",
    )
    databases = sa.table("pg_database", sa.column("oid"), sa.column("datname"), schema="pg_catalog")
    here = sa.select(databases.c.oid).where(databases.c.datname == sa.func.current_database())
    held = sa.select(locks.c.objid).where(
        locks.c.locktype == "advisory",
        locks.c.classid == FILE_LOCK,
        locks.c.database == here.scalar_subquery(),
    )
    with engine.begin() as connection:
        orphaned = (
            sa.update(file)
            .where(file.c.state == State.RUNNING)
            .where(sa.cast(file.c.file_id, sa.BigInteger).not_in(_as_numbers(held)))
            .values(state=State.PENDING)
        )
        return connection.execute(orphaned).rowcount


def _as_numbers(held: sa.Select[Any]) -> sa.Select[Any]:
    ids = held.subquery()
    return sa.select(sa.cast(ids.c.objid, sa.BigInteger))


def states(target: Any) -> pd.DataFrame:
    """A row per state that occurs: state, n_files, bytes, packed_bytes, oldest (when indexed)."""
    engine: sa.Engine = getattr(target, "engine", target)
    columns = {
        "state": file.c.state,
        "n_files": sa.func.count(),
        "bytes": sa.cast(sa.func.sum(file.c.size), sa.BigInteger),
        "packed_bytes": sa.cast(
            sa.func.coalesce(sa.func.sum(file.c.packed_bytes), 0), sa.BigInteger
        ),
        "oldest": sa.func.min(file.c.indexed_at),
    }
    query = sa.select(*columns.values()).group_by(file.c.state).order_by(file.c.state)
    with engine.connect() as connection:
        rows = [tuple(row) for row in connection.execute(query)]
    return pd.DataFrame(rows, columns=list(columns))


def errors(target: Any, most: int = 10) -> list[Any]:
    """Rows of the files that failed or are bad, those last seen first."""
    engine: sa.Engine = getattr(target, "engine", target)
    when = sa.func.coalesce(file.c.finished_at, file.c.indexed_at)
    query = (
        sa.select(file.c.path, file.c.state, file.c.attempts, when.label("when"), file.c.reason)
        .where(file.c.state.in_([State.FAILED, State.BAD]))
        .order_by(when.desc(), file.c.file_id.desc())
        .limit(most)
    )
    with engine.connect() as connection:
        return list(connection.execute(query))
