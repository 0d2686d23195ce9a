"""Which files there are: every file is a row, known again by its path and by ROOT's UUID."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from ml4ad.dqmio import names
from ml4ad.ingest import find, forget, source
from ml4ad.ingest.find import Location
from ml4ad.ingest.turns import alone
from ml4ad.store import State, dimensions
from ml4ad.store.schema import MAX_REASON, copy, file
from ml4ad.store.schema import dataset as dataset_table

Outcome = Literal["new", "known", "changed", "moved", "copy", "waiting", "bad", "failed"]

# Listed files whose rows are looked up together.
_BATCH = 1000


@dataclass(frozen=True)
class Found:
    """What `index` made of one path; ``file_id`` is None where no row could be made."""

    path: str
    outcome: Outcome
    file_id: int | None = None
    dataset: str = ""
    reason: str = ""


@dataclass(frozen=True)
class _Identity:
    """What a file says of itself when it is opened."""

    uuid: str | None = None
    guid: str | None = None
    release: str = ""
    state: State = State.INDEXED
    reason: str = ""


@dataclass
class _Scan:
    engine: sa.Engine
    dataset: str | None
    era: str | None
    quiet_s: float = 0.0
    dataset_ids: dict[str, int] = field(default_factory=dict)

    def dataset_id(self, name: str) -> int:
        if name not in self.dataset_ids:
            self.dataset_ids[name] = dimensions.dataset_id(self.engine, name)
        return self.dataset_ids[name]


def index(
    target: Any,
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    dataset: str | None = None,
    era: str | None = None,
    quiet_s: float = 0.0,
) -> Iterator[Found]:
    """What becomes of each file at ``paths`` (files, folders, globs, URLs), one by one.

    ``target`` is an engine, or an archive. Dataset and era follow from the path's name unless they
    are given. A file that is known, unchanged, is not opened. Known elsewhere by its UUID and size,
    it is a copy, or has moved if it is no longer where it was. A file that changed, and one whose
    dataset is now another, is INDEXED again. What is no DQMIO file is BAD, with the reason; what
    cannot be read now is FAILED. A file that changed within the last ``quiet_s`` seconds is left
    alone ("waiting", no row): it may still be written. Files that are gone from an indexed folder
    are marked vanished. Only one process at a time goes through a folder; others wait for it, and
    then find all of it known.
    """
    engine: sa.Engine = getattr(target, "engine", target)
    scan = _Scan(engine, dataset, era, quiet_s)
    listed = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    for is_folder, together in groupby(listed, find.is_folder):
        if not is_folder:
            # Many single files cost as few queries as a folder of them.
            yield from _index_paths(scan, together, set())
            continue
        for path in together:
            folder = find.absolute(path)
            with alone(engine, f"index {folder}"):
                seen: set[str] = set()
                yield from _index_paths(scan, [path], seen)
                mark_vanished(engine, folder, seen)


def _index_paths(
    scan: _Scan, paths: Iterable[str | os.PathLike[str]], seen: set[str]
) -> Iterator[Found]:
    failed: list[Found] = []
    for batch in _batches(_listed(scan, paths, seen, failed)):
        seen.update(location.path for location in batch)
        yield from _index_batch(scan, batch)
    yield from failed


def _listed(
    scan: _Scan,
    paths: Iterable[str | os.PathLike[str]],
    seen: set[str],
    failed: list[Found],
) -> Iterator[Location]:
    for path in paths:
        try:
            yield from find.locations(path)
        except OSError as error:
            failed.append(Found(os.fspath(path), "failed", reason=_one_line(error)))
            # What was not listed has not vanished.
            seen.update(_known_below(scan.engine, find.absolute(path)))


def _known_below(engine: sa.Engine, folder: str) -> list[str]:
    prefix = folder.rstrip("/") + "/"
    with engine.connect() as connection:
        files = sa.select(file.c.path).where(sa.func.starts_with(file.c.path, prefix))
        copies = sa.select(copy.c.path).where(sa.func.starts_with(copy.c.path, prefix))
        return list(connection.scalars(files.union(copies)))


def mark_vanished(engine: sa.Engine, folder: str, seen: set[str]) -> int:
    """Number of known files under ``folder`` that are not among ``seen``; they are marked.

    A file of which a copy is known takes the copy's place.
    """
    prefix = folder.rstrip("/") + "/"
    with engine.begin() as connection:
        copies = sa.select(copy.c.path).where(sa.func.starts_with(copy.c.path, prefix))
        for path in connection.scalars(copies).all():
            if path not in seen:
                connection.execute(sa.delete(copy).where(copy.c.path == path))
        inside = sa.func.starts_with(file.c.path, prefix) & ~file.c.vanished
        known = connection.execute(sa.select(file.c.file_id, file.c.path).where(inside)).all()
        # An export, or a file of another ending that was named, is not listed and yet there.
        gone = [r.file_id for r in known if r.path not in seen and not find.exists(r.path)]
        for file_id in gone:
            _use_copy_or_vanish(connection, file_id)
    return len(gone)


def _use_copy_or_vanish(connection: sa.Connection, file_id: int) -> None:
    this = file.c.file_id == file_id
    other = connection.execute(
        sa.select(copy).where(copy.c.file_id == file_id).order_by(copy.c.path).limit(1)
    ).one_or_none()
    if other is None:
        connection.execute(sa.update(file).where(this).values(vanished=True))
        return
    connection.execute(sa.delete(copy).where(copy.c.path == other.path))
    connection.execute(
        sa.update(file).where(this).values(path=other.path, size=other.size, mtime=other.mtime)
    )


def _batches(found: Iterable[Location]) -> Iterator[list[Location]]:
    iterator = iter(found)
    while batch := list(islice(iterator, _BATCH)):
        yield batch


def _index_batch(scan: _Scan, batch: Sequence[Location]) -> Iterator[Found]:
    paths = [location.path for location in batch]
    these = sa.bindparam("paths", paths, type_=sa.ARRAY(sa.Text))
    shared = (file.c.file_id, dataset_table.c.dataset)
    with scan.engine.connect() as connection:
        rows = connection.execute(
            sa.select(
                file.c.path, file.c.size, file.c.mtime, file.c.vanished, file.c.state, *shared
            )
            .join_from(file, dataset_table, isouter=True)
            .where(file.c.path == sa.any_(these))
        ).all()
        copies = connection.execute(
            sa.select(copy.c.path, copy.c.size, copy.c.mtime, *shared)
            .join_from(copy, file)
            .join(dataset_table, isouter=True)
            .where(copy.c.path == sa.any_(these))
        ).all()
    known = {row.path: row for row in [*copies, *rows]}
    for location in batch:
        row = known.get(location.path)
        if row is not None and _unchanged(row, location, scan.dataset):
            yield Found(location.path, "known", row.file_id, row.dataset or "")
        elif time.time() - location.mtime < scan.quiet_s:
            reason = f"changed within the last {scan.quiet_s:g} s: it may still be written"
            yield Found(location.path, "waiting", reason=reason)
        else:
            yield _index_one(scan, location)


def _unchanged(row: Any, location: Location, dataset: str | None) -> bool:
    if (row.size, row.mtime) != (location.size, location.mtime):
        return False
    if getattr(row, "vanished", False):
        return False
    # FAILED for want of a dataset, or unreadable: look again.
    if getattr(row, "state", None) == State.FAILED and row.dataset is None:
        return False
    return dataset is None or row.dataset == dataset


def _index_one(scan: _Scan, location: Location) -> Found:
    identity = _identify(location.path)
    dataset = scan.dataset or names.dataset_from_path(location.path)
    era = scan.era or names.era_from_path(dataset) or names.era_from_path(location.path)
    if not dataset and identity.state == State.INDEXED:
        reason = f"{location.path}: the path tells no dataset; give it (--dataset)"
        identity = _Identity(identity.uuid, identity.guid, "", State.FAILED, reason)
    dataset_id = scan.dataset_id(dataset) if dataset else None
    values = {
        "dataset_id": dataset_id,
        "era": era,
        "uuid": identity.uuid,
        "guid": identity.guid,
        "release": identity.release,
        "size": location.size,
        "mtime": location.mtime,
        "state": identity.state,
        "reason": identity.reason[:MAX_REASON],
        "vanished": False,
        "attempts": 0,
        "indexed_at": sa.func.now(),
    }
    with scan.engine.begin() as connection:
        # Two who index the same file, under one path or two, take turns.
        for key in sorted({location.path, f"uuid {identity.uuid}"}):
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtext(key))))
        outcome, file_id = _place(connection, location, identity, values)
    if identity.state == State.BAD:
        outcome = "bad"
    elif identity.state == State.FAILED:
        outcome = "failed"
    return Found(location.path, outcome, file_id, dataset, identity.reason)


def _identify(path: str) -> _Identity:
    try:
        with source.opened(path) as opened:
            return _Identity(opened.uuid, opened.guid, opened.release)
    except ValueError as error:
        return _Identity(state=State.BAD, reason=_one_line(error))
    except OSError as error:
        return _Identity(state=State.FAILED, reason=_one_line(error))


def _place(
    connection: sa.Connection, location: Location, identity: _Identity, values: dict[str, Any]
) -> tuple[Outcome, int]:
    """Make, change or find the row of a file."""
    here = connection.execute(sa.select(file).where(file.c.path == location.path)).one_or_none()
    if here is not None:
        return _replace_row(connection, here, location, values)
    connection.execute(sa.delete(copy).where(copy.c.path == location.path))
    if identity.uuid is not None:
        twin = connection.execute(
            sa.select(file)
            .where(file.c.uuid == identity.uuid, file.c.size == location.size)
            .where(file.c.dataset_id == values["dataset_id"])
            .order_by(file.c.file_id)
        ).first()
        if twin is not None:
            return _known_elsewhere(connection, twin, location)
    made = insert(file).values(path=location.path, **values).returning(file.c.file_id)
    return "new", connection.execute(made).scalar_one()


def _replace_row(
    connection: sa.Connection, here: Any, location: Location, values: dict[str, Any]
) -> tuple[Outcome, int]:
    this = file.c.file_id == here.file_id
    same = (here.uuid, here.size, here.mtime, here.dataset_id) == (
        *(values["uuid"], location.size, location.mtime, values["dataset_id"]),
    )
    if same and here.state not in (State.FAILED, State.BAD):
        connection.execute(sa.update(file).where(this).values(vanished=False))
        return "known", here.file_id
    if here.dataset_id is not None and here.dataset_id != values["dataset_id"]:
        forget.delete_contents(connection, here.dataset_id, here.file_id)
    # What other paths hold is what this one held.
    connection.execute(sa.delete(copy).where(copy.c.file_id == here.file_id))
    connection.execute(sa.update(file).where(this).values(**values))
    return "changed", here.file_id


def _known_elsewhere(
    connection: sa.Connection, twin: Any, location: Location
) -> tuple[Outcome, int]:
    place = {"path": location.path, "size": location.size, "mtime": location.mtime}
    if find.exists(twin.path):
        connection.execute(insert(copy).values(file_id=twin.file_id, **place))
        return "copy", twin.file_id
    moved: dict[str, Any] = {**place, "vanished": False}
    if twin.state == State.FAILED:
        moved |= {"state": State.INDEXED, "reason": ""}
    connection.execute(sa.update(file).where(file.c.file_id == twin.file_id).values(**moved))
    return "moved", twin.file_id


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
