"""Takes one file in: read, packed and stored in one transaction, or not at all.

Everything here can be done by any process that reaches file and database, killed at any point, and
done again. Who works at a file holds an advisory lock on its number, which PostgreSQL drops with
the connection; so a file that is RUNNING and not locked has lost its worker.
"""

from __future__ import annotations

import dataclasses
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pandas as pd
import psycopg
import sqlalchemy as sa

from ml4ad import dqmio, settings
from ml4ad.ingest import forget, ownership, selection, source
from ml4ad.ingest.exported import Folder
from ml4ad.ingest.ownership import Owned
from ml4ad.stack import KINDS, HistogramStack
from ml4ad.store import DatabaseError, State, blocks, dimensions, engine, scoring
from ml4ad.store.blocks import PackedBlock
from ml4ad.store.connection import raw, translated
from ml4ad.store.dimensions import DATASET_LOCK, FILE_LOCK
from ml4ad.store.packing import DamagedBlockError
from ml4ad.store.schema import MAX_REASON, dataset, file, run

# Seconds between two words on how far a file has come.
_TELL_S = 0.5

_WAITING = (State.INDEXED, State.PENDING, State.RUNNING, State.FAILED)


@dataclass(frozen=True)
class Ingested:
    """What became of one file; ``n_refused`` lumisections are another file's."""

    file_id: int
    path: str
    state: str
    reason: str = ""
    n_ls: int = 0
    n_refused: int = 0
    n_histograms: int = 0
    n_blocks: int = 0
    packed_bytes: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Told:
    """How far a file has come: so many of its histograms are packed."""

    file_id: int
    path: str
    n_done: int
    n_histograms: int


def ingest_file(
    url: str,
    file_id: int,
    *,
    memory_mb: int | None = None,
    replace: bool = False,
    threads: int | None = None,
    told: Callable[[Told], object] | None = None,
) -> Ingested:
    """The record of taking in the file of that number; it can be pickled, as can the arguments.

    A file that another worker has, or that is PROCESSED, is left alone. Lumisections that another
    file of the dataset holds are refused, and both files named; with ``replace`` the newer of the
    two has them. A damaged file becomes BAD; any other failure FAILED, and another attempt may
    pass. ``threads`` decompress, by default as many as there are cores and at most 4. ``told`` is
    called at the start and then about twice a second.
    Raises KeyError for an unknown number, DatabaseError if the database is not there.
    """
    started = time.monotonic()
    here = _engine(url)
    how = _How(memory_mb or settings.load().memory_mb, replace, threads, told)
    with here.connect() as connection, _claimed(connection, file_id, replace) as row:
        if row is not None:
            failed = _attempt(here, connection, row, how)
            if failed:
                connection.rollback()
                with connection.begin():
                    _change(connection, file_id, finished_at=sa.func.clock_timestamp(), **failed)
        done = _read(connection, file_id)
    return dataclasses.replace(done, seconds=time.monotonic() - started)


# By process, too: a connection must not be used on both sides of a fork.
_engines: dict[tuple[str, int], sa.Engine] = {}
_engines_lock = threading.Lock()


def _engine(url: str) -> sa.Engine:
    key = (url, os.getpid())
    with _engines_lock:
        if key not in _engines:
            _engines[key] = engine(url)
        return _engines[key]


def close_engines() -> None:
    """Give back the connections that this process keeps between files."""
    for key in [key for key in _engines if key[1] == os.getpid()]:
        _engines.pop(key).dispose()


@dataclass(frozen=True)
class _How:
    memory_mb: int
    replace: bool
    threads: int | None
    told: Callable[[Told], object] | None


def _attempt(here: sa.Engine, connection: sa.Connection, row: Any, how: _How) -> dict[str, Any]:
    """What to write of a failure; nothing if all went well."""
    try:
        with connection.begin():
            _store(here, connection, row, how)
    except DatabaseError:
        raise
    except FileNotFoundError as error:
        return {"state": State.FAILED, "reason": _one_line(error), "vanished": True}
    except psycopg.errors.UniqueViolation as error:
        twice = f"{row.path}: an element is twice in a lumisection: {_one_line(error)}"
        return {"state": State.BAD, "reason": twice}
    except (OSError, sa.exc.SQLAlchemyError, psycopg.Error, DamagedBlockError) as error:
        # A damaged block is the archive's, not the file's.
        return {"state": State.FAILED, "reason": _one_line(error)}
    except ValueError as error:
        return {"state": State.BAD, "reason": _one_line(error)}
    return {}


