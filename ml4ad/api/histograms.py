"""Pages of histograms, made and sent block by block: memory is bounded whatever a page holds.

The order is dataset, element, run, lumisection: that of the blocks, so that a page reads few. No
connection to the database is held while a client reads.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
import sqlalchemy as sa
from numpy.typing import NDArray

from ml4ad.api.view import View, any_of, matching
from ml4ad.stack import Axis
from ml4ad.store import binning, blocks, packing
from ml4ad.store.packing import DamagedBlockError
from ml4ad.store.schema import binning as binning_table
from ml4ad.store.schema import block, file, lumisection, me

#: Bytes of JSON after which a page ends, shorter than was asked for.
MOST_BYTES = 400 * 2**20

# Blocks whose places are looked up together, at first; packed bytes read together, at first and at
# most; blocks kept unpacked; how often a page is looked up again because the archive has changed.
_FEWEST, _FIRST_BYTES, _MOST_READ, _OPEN, _MOST_MOVED = 16, 2**19, 8 * 2**20, 6, 5
_LAST = 2**63 - 1
# A block that compaction made of several files.
_SEVERAL_FILES = 0

Key = tuple[int, int, int, int]


@dataclass(frozen=True)
class Asked:
    """Filters of a page of histograms; None is all."""

    n_axes: int
    dataset_id: int | None = None
    dataset: str | None = None
    dataset_regex: str | None = None
    file_id: int | None = None
    logical_file_name: str | None = None
    logical_file_name_regex: str | None = None
    first_run: int = 0
    last_run: int = _LAST
    # Lumisection 0 is the whole run, which these pages do not have.
    first_ls: int = 1
    last_ls: int = _LAST
    me_id: int | None = None
    me: str | None = None
    me_regex: str | None = None
    least_entries: float | None = None


@dataclass(frozen=True)
class _Place:
    """Where a block lies; what is in it has not been read."""

    me_id: int
    run_number: int
    first_ls: int
    file_id: int
    binning_id: int
    nbytes: int


@dataclass(frozen=True, order=True)
class _Row:
    """A histogram of a block that has been read."""

    ls_number: int
    at: int
    entries: float = field(compare=False)
    file_id: int = field(compare=False)
    source: _Open = field(compare=False)


class _Open:
    """A block that has been read; its contents are unpacked when they are asked for."""

    def __init__(self, place: _Place, name: str, description: str, packed: bytes) -> None:
        self.place, self.name = place, name
        shared = binning.parse(description)
        self.axes: tuple[Axis, ...] = shared["axes"]
        with _told(place, name):
            self.packed = packing.unpack(packed)
            small = self.packed.small()
        self.ls_numbers, self.entries = small["ls_numbers"], small["entries"]

    def values(self) -> NDArray[Any]:
        """Values as ROOT orders them, ``(n_ls[, ny], nx)``, without flow bins."""
        cells = tuple(axis.n_bins + 2 for axis in self.axes)
        with _told(self.place, self.name):
            contents = self._filled("contents", cells)
            if "sum_of_weights" in self.packed.names():
                with np.errstate(divide="ignore", invalid="ignore"):
                    contents = contents / self._filled("sum_of_weights", cells)
        inner = (slice(None), *(slice(1, -1) for _ in cells))
        return packing.in_file_order(contents)[inner]

    def _filled(self, name: str, cells: tuple[int, ...]) -> NDArray[Any]:
        out = packing.empty((len(self.ls_numbers), *cells), self.packed.dtype(name))
        self.packed.fill(name, out)
        return out


@contextmanager
def _told(place: _Place, name: str) -> Iterator[None]:
    try:
        yield
    except DamagedBlockError as error:
        raise DamagedBlockError(
            f"{name}, run {place.run_number}, lumisections from {place.first_ls}: {error}; "
            "ingest the file again"
        ) from error


class _MovedError(RuntimeError):
    """A block is gone from where it was: merged into another, or its file was taken in again."""


class Pages:
    """Histograms that were asked for, as seen in a view."""

    def __init__(self, view: View, asked: Asked) -> None:
        self._view, self._asked = view, asked
        self._values: OrderedDict[_Open, NDArray[Any]] = OrderedDict()
        self._owners: tuple[tuple[int, int] | None, dict[int, int]] = (None, {})
        self._descriptions: dict[int, str] = {}
        self._files: list[int] | None = None

    def rows(self, start: Key | None) -> Iterator[tuple[Key, bytes]]:
        """Histograms after the one of a key, each with its own key and as JSON."""
        asked = self._asked
        with self._view.reading() as connection:
            ids = None if asked.dataset_id is None else [asked.dataset_id]
            datasets = self._view.datasets(
                connection, name=asked.dataset, regex=asked.dataset_regex, ids=ids
            )
            self._files = self._files_asked(connection)
        if self._files == []:
            return
        for dataset_id, dataset in datasets.items():
            if start is not None and dataset_id < start[0]:
                continue
            place = start[1:] if start is not None and dataset_id == start[0] else None
            yield from self._of_dataset(dataset_id, dataset, place)

    def _files_asked(self, connection: sa.Connection) -> list[int] | None:
        asked = self._asked
        exact, regex = asked.logical_file_name, asked.logical_file_name_regex
        if exact is None and regex is None:
            return None if asked.file_id is None else [asked.file_id]
        query = matching(sa.select(file.c.file_id), logical_name(), exact, regex)
        if asked.file_id is not None:
            query = query.where(file.c.file_id == asked.file_id)
        return list(connection.scalars(query))

    def _of_dataset(
        self, dataset_id: int, dataset: str, start: tuple[int, ...] | None
    ) -> Iterator[tuple[Key, bytes]]:
        with self._view.reading() as connection:
            names = self._elements(connection, dataset, start[0] if start else 0)
        at: tuple[int, ...] = start or (0, -1, 0)
        limit, moved = _FEWEST, 0
        while names:
            with self._view.reading() as connection:
                places = self._places(connection, dataset_id, names, at, limit)
            if not places:
                return
            complete = len(places) < limit
            # Of the last run that is seen in part, all before its last block is known.
            end = _LAST if complete else places[-1].first_ls
            try:
                for bound, rows in self._swept(dataset_id, names, places, at, end):
                    yield from self._written(dataset_id, dataset, rows)
                    at = max(at, bound)
            except _MovedError:
                moved += 1
                if moved > _MOST_MOVED:
                    raise
                continue
            if complete:
                return
            # Where very many files share lumisections, fewer would not show the next one.
            limit *= 2
            names = {number: name for number, name in names.items() if number >= at[0]}

    def _swept(
        self,
        dataset_id: int,
        names: dict[int, str],
        places: Sequence[_Place],
        at: tuple[int, ...],
        end: int,
    ) -> Iterator[tuple[tuple[int, ...], list[_Row]]]:
        """Rows in order: those of a block wait until none before them can come."""
        waiting: list[_Row] = []
        following = [*places[1:], None]
        opened = self._opened(dataset_id, names, places)
        for one, after in zip(opened, following, strict=True):
            group = (one.place.me_id, one.place.run_number)
            least = at[2] if group == tuple(at[:2]) else 0
            waiting += self._rows_of(dataset_id, one, least)
            if after is None:
                bound = end
            elif (after.me_id, after.run_number) == group:
                bound = after.first_ls - 1
            else:
                bound = _LAST
            ready = sorted(row for row in waiting if row.ls_number <= bound)
            waiting = [row for row in waiting if row.ls_number > bound]
            yield (*group, min(bound, _LAST)), ready

    def _rows_of(self, dataset_id: int, one: _Open, least: int) -> list[_Row]:
        asked = self._asked
        numbers = one.ls_numbers
        chosen = (numbers > least) & (numbers >= asked.first_ls) & (numbers <= asked.last_ls)
        if asked.least_entries is not None:
            chosen &= one.entries >= asked.least_entries
        found = []
        for at in np.flatnonzero(chosen).tolist():
            number = int(numbers[at])
            owner = one.place.file_id
            if owner == _SEVERAL_FILES:
                owner = self._owner(dataset_id, one.place.run_number, number)
            if self._files is None or owner in self._files:
                found.append(_Row(number, at, float(one.entries[at]), owner, one))
        return found

    def _owner(self, dataset_id: int, run_number: int, ls_number: int) -> int:
        key = (dataset_id, run_number)
        if self._owners[0] != key:
            query = sa.select(lumisection.c.ls_number, lumisection.c.file_id).where(
                lumisection.c.dataset_id == dataset_id, lumisection.c.run_number == run_number
            )
            with self._view.reading() as connection:
                rows = connection.execute(query).all()
            self._owners = (key, {row.ls_number: row.file_id for row in rows})
        return self._owners[1].get(ls_number, _SEVERAL_FILES)

    # -- reading ---------------------------------------------------------------------------------

    def _elements(self, connection: sa.Connection, dataset: str, least: int) -> dict[int, str]:
        asked = self._asked
        query: sa.Select[Any] = (
            sa.select(me.c.me_id, me.c.me)
            .where(me.c.dim == asked.n_axes, me.c.me_id >= least, self._view.elements(dataset))
            .order_by(me.c.me_id)
        )
        query = matching(query, me.c.me, asked.me, asked.me_regex)
        if asked.me_id is not None:
            query = query.where(me.c.me_id == asked.me_id)
        return {int(number): str(name) for number, name in connection.execute(query)}

    def _places(
        self,
        connection: sa.Connection,
        dataset_id: int,
        names: dict[int, str],
        at: tuple[int, ...],
        limit: int,
    ) -> list[_Place]:
        asked = self._asked
        listed = sa.func.unnest(sa.literal(list(names), sa.ARRAY(sa.Integer)))
        wanted = listed.table_valued("me_id").render_derived()
        of_element = (
            sa.select(
                *(block.c[n] for n in ("me_id", "run_number", "first_ls", "file_id", "binning_id")),
                sa.func.octet_length(block.c.packed).label("nbytes"),
            )
            # Named in the text, the planner leaves all other partitions alone.
            .where(block.c.dataset_id == sa.literal_column(str(int(dataset_id))))
            .where(block.c.me_id == wanted.c.me_id)
            .where(block.c.run_number.between(max(asked.first_run, 0), asked.last_run))
            .where(block.c.last_ls >= asked.first_ls, block.c.first_ls <= asked.last_ls)
            .where(
                sa.or_(
                    block.c.me_id > at[0],
                    block.c.run_number > at[1],
                    sa.and_(block.c.run_number == at[1], block.c.last_ls > at[2]),
                )
            )
            .order_by(block.c.run_number, block.c.first_ls, block.c.file_id)
            .limit(limit)
        )
        if self._files is not None:
            of_element = of_element.where(block.c.file_id == any_of([*self._files, _SEVERAL_FILES]))
        lateral = of_element.lateral()
        # One element after the other, each by its index, until there are enough: sorting them
        # would read the blocks of all.
        query = sa.select(lateral).select_from(wanted).join(lateral, sa.true()).limit(limit)
        places = [_Place(*row) for row in connection.execute(query)]
        return sorted(places, key=lambda p: (p.me_id, p.run_number, p.first_ls, p.file_id))

    def _opened(
        self, dataset_id: int, names: dict[int, str], places: Sequence[_Place]
    ) -> Iterator[_Open]:
        start, most = 0, _FIRST_BYTES
        while start < len(places):
            end, nbytes = start + 1, places[start].nbytes
            while end < len(places) and nbytes + places[end].nbytes <= most:
                nbytes += places[end].nbytes
                end += 1
            batch = places[start:end]
            with self._view.reading() as connection:
                self._describe(connection, {place.binning_id for place in batch})
                packed = _packed(connection, dataset_id, batch)
            for place in batch:
                key = (place.me_id, place.run_number, place.first_ls, place.file_id)
                if key not in packed:
                    raise _MovedError(f"{names[place.me_id]}, run {place.run_number}: ask again")
                description = self._descriptions[place.binning_id]
                yield _Open(place, names[place.me_id], description, packed.pop(key))
            # Few at first: a page may be full before the others are wanted.
            start, most = end, min(2 * most, _MOST_READ)

    def _describe(self, connection: sa.Connection, numbers: set[int]) -> None:
        new = sorted(numbers - self._descriptions.keys())
        if new:
            query = sa.select(binning_table.c.binning_id, binning_table.c.description)
            rows = connection.execute(query.where(binning_table.c.binning_id == any_of(new)))
            self._descriptions |= {int(number): str(text) for number, text in rows}

    # -- writing ---------------------------------------------------------------------------------

    def _written(
        self, dataset_id: int, dataset: str, rows: Sequence[_Row]
    ) -> Iterator[tuple[Key, bytes]]:
        for row in rows:
            one = row.source
            key = (dataset_id, one.place.me_id, one.place.run_number, row.ls_number)
            described: dict[str, Any] = {
                "dataset_id": dataset_id,
                "dataset": dataset,
                "file_id": row.file_id,
                "run_number": one.place.run_number,
                "ls_number": row.ls_number,
                "me_id": one.place.me_id,
                "me": one.name,
                "entries": round(row.entries) if math.isfinite(row.entries) else 0,
            }
            for letter, axis in zip("xy", one.axes, strict=False):
                described[f"{letter}_min"] = float(axis.edges[0])
                described[f"{letter}_max"] = float(axis.edges[-1])
                described[f"{letter}_bin"] = axis.n_bins
            values = numbers(self._values_of(one)[row.at])
            data = orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY)
            yield key, orjson.dumps(described)[:-1] + b',"data":' + data + b"}"

    def _values_of(self, one: _Open) -> NDArray[Any]:
        if one not in self._values:
            while len(self._values) >= _OPEN:
                self._values.popitem(last=False)
            self._values[one] = one.values()
        self._values.move_to_end(one)
        return self._values[one]


def numbers(values: NDArray[Any]) -> NDArray[Any]:
    """Values as JSON can have them: what is not finite as 0, whole numbers as such.

    >>> numbers(np.array([1.0, np.nan, 2.0])), numbers(np.array([0.5, np.inf]))
    (array([1, 0, 2], dtype=int32), array([0.5, 0. ]))
    """
    if values.dtype.kind != "f":
        return np.ascontiguousarray(values)
    finite = np.isfinite(values)
    plain = values if finite.all() else np.where(finite, values, values.dtype.type(0))
    # Written as whole numbers, counts take half the bytes and the time.
    if (abs(plain) < 2**31).all():
        whole = plain.astype(np.int32)
        if (whole == plain).all():
            return np.ascontiguousarray(whole)
    return np.ascontiguousarray(plain)


def logical_name() -> sa.ColumnElement[str]:
    """CMS's name of a file, from ``/store``, where its path has it; else the path."""
    return sa.func.coalesce(sa.func.substring(file.c.path, "(/store/.*)$"), file.c.path)


def _packed(
    connection: sa.Connection, dataset_id: int, places: Sequence[_Place]
) -> dict[tuple[int, int, int, int], bytes]:
    columns = ("me_id", "run_number", "first_ls", "file_id")
    arrays = [
        sa.literal([getattr(place, name) for place in places], sa.ARRAY(sa.BigInteger))
        for name in columns
    ]
    wanted = sa.func.unnest(*arrays).table_valued(*columns).render_derived()
    query = sa.select(*(block.c[name] for name in columns), block.c.packed).join_from(
        wanted,
        block,
        sa.and_(
            block.c.dataset_id == sa.literal_column(str(int(dataset_id))),
            *(block.c[name] == wanted.c[name] for name in columns),
        ),
    )
    found = blocks.query_bytes(connection, query)
    return {tuple(key): packed for *key, packed in found}
