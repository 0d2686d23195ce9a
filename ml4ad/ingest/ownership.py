"""Which file a lumisection belongs to: the first that brought it, or a newer that replaces it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from ml4ad.ingest import cut
from ml4ad.ingest.repack import SEVERAL_FILES
from ml4ad.stack import Ints
from ml4ad.store.schema import block, file, lumisection, scalar

# Files named in the reason of a refusal, before the rest is only counted.
_NAMED = 5


@dataclass(frozen=True)
class Owned:
    """Lumisections of a file that are its own, by run; of the others the reason tells the holder.

    ``ls_numbers[run]`` holds 0, the whole run, unless all lumisections of the run are another's:
    then the file is a second copy of it, and its per-run elements would be counted twice.
    """

    ls_numbers: Mapping[int, Ints]
    n_ls: int
    n_refused: int
    reason: str

    def of(self, run_number: int) -> Ints:
        """Lumisections of a run that are the file's, sorted."""
        return self.ls_numbers.get(run_number, np.empty(0, dtype=np.int64))


def claim(
    connection: sa.Connection, row: Any, lumisections: pd.DataFrame, *, replace: bool
) -> Owned:
    """Make the file of ``row`` the owner of its lumisections that no other file holds.

    ``lumisections`` has run_number, ls_number, begin_time, end_time, n_mes; lumisection 0 is the
    whole run. With ``replace`` those that an older file holds are taken from it. In sorted order,
    so that two files that claim the same ones wait for each other and never in a circle.
    """
    real = lumisections[lumisections.ls_number > 0].sort_values(["run_number", "ls_number"])
    mine = _insert(connection, row, real)
    every = _keys(real)
    held = [key for key in every if key not in mine]
    reason = ""
    if held:
        holders = _holders(connection, row.dataset_id, held)
        if replace:
            older = holders[(holders.mtime < row.mtime) | _same_age_but_first(holders, row)]
            _take_over(connection, row, older)
            mine.update(_keys(older))
            holders = holders.drop(older.index)
        reason = _told(row.path, holders, ", which is newer" if replace else "")
    return Owned(_by_run(lumisections, mine), len(mine), len(every) - len(mine), reason)


def held(connection: sa.Connection, row: Any, lumisections: pd.DataFrame) -> Owned:
    """What the file of ``row`` owns already, of ``lumisections`` as `claim` has them."""
    query = sa.select(lumisection.c.run_number, lumisection.c.ls_number).where(
        lumisection.c.dataset_id == row.dataset_id, lumisection.c.file_id == row.file_id
    )
    mine = {(found.run_number, found.ls_number) for found in connection.execute(query)}
    return Owned(_by_run(lumisections, mine), len(mine), row.n_refused or 0, row.reason)


def _keys(frame: pd.DataFrame) -> list[tuple[int, int]]:
    return list(zip(frame.run_number.tolist(), frame.ls_number.tolist(), strict=True))


def _by_run(lumisections: pd.DataFrame, mine: set[tuple[int, int]]) -> dict[int, Ints]:
    by_run: dict[int, list[int]] = {}
    for run_number, ls_number in _keys(lumisections):
        by_run.setdefault(run_number, []).append(ls_number)
    return {number: _owned_of_run(listed, number, mine) for number, listed in by_run.items()}


def _owned_of_run(numbers: list[int], run_number: int, mine: set[tuple[int, int]]) -> Ints:
    kept = [n for n in numbers if (run_number, n) in mine]
    if kept or not any(numbers):
        kept.append(0)
    return np.unique(np.array(kept, dtype=np.int64))


def _same_age_but_first(holders: pd.DataFrame, row: Any) -> pd.Series[bool]:
    return (holders.mtime == row.mtime) & (holders.file_id < row.file_id)


def _insert(connection: sa.Connection, row: Any, real: pd.DataFrame) -> set[tuple[int, int]]:
    if not len(real):
        return set()
    columns = ("run_number", "ls_number", "begin_time", "end_time", "n_mes")
    arrays = [
        sa.bindparam(name, _plain(real[name]), type_=sa.ARRAY(lumisection.c[name].type))
        for name in columns
    ]
    listed = sa.func.unnest(*arrays).table_valued(*columns, with_ordinality="position")
    listed = listed.render_derived()
    source = sa.select(
        sa.literal(row.dataset_id), sa.literal(row.file_id), *(listed.c[name] for name in columns)
    ).order_by(listed.c.position)
    insertion = (
        insert(lumisection)
        .from_select(["dataset_id", "file_id", *columns], source)
        .on_conflict_do_nothing()
        .returning(lumisection.c.run_number, lumisection.c.ls_number)
    )
    return {(row.run_number, row.ls_number) for row in connection.execute(insertion)}


