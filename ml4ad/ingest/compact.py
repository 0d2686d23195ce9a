"""Merges small blocks: of one run, from many small files, so that reading it is fewer rows.

What is stored stays the same to the bit, and so does what the archive gives. Merged are blocks of
an element that follow each other, of one description and the same columns, up to the size that one
large file's blocks have. A merged block is of several files (`repack.SEVERAL_FILES`); whose a
lumisection is, the table ``lumisection`` tells. Per-run contents stay with their file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, TypeVar

import numpy as np
import sqlalchemy as sa
from psycopg import sql

from ml4ad.ingest import repack
from ml4ad.ingest.repack import SEVERAL_FILES, Place, Row
from ml4ad.stack import KINDS
from ml4ad.store import binning, blocks, dimensions, packing
from ml4ad.store.blocks import BLOCK_BYTES
from ml4ad.store.connection import raw
from ml4ad.store.dimensions import DATASET_LOCK
from ml4ad.store.packing import DamagedBlockError
from ml4ad.store.schema import binning as binning_table
from ml4ad.store.schema import block, dataset, lumisection

# Elements looked at together; packed bytes merged in one transaction, and so under one lock.
_ELEMENTS, _TRANSACTION_BYTES = 500, 32 * 2**20


@dataclass(frozen=True)
class Compacted:
    """What became of a run: blocks of it that were merged, those in their place, their bytes.

    ``damaged`` tells which blocks could not be read; they were left as they are.
    """

    dataset: str
    run_number: int
    n_before: int = 0
    n_after: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    damaged: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Small:
    """A block that may be merged with its neighbours; ``most`` lumisections fill a block."""

    place: Place
    last_ls: int
    n_ls: int
    binning_id: int
    most: int


def compact(
    target: Any, dataset: str | None = None, run_number: int | None = None
) -> Iterator[Compacted]:
    """What was merged of each run that several files brought; of a dataset and run, or of all.

    ``target`` is an engine, or an archive. Ingestion goes on meanwhile: each transaction is short,
    waits for files of the dataset that are being stored, and lets the next wait. Killed at any
    point nothing is lost, and another call goes on. Raises KeyError for an unknown dataset.
    """
    engine: sa.Engine = getattr(target, "engine", target)
    for dataset_id, name in _datasets(engine, dataset):
        changed = False
        for number in _runs(engine, dataset_id, run_number):
            done = _compact_run(engine, dataset_id, name, number)
            changed |= done.n_before > 0
            if done.n_before or done.damaged:
                yield done
        if changed:
            _vacuum(engine, dataset_id)


def _datasets(engine: sa.Engine, name: str | None) -> list[tuple[int, str]]:
    query = sa.select(dataset.c.dataset_id, dataset.c.dataset).order_by(dataset.c.dataset)
    if name is not None:
        query = query.where(dataset.c.dataset == name)
    with engine.connect() as connection:
        found = [(row.dataset_id, row.dataset) for row in connection.execute(query)]
    if name is not None and not found:
        raise KeyError(f"no dataset {name!r} in the archive; see `ml4ad list datasets`")
    return found


def _runs(engine: sa.Engine, dataset_id: int, run_number: int | None) -> list[int]:
    """Runs that several files brought."""
    query = (
        sa.select(lumisection.c.run_number)
        .where(lumisection.c.dataset_id == dataset_id)
        .group_by(lumisection.c.run_number)
        .having(sa.func.min(lumisection.c.file_id) < sa.func.max(lumisection.c.file_id))
        .order_by(lumisection.c.run_number)
    )
    if run_number is not None:
        query = query.where(lumisection.c.run_number == run_number)
    with engine.connect() as connection:
        return list(connection.scalars(query))


def _compact_run(engine: sa.Engine, dataset_id: int, name: str, run_number: int) -> Compacted:
    total = Compacted(name, run_number)
    with engine.connect() as connection:
        every = repack.elements(connection)
    for start in range(0, len(every), _ELEMENTS):
        some = every[start : start + _ELEMENTS]
        with engine.connect() as connection:
            sizes = _mergeable_bytes(_small(connection, dataset_id, run_number, some))
        for me_ids in _portions(sizes):
            with engine.begin() as connection:
                alone = sa.func.pg_advisory_xact_lock(DATASET_LOCK, dataset_id)
                connection.execute(sa.select(alone))
                # Looked at again: until now others could change it.
                small = _small(connection, dataset_id, run_number, me_ids)
                for group in _groups_of_elements(small):
                    total = _merge(connection, dataset_id, total, group)
    return total


def _small(
    connection: sa.Connection, dataset_id: int, run_number: int, me_ids: Sequence[int]
) -> list[_Small]:
    """All blocks of lumisections of these elements, in order."""
    query = (
        sa.select(
            *(block.c.me_id, block.c.first_ls, block.c.file_id),
            sa.func.octet_length(block.c.packed),
            *(block.c.last_ls, block.c.n_ls, block.c.binning_id),
        )
        .where(repack.of_run(dataset_id, run_number), repack.among(block.c.me_id, me_ids))
        .where(block.c.first_ls > 0)
        .order_by(block.c.me_id, block.c.first_ls, block.c.file_id)
    )
    rows = connection.execute(query).all()
    most = _most_ls(connection, {row.binning_id for row in rows})
    return [
        _Small(Place(*place), last_ls, n_ls, binning_id, most[binning_id])
        for *place, last_ls, n_ls, binning_id in rows
    ]


def _most_ls(connection: sa.Connection, binning_ids: set[int]) -> dict[int, int]:
    """How many lumisections fill a block, for each binning."""
    query = sa.select(binning_table.c.binning_id, binning_table.c.description).where(
        repack.among(binning_table.c.binning_id, sorted(binning_ids))
    )
    found = {}
    for binning_id, description in connection.execute(query):
        shared = binning.parse(description)
        cells = math.prod(axis.n_bins + 2 for axis in shared["axes"])
        row_bytes = cells * np.dtype(KINDS[shared["kind"]][1]).itemsize
        found[binning_id] = max(1, BLOCK_BYTES // row_bytes)
    return found


def _groups_of_elements(small: Iterable[_Small]) -> Iterator[list[_Small]]:
    for _, of_element in groupby(small, key=lambda one: one.place.me_id):
        yield from _groups(list(of_element), lambda one: one.binning_id)


_Block = TypeVar("_Block")


def _groups(listed: list[_Small], kind: Callable[[_Small], Any]) -> Iterator[list[_Small]]:
    """Neighbours of one kind that fit into one block together, two or more.

    Not where a block of another kind lies between lumisections of theirs: of what is asked for in
    between the title or the columns would change.
    """
    for kind_here, alike in groupby(listed, key=kind):
        group: list[_Small] = []
        n_ls = 0
        groups = [group]
        for one in alike:
            if group and n_ls + one.n_ls > one.most:
                group, n_ls = [], 0
                groups.append(group)
            group.append(one)
            n_ls += one.n_ls
        others = [one for one in listed if kind(one) != kind_here]
        for group in groups:
            first, last = group[0].place.first_ls, max(one.last_ls for one in group)
            between = any(o.place.first_ls <= last and o.last_ls >= first for o in others)
            if len(group) > 1 and not between:
                yield group


def _mergeable_bytes(small: Iterable[_Small]) -> dict[int, int]:
    """Packed bytes that are to be merged, by element."""
    sizes: dict[int, int] = {}
    for group in _groups_of_elements(small):
        me_id = group[0].place.me_id
        sizes[me_id] = sizes.get(me_id, 0) + sum(one.place.size for one in group)
    return sizes


def _portions(sizes: dict[int, int]) -> Iterator[list[int]]:
    some: list[int] = []
    nbytes = 0
    for me_id, size in sizes.items():
        if some and nbytes + size > _TRANSACTION_BYTES:
            yield some
            some, nbytes = [], 0
        some.append(me_id)
        nbytes += size
    if some:
        yield some


def _merge(
    connection: sa.Connection, dataset_id: int, total: Compacted, group: list[_Small]
) -> Compacted:
    """The total with what was merged of the group; nothing of it is where a block is damaged."""
    rows = repack.read(connection, dataset_id, total.run_number, [one.place for one in group])
    columns: dict[Place, Any] = {}
    damaged = []
    for row in rows:
        try:
            columns[row.place] = _columns(row)
        except DamagedBlockError as error:
            damaged.append(str(error))
    if damaged:
        return replace(total, damaged=(*total.damaged, *damaged))
    by_place = {row.place: row for row in rows}
    for alike in _groups(group, lambda one: columns[one.place]):
        these = [by_place[one.place] for one in alike]
        (stack,) = blocks.unpack([row.stored for row in these], None)
        made = repack.replace(connection, dataset_id, these, stack, SEVERAL_FILES)
        total = replace(
            total,
            n_before=total.n_before + len(these),
            n_after=total.n_after + len(made),
            bytes_before=total.bytes_before + sum(row.place.size for row in these),
            bytes_after=total.bytes_after + sum(made),
        )
    return total


def _columns(row: Row) -> tuple[Any, ...]:
    """Which arrays a block has: of those that differ in it, none takes on another's."""
    one = row.stored
    try:
        packed = packing.unpack(one.packed)
    except DamagedBlockError as error:
        raise DamagedBlockError(
            f"{one.me}, run {one.run_number}, lumisections from {one.first_ls}, "
            f"file {one.file_id}: {error}"
        ) from error
    return tuple((name, packed.dtype(name).str) for name in packed.names())


def _vacuum(engine: sa.Engine, dataset_id: int) -> None:
    """Let the space of what was merged be used again."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        table = sql.Identifier(dimensions.partition(dataset_id))
        raw(connection).execute(sql.SQL("VACUUM (ANALYZE) {}").format(table))
