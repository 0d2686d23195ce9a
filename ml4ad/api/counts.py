"""How many histograms there are: counted when asked for, and remembered for a short while."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import numpy as np
import sqlalchemy as sa

from ml4ad.api.view import View, any_of
from ml4ad.store import blocks, packing
from ml4ad.store.schema import block, lumisection, me

#: Seconds for which a count is believed, and how many are kept.
_BELIEVED_S, _KEPT = 30.0, 4096

Counts = dict[int, tuple[int, int]]
Result = TypeVar("Result")

_LOCK = threading.Lock()
_REMEMBERED: dict[Hashable, tuple[float, Any]] = {}


def _remembered(key: Hashable, make: Callable[[], Result]) -> Result:
    now = time.monotonic()
    with _LOCK:
        found = _REMEMBERED.get(key)
    if found is not None and now - found[0] < _BELIEVED_S:
        return found[1]
    made = make()
    with _LOCK:
        while len(_REMEMBERED) >= _KEPT:
            _REMEMBERED.pop(next(iter(_REMEMBERED)))
        _REMEMBERED[key] = (now, made)
    return made


def histogram_counts(
    connection: sa.Connection, view: View, dataset_id: int, dataset: str, run_number: int
) -> Counts:
    """Histograms with one and two axes of each lumisection of a run, as seen in a view."""
    name = view.workspace.name if view.workspace else ""
    # A workspace that is edited is another one.
    key = (view.engine.url, view.workspace, name, dataset_id, run_number)
    return _remembered(key, lambda: _counted(connection, view, dataset_id, dataset, run_number))


def _counted(
    connection: sa.Connection, view: View, dataset_id: int, dataset: str, run_number: int
) -> Counts:
    owned = connection.execute(
        sa.select(lumisection.c.ls_number, lumisection.c.file_id)
        .where(lumisection.c.dataset_id == dataset_id, lumisection.c.run_number == run_number)
        .where(lumisection.c.ls_number > 0)
        .order_by(lumisection.c.ls_number)
    ).all()
    numbers = np.array([row.ls_number for row in owned], dtype=np.int64)
    files = np.array([row.file_id for row in owned], dtype=np.int64)
    totals = np.zeros((2, len(numbers)), dtype=np.int64)
    own = (
        sa.select(me.c.me_id, me.c.dim)
        .where(me.c.dim.in_([1, 2]), view.elements(dataset))
        .subquery()
    )
    shape = (block.c.first_ls, block.c.last_ls, block.c.file_id, block.c.n_ls)
    this = sa.and_(
        block.c.dataset_id == sa.literal_column(str(int(dataset_id))),
        block.c.me_id == own.c.me_id,
        block.c.run_number == run_number,
        block.c.first_ls > 0,
    )
    grouped = (
        sa.select(own.c.dim, *shape, sa.func.count().label("n"))
        .join_from(own, block, this)
        .group_by(own.c.dim, *shape)
    )
    for row in connection.execute(grouped).all():
        inside = (numbers >= row.first_ls) & (numbers <= row.last_ls)
        of_file = inside & (files == row.file_id)
        for whole in (inside, of_file):
            # As many as there can be: which they are needs no look into the block.
            if np.count_nonzero(whole) == row.n_ls:
                totals[row.dim - 1, whole] += row.n
                break
        else:
            same = [column == getattr(row, column.name) for column in shape]
            inner = sa.select(block.c.packed).join_from(own, block, this)
            query = inner.where(own.c.dim == row.dim, *same)
            for (packed,) in blocks.query_bytes(connection, query):
                held = packing.unpack(packed).small()["ls_numbers"]
                totals[row.dim - 1, np.isin(numbers, held)] += 1
    pairs = zip(*totals.tolist(), strict=True)
    return dict(zip(numbers.tolist(), pairs, strict=True))


def of_elements(
    connection: sa.Connection, datasets: dict[int, str], me_ids: Sequence[int]
) -> dict[int, int]:
    """Histograms of elements in some datasets."""
    key = (str(connection.engine.url), tuple(datasets), tuple(me_ids))
    return _remembered(key, lambda: _of_elements(connection, list(datasets), list(me_ids)))


def _of_elements(
    connection: sa.Connection, datasets: Sequence[int], me_ids: Sequence[int]
) -> dict[int, int]:
    query = (
        sa.select(block.c.me_id, sa.func.sum(block.c.n_ls))
        .where(block.c.dataset_id.in_([sa.literal_column(str(int(one))) for one in datasets]))
        .where(block.c.me_id == any_of(me_ids), block.c.first_ls > 0)
        .group_by(block.c.me_id)
    )
    return {int(number): int(total) for number, total in connection.execute(query)}
