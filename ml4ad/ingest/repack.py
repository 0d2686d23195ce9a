"""Blocks that are stored, read a bounded number of bytes at a time, and others put in their place.

Whoever does this has the dataset's lock for itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ml4ad.stack import HistogramStack
from ml4ad.store import blocks
from ml4ad.store.schema import binning, block, dataset, me

#: In place of a file's number: lumisections of several files, see `ml4ad.ingest.compact`.
SEVERAL_FILES = 0

# Packed bytes, and blocks, that are read at a time.
_MOST_BYTES, _MOST_BLOCKS = 32 * 2**20, 1000


@dataclass(frozen=True)
class Place:
    """Which row of the table ``block`` of a dataset's run, and its packed bytes."""

    me_id: int
    first_ls: int
    file_id: int
    size: int


@dataclass(frozen=True)
class Row:
    """A row of the table ``block``, packed."""

    place: Place
    binning_id: int
    stored: blocks.StoredBlock


def of_run(dataset_id: int, run_number: int) -> sa.ColumnElement[bool]:
    """Which blocks are of a run; the planner is told which partition."""
    this = block.c.dataset_id == sa.literal_column(str(int(dataset_id)))
    return this & (block.c.run_number == run_number)


def elements(connection: sa.Connection) -> list[int]:
    """Numbers of all elements that are histograms: with one, a block is found by its key."""
    return sorted(connection.scalars(sa.select(me.c.me_id).where(me.c.dim > 0)))


def among(column: sa.ColumnElement[Any], numbers: Sequence[int]) -> sa.ColumnElement[bool]:
    """Whether a column is one of the numbers."""
    return column == sa.any_(sa.literal(list(numbers), type_=sa.ARRAY(column.type)))


def portions(places: Iterable[Place]) -> Iterator[list[Place]]:
    """Places in order, as many at a time as memory should hold."""
    some: list[Place] = []
    nbytes = 0
    for place in places:
        if some and (nbytes + place.size > _MOST_BYTES or len(some) == _MOST_BLOCKS):
            yield some
            some, nbytes = [], 0
        some.append(place)
        nbytes += place.size
    if some:
        yield some


def read(
    connection: sa.Connection, dataset_id: int, run_number: int, places: Sequence[Place]
) -> list[Row]:
    """Rows at these places, in the same order; those that are gone are left out."""
    names = ("me_id", "first_ls", "file_id")
    arrays = [
        sa.literal([getattr(place, name) for place in places], type_=sa.ARRAY(block.c[name].type))
        for name in names
    ]
    at = sa.func.unnest(*arrays).table_valued(*names).render_derived()
    query = (
        sa.select(
            *(me.c.me, dataset.c.dataset, block.c.run_number, block.c.file_id, block.c.first_ls),
            *(binning.c.description, block.c.packed, block.c.me_id, block.c.binning_id),
        )
        .join_from(at, block, sa.and_(*(at.c[name] == block.c[name] for name in names)))
        .join(me, block.c.me_id == me.c.me_id)
        .join(dataset, dataset.c.dataset_id == block.c.dataset_id)
        .join(binning, binning.c.binning_id == block.c.binning_id)
        .where(of_run(dataset_id, run_number))
    )
    found = {}
    for *stored, me_id, binning_id in connection.execute(query):
        one = blocks.StoredBlock(*stored)
        found[me_id, one.first_ls, one.file_id] = binning_id, one
    listed = [(place, found.get((place.me_id, place.first_ls, place.file_id))) for place in places]
    return [Row(place, *row) for place, row in listed if row is not None]


def replace(
    connection: sa.Connection,
    dataset_id: int,
    rows: Sequence[Row],
    stack: HistogramStack,
    file_id: int,
) -> list[int]:
    """Bytes of each block of ``stack`` that is now in place of ``rows``, as of ``file_id``.

    The rows are of one element, run and binning, and so is the stack.
    """
    place, run_number = rows[0].place, rows[0].stored.run_number
    for row in rows:
        connection.execute(
            sa.delete(block)
            .where(of_run(dataset_id, run_number), block.c.me_id == place.me_id)
            .where(block.c.first_ls == row.place.first_ls, block.c.file_id == row.place.file_id)
        )
    made: list[dict[str, Any]] = [
        {
            "me_id": place.me_id,
            "run_number": run_number,
            "first_ls": packed.first_ls,
            "file_id": file_id,
            "dataset_id": dataset_id,
            "binning_id": rows[0].binning_id,
            "last_ls": packed.last_ls,
            "n_ls": packed.n_ls,
            "packed": packed.packed,
        }
        for packed in blocks.pack(stack)
    ]
    if made:
        connection.execute(sa.insert(block), made)
    return [len(one["packed"]) for one in made]