@contextmanager
def _claimed(connection: sa.Connection, file_id: int, replace: bool) -> Iterator[Any]:
    """The file's row, RUNNING, while nobody else can have it; None if it is not to be taken."""
    lock = sa.select(sa.func.pg_try_advisory_lock(FILE_LOCK, file_id))
    if not connection.scalar(lock):
        connection.rollback()
        yield None
        return
    connection.commit()
    try:
        yield _begin(connection, file_id, replace)
    finally:
        # A broken connection has lost the lock already.
        if not connection.invalidated and not connection.closed:
            connection.rollback()
            connection.execute(sa.select(sa.func.pg_advisory_unlock(FILE_LOCK, file_id)))
            connection.commit()


def _begin(connection: sa.Connection, file_id: int, replace: bool) -> Any:
    wanted: sa.ColumnElement[bool] = file.c.state.in_(_WAITING)
    wanted |= selection.lacking()
    if replace:
        wanted |= (file.c.state == State.PROCESSED) & (file.c.n_refused > 0)
    with connection.begin():
        query = sa.select(file).where(file.c.file_id == file_id, wanted)
        row = connection.execute(query.with_for_update(skip_locked=True)).one_or_none()
        if row is not None:
            _change(
                connection,
                file_id,
                state=State.RUNNING,
                attempts=file.c.attempts + 1,
                started_at=sa.func.now(),
                finished_at=None,
                heartbeat_at=sa.func.now(),
                worker=f"{socket.gethostname()}:{os.getpid()}",
            )
    return row


def _change(connection: sa.Connection, file_id: int, **values: Any) -> None:
    if "reason" in values:
        values["reason"] = values["reason"].replace("\0", "")[:MAX_REASON]
    connection.execute(sa.update(file).where(file.c.file_id == file_id).values(**values))


def as_it_is(target: Any, file_id: int) -> Ingested:
    """The record of a file as the archive has it; KeyError for an unknown number."""
    here: sa.Engine = getattr(target, "engine", target)
    with here.connect() as connection:
        return _read(connection, file_id)


def _read(connection: sa.Connection, file_id: int) -> Ingested:
    row = connection.execute(sa.select(file).where(file.c.file_id == file_id)).one_or_none()
    connection.rollback()
    if row is None:
        raise KeyError(f"no file {file_id} in the archive")
    counts = {
        name: getattr(row, name) or 0
        for name in ("n_ls", "n_refused", "n_histograms", "n_blocks", "packed_bytes")
    }
    return Ingested(file_id, row.path, row.state, row.reason, **counts)


def _one_line(error: BaseException) -> str:
    # SQLAlchemy's text holds statement and parameters, too.
    told = getattr(error, "orig", None) or error
    return " ".join(str(told).split()) or type(told).__name__


# -- the transaction -----------------------------------------------------------------------------


def _store(here: sa.Engine, connection: sa.Connection, row: Any, how: _How) -> None:
    if row.dataset_id is None:
        raise OSError(f"{row.path}: dataset unknown; index it with --dataset")
    again = forget.has_contents(connection, row.dataset_id, row.file_id)
    adding = again and row.state == State.PROCESSED and not (how.replace and row.n_refused)
    # Who only adds shares the dataset; who changes what others added has it alone.
    alone = not adding and (how.replace or again)
    lock = sa.func.pg_advisory_xact_lock if alone else sa.func.pg_advisory_xact_lock_shared
    connection.execute(sa.select(lock(DATASET_LOCK, row.dataset_id)))
    with source.at_hand(row.path) as path, source.opened(path) as opened:
        if row.uuid is not None and opened.uuid != row.uuid:
            raise OSError(f"{row.path}: another file than was indexed (UUID); index it again")
        lumisections = _lumisections(opened)
        if adding:
            owned = ownership.held(connection, row, lumisections)
            packed = _Counted(row.n_histograms, row.n_blocks, row.packed_bytes)
        else:
            if again:
                forget.delete_contents(connection, row.dataset_id, row.file_id)
            owned = ownership.claim(connection, row, lumisections, replace=how.replace)
            _store_runs(connection, row, lumisections)
            packed = _Counted()
        elements = selection.to_store(row, adding=adding)
        stacks = opened.stacks(elements, memory_mb=how.memory_mb, threads=how.threads)
        if how.told is not None:
            start = Told(row.file_id, row.path, 0, _held(opened, elements))
            stacks = _telling(stacks, how.told, start)
        blocks.store(here, connection, row.file_id, row.dataset_id, packed.of(stacks, owned))
        _store_scalars(here, connection, row, opened.scalars(elements), owned)
        _change(
            connection,
            row.file_id,
            state=State.PROCESSED,
            reason=owned.reason,
            finished_at=sa.func.clock_timestamp(),
            vanished=False,
            selection=row.wanted,
            release=opened.release,
            guid=opened.guid,
            n_ls=owned.n_ls,
            n_refused=owned.n_refused,
            n_histograms=packed.n_histograms,
            n_blocks=packed.n_blocks,
            packed_bytes=packed.nbytes,
        )
        name = sa.select(dataset.c.dataset).where(dataset.c.dataset_id == row.dataset_id)
        scoring.notify(
            connection,
            what="file",
            file_id=row.file_id,
            path=row.path,
            dataset=connection.scalar(name),
            n_ls=owned.n_ls,
            n_histograms=packed.n_histograms,
        )