def _plain(column: pd.Series[Any]) -> list[Any]:
    return [None if pd.isna(value) else value for value in column.tolist()]


def _holders(
    connection: sa.Connection, dataset_id: int, held: Iterable[tuple[int, int]]
) -> pd.DataFrame:
    """Who has these lumisections: run_number, ls_number, file_id, path, mtime."""
    wanted = pd.DataFrame(held, columns=["run_number", "ls_number"])
    frames = []
    for run_number, numbers in wanted.groupby("run_number").ls_number:
        these = sa.bindparam("these", numbers.tolist(), type_=sa.ARRAY(sa.BigInteger))
        query = (
            sa.select(lumisection.c.ls_number, file.c.file_id, file.c.path, file.c.mtime)
            .join_from(lumisection, file, lumisection.c.file_id == file.c.file_id)
            .where(lumisection.c.dataset_id == dataset_id)
            .where(lumisection.c.run_number == run_number)
            .where(lumisection.c.ls_number == sa.any_(these))
        )
        rows = [row._asdict() for row in connection.execute(query)]
        frames.append(pd.DataFrame(rows).assign(run_number=run_number))
    return pd.concat(frames, ignore_index=True)


def _told(path: str, holders: pd.DataFrame, why: str) -> str:
    """For a person: which lumisections another file holds, as ranges, and which file, and why."""
    parts = []
    for holder, rows in holders.groupby("path", sort=True):
        runs = [
            f"run {run_number}: {_ranges(numbers.to_numpy())}"
            for run_number, numbers in rows.groupby("run_number").ls_number
        ]
        parts.append(f"{len(rows)} lumisections are held by {holder}{why} ({'; '.join(runs)})")
    if len(parts) > _NAMED:
        parts = [*parts[:_NAMED], f"and more by {len(parts) - _NAMED} other files"]
    return f"{path}: {', '.join(parts)}" if parts else ""


def _ranges(numbers: Ints) -> str:
    ordered = np.sort(numbers)
    groups = np.split(ordered, np.flatnonzero(np.diff(ordered) > 1) + 1)
    return ", ".join(f"{g[0]}-{g[-1]}" if len(g) > 1 else f"{g[0]}" for g in groups)


# -- replacing -----------------------------------------------------------------------------------


def _take_over(connection: sa.Connection, row: Any, older: pd.DataFrame) -> None:
    by_part: dict[tuple[int, int], list[int]] = {}
    for file_id, (run_number, ls_number) in zip(older.file_id.tolist(), _keys(older), strict=True):
        by_part.setdefault((file_id, run_number), []).append(ls_number)
    lost: dict[int, tuple[int, int]] = {}
    for (file_id, run_number), numbers in by_part.items():
        these = sa.bindparam("these", numbers, type_=sa.ARRAY(sa.BigInteger))
        n_cut = sum(
            cut.cut(connection, row.dataset_id, holder, run_number, numbers)
            for holder in (file_id, SEVERAL_FILES)
        )
        n_ls, n_histograms = lost.get(file_id, (0, 0))
        lost[file_id] = n_ls + len(numbers), n_histograms + n_cut
        connection.execute(
            sa.delete(scalar)
            .where(scalar.c.dataset_id == row.dataset_id, scalar.c.file_id == file_id)
            .where(scalar.c.run_number == run_number, scalar.c.ls_number == sa.any_(these))
        )
        connection.execute(
            sa.update(lumisection)
            .where(lumisection.c.dataset_id == row.dataset_id)
            .where(lumisection.c.run_number == run_number)
            .where(lumisection.c.ls_number == sa.any_(these))
            .values(file_id=row.file_id)
        )
    for file_id in sorted(lost):
        _recount(connection, row, file_id, *lost[file_id])


def _recount(connection: sa.Connection, row: Any, file_id: int, n_lost: int, n_cut: int) -> None:
    """Count again what a file holds, and tell who has the rest."""
    held = sa.select(sa.func.count()).where(lumisection.c.file_id == file_id).scalar_subquery()
    ours = (block.c.dataset_id == row.dataset_id) & (block.c.file_id == file_id)
    counts = connection.execute(
        sa.select(
            sa.func.count().label("n_blocks"),
            sa.func.coalesce(sa.func.sum(sa.func.length(block.c.packed)), 0).label("packed_bytes"),
        ).where(ours)
    ).one()
    connection.execute(
        sa.update(file)
        .where(file.c.file_id == file_id)
        .values(
            **counts._asdict(),
            n_ls=held,
            # Of blocks that it shares with others nothing tells how many are its own.
            n_histograms=file.c.n_histograms - n_cut,
            n_refused=file.c.n_refused + n_lost,
            reason=sa.func.left(f"{n_lost} lumisections were replaced by {row.path}", 5000),
        )
    )
