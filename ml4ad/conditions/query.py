"""QUERY conditions: by run and lumisection number, never by position."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import sqlalchemy as sa

from ml4ad.conditions import names
from ml4ad.store import context, schema

#: One run, several, or all.
Runs = int | Iterable[int] | None

_RUN, _LS = context.run_condition, context.ls_condition
_PANDAS = {
    "integer": "Int64",
    "number": "float64",
    "flag": "boolean",
    "text": "object",
    "time": "datetime64[us, UTC]",
}


def runs(engine: sa.Engine, dataset: str | None = None, run_number: Runs = None) -> pd.DataFrame:
    """Run conditions, indexed by run_number; of a dataset: of each run that it has in the archive.

    What is not known is NA. Extras are columns after the known ones.
    Raises KeyError for a dataset that the archive does not have.
    """
    with engine.connect() as connection:
        if dataset is None:
            query = sa.select(_RUN).where(among(_RUN.c.run_number, run_number))
        else:
            held = held_runs(connection, dataset, run_number)
            query = sa.select(*_columns_of(_RUN, held)).join_from(
                held, _RUN, held.c.run_number == _RUN.c.run_number, isouter=True
            )
        rows = connection.execute(query).mappings().all()
    return _frame(rows, ["run_number"], names.RUN_COLUMNS)


def lumisections(
    engine: sa.Engine, dataset: str | None = None, run_number: Runs = None
) -> pd.DataFrame:
    """Lumisection conditions, indexed by (run_number, ls_number).

    Of a dataset: of each lumisection that it has in the archive, with NA for what is not known.
    Extras are columns after the known ones. Raises KeyError for a dataset that is not there.
    """
    with engine.connect() as connection:
        if dataset is None:
            query = sa.select(_LS).where(among(_LS.c.run_number, run_number))
        else:
            held = held_lumisections(connection, dataset, run_number)
            query = sa.select(*_columns_of(_LS, held)).join_from(
                held, _LS, same_ls(held, _LS), isouter=True
            )
        rows = connection.execute(query).mappings().all()
    return _frame(rows, ["run_number", "ls_number"], names.LS_COLUMNS)


def rates(engine: sa.Engine, path: str | None = None, run_number: Runs = None) -> pd.DataFrame:
    """Trigger rates in Hz, indexed by (run_number, ls_number), one column per path.

    ``path`` may leave out the version: HLT_ZeroBias is also HLT_ZeroBias_v8.
    """
    table = context.trigger_rate
    query = sa.select(table).where(among(table.c.run_number, run_number))
    if path is not None:
        query = query.where(is_path(table.c.path, path))
    with engine.connect() as connection:
        rows = connection.execute(query).all()
    frame = pd.DataFrame(rows, columns=[column.name for column in table.columns])
    return frame.pivot_table(index=["run_number", "ls_number"], columns="path", values="rate")


def is_path(column: sa.Column[str], path: str) -> sa.ColumnElement[bool]:
    """Whether a column holds this trigger path, in any version if ``path`` names none."""
    return sa.or_(column == path, sa.func.regexp_replace(column, "_v[0-9]+$", "") == path)


def among(column: sa.ColumnElement[int], wanted: Runs) -> sa.ColumnElement[bool]:
    """Whether a column of run numbers holds one that is wanted."""
    if wanted is None:
        return sa.true()
    return column.in_(sorted(run_set(wanted)))


def run_set(wanted: int | Iterable[int]) -> set[int]:
    """The run, or the runs."""
    listed = [wanted] if isinstance(wanted, int | np.integer) else wanted
    return {int(run_number) for run_number in listed}


def _dataset_id(connection: sa.Connection, dataset: str) -> int:
    table = schema.dataset
    query = sa.select(table.c.dataset_id).where(table.c.dataset == dataset)
    found = connection.execute(query).scalar_one_or_none()
    if found is None:
        there = connection.execute(sa.select(table.c.dataset)).scalars().all()
        near = difflib.get_close_matches(dataset, there, n=3) or sorted(there)[:10]
        raise KeyError(f"no dataset {dataset!r}; there are {', '.join(near) or 'none'}")
    return found


def held_runs(connection: sa.Connection, dataset: str, run_number: Runs) -> sa.Subquery:
    """Runs that a dataset has in the archive; raises KeyError for an unknown dataset."""
    table = schema.run
    return (
        sa.select(table.c.run_number)
        .where(table.c.dataset_id == _dataset_id(connection, dataset))
        .where(among(table.c.run_number, run_number))
        .distinct()
        .subquery("held")
    )


def held_lumisections(connection: sa.Connection, dataset: str, run_number: Runs) -> sa.Subquery:
    """Lumisections that a dataset has in the archive; raises KeyError for an unknown dataset."""
    table = schema.lumisection
    return (
        sa.select(table.c.run_number, table.c.ls_number)
        .where(table.c.dataset_id == _dataset_id(connection, dataset))
        # 0 is the whole run.
        .where(table.c.ls_number > 0)
        .where(among(table.c.run_number, run_number))
        .subquery("held")
    )


def same_ls(left: sa.FromClause, right: sa.FromClause) -> sa.ColumnElement[bool]:
    """Whether rows of both are of the same lumisection."""
    return sa.and_(left.c.run_number == right.c.run_number, left.c.ls_number == right.c.ls_number)


def _columns_of(table: sa.Table, held: sa.Subquery) -> list[sa.ColumnElement[Any]]:
    return [held.c.get(column.name, column) for column in table.columns]


def _frame(
    rows: Iterable[Mapping[Any, Any]], keys: list[str], columns: Mapping[str, str]
) -> pd.DataFrame:
    listed = [dict(row) for row in rows]
    typed: dict[str, Any] = {key: [row[key] for row in listed] for key in keys}
    for name, kind in columns.items():
        typed[name] = pd.Series([row[name] for row in listed], dtype=_PANDAS[kind])
    extras = [row["extra"] or {} for row in listed]
    for name in sorted({name for extra in extras for name in extra} - set(typed)):
        typed[name] = pd.Series([extra.get(name) for extra in extras], dtype=object)
    frame = pd.DataFrame(typed)
    return frame.astype(dict.fromkeys(keys, "int64")).set_index(keys).sort_index()