def _lumisections(opened: dqmio.DQMIOFile | Folder) -> pd.DataFrame:
    """What the file holds: a row per lumisection, and per run (lumisection 0), with ``n_mes``."""
    index = opened.index
    counted = index.assign(n_mes=(index["last"] - index["first"] + 1).where(index.kind != "", 0))
    return counted.groupby(["run_number", "ls_number"], as_index=False).agg(
        begin_time=("begin_time", "min"), end_time=("end_time", "max"), n_mes=("n_mes", "sum")
    )


def _held(opened: dqmio.DQMIOFile | Folder, elements: dqmio.names.Pattern) -> int:
    """Number of histograms of these elements in the file, per-run ones included."""
    if elements == selection.ALL or isinstance(opened, Folder):
        index = opened.index[opened.index.kind.isin(KINDS)]
        return int((index["last"] - index["first"] + 1).sum())
    listed = opened.elements[opened.elements.kind.isin(KINDS)]
    chosen = listed[listed.me.map(dqmio.names.matcher(elements))]
    return int((chosen.n_ls + chosen.per_run).sum())


def _telling(
    stacks: Iterator[HistogramStack], told: Callable[[Told], object], start: Told
) -> Iterator[HistogramStack]:
    told(start)
    n_done, next_s = 0, time.monotonic() + _TELL_S
    for stack in stacks:
        yield stack
        n_done += len(stack)
        if time.monotonic() > next_s:
            told(dataclasses.replace(start, n_done=n_done))
            next_s = time.monotonic() + _TELL_S


def _store_runs(connection: sa.Connection, row: Any, lumisections: pd.DataFrame) -> None:
    grouped = lumisections.groupby("run_number")
    first, last = grouped.begin_time.min(), grouped.end_time.max()
    rows = [
        {
            "dataset_id": row.dataset_id,
            "file_id": row.file_id,
            "run_number": run_number,
            "begin_time": None if pd.isna(first[run_number]) else first[run_number],
            "end_time": None if pd.isna(last[run_number]) else last[run_number],
        }
        for run_number in first.index.tolist()
    ]
    if rows:
        connection.execute(sa.insert(run), rows)


@dataclass
class _Counted:
    """Packs stacks, and counts."""

    n_histograms: int = 0
    n_blocks: int = 0
    nbytes: int = 0

    def of(self, stacks: Iterator[HistogramStack], owned: Owned) -> Iterator[PackedBlock]:
        for stack in stacks:
            ours = stack
            if owned.n_refused:
                ours = stack.select(owned.of(stack.run_number))
            for block in blocks.pack(ours):
                self.n_histograms += block.n_ls
                self.n_blocks += 1
                self.nbytes += len(block.packed)
                yield block


_SCALARS = (
    "COPY scalar (dataset_id, me_id, run_number, ls_number, file_id, "
    "int_value, float_value, string_value) FROM STDIN (FORMAT BINARY)"
)
_SCALAR_TYPES = ("int4", "int4", "int8", "int8", "int4", "int8", "float8", "bytea")


def _store_scalars(
    here: sa.Engine, connection: sa.Connection, row: Any, scalars: pd.DataFrame, owned: Owned
) -> None:
    if not len(scalars):
        return
    kinds = dict(zip(scalars.me.tolist(), scalars.kind.tolist(), strict=True))
    me_ids = dimensions.me_ids(here, kinds)
    ours = {number: set(numbers.tolist()) for number, numbers in owned.ls_numbers.items()}
    columns = (
        scalars[name].tolist() for name in ("run_number", "ls_number", "me", "kind", "value")
    )
    with translated(here), raw(connection).cursor() as cursor, cursor.copy(_SCALARS) as copying:
        copying.set_types(_SCALAR_TYPES)
        for run_number, ls_number, me, kind, value in zip(*columns, strict=True):
            if ls_number in ours.get(run_number, ()):
                key = (row.dataset_id, me_ids[me], run_number, ls_number, row.file_id)
                copying.write_row((*key, *_scalar_values(kind, value)))


def _scalar_values(kind: str, value: Any) -> tuple[int | None, float | None, bytes | None]:
    if kind == "Int":
        return int(value), None, None
    if kind == "Float":
        return None, float(value), None
    return None, None, str(value).encode(errors="surrogateescape")
