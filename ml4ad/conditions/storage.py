"""STORE conditions: each table merged by its key, one source in one transaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, insert

from ml4ad.conditions import names
from ml4ad.conditions.record import Certification, Conditions
from ml4ad.store import context

# Rows that go to the server at a time.
_CHUNK = 10_000


@dataclass(frozen=True)
class Loaded:
    """What came of a source; ``live`` is False, and ``note`` says why, if only what was stored."""

    source: str
    n_runs: int = 0
    n_lumisections: int = 0
    n_rates: int = 0
    n_flags: int = 0
    n_references: int = 0
    certifications: tuple[str, ...] = ()
    live: bool = True
    note: str = ""


def store(engine: sa.Engine, conditions: Conditions) -> Loaded:
    """Merge conditions into the database, all or nothing.

    A value that is given replaces the one stored for its run or lumisection; one that is missing
    leaves it. A certification of the same kind and name is replaced, as are Run Registry's flags
    and states of a run in a dataset. Loading again changes nothing.
    """
    found = conditions
    with engine.begin() as connection:
        source_id = _source_id(connection, found.source)
        for table, frame, columns in (
            (context.run_condition, found.runs, names.RUN_COLUMNS),
            (context.ls_condition, found.lumisections, names.LS_COLUMNS),
        ):
            _merge(connection, table, _with_extra(frame, columns, source_id))
        _merge(connection, context.trigger_rate, _plain_columns(found.rates))
        _merge(connection, context.reference_run, _plain_columns(found.references))
        for certified in sorted(found.certifications, key=lambda one: (one.kind, one.name)):
            _replace_certification(connection, certified, found.source)
        _replace_registry(connection, found, source_id)
    return Loaded(
        source=found.source,
        n_runs=len(found.runs),
        n_lumisections=len(found.lumisections),
        n_rates=len(found.rates),
        n_flags=len(found.flags),
        n_references=len(found.references),
        certifications=tuple(f"{one.kind} {one.name}" for one in found.certifications),
    )


def _source_id(connection: sa.Connection, source: str) -> int:
    row = insert(context.condition_source).values(source=source, loaded_at=sa.func.now())
    kept = row.on_conflict_do_update(
        index_elements=["source"], set_={"loaded_at": row.excluded.loaded_at}
    )
    return connection.execute(kept.returning(context.condition_source.c.source_id)).scalar_one()


def _with_extra(
    frame: pd.DataFrame, columns: Mapping[str, str], source_id: int
) -> dict[str, list[Any]]:
    named = frame.reset_index()
    keys = set(frame.index.names)
    known = [name for name in named.columns if name in columns or name in keys]
    others = {
        _text(str(name)): [_jsonable(value) for value in named[name]]
        for name in named.columns
        if name not in known
    }
    extra = [
        {name: value for name, value in zip(others, row, strict=True) if value is not None}
        for row in zip(*others.values(), strict=True)
    ]
    return {
        **_plain_columns(named[known]),
        "extra": extra or [{}] * len(named),
        "source_id": [source_id] * len(named),
    }


def _jsonable(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        return {_text(str(key)): _jsonable(own) for key, own in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(own) for own in value]
    if pd.isna(value) or value in (float("inf"), float("-inf")):
        return None
    if isinstance(value, pd.Timestamp):
        return value.isoformat()
    return _text(value) if isinstance(value, str) else value


def _text(value: str) -> str:
    # PostgreSQL's text holds everything but NUL and halves of characters.
    return value.replace("\0", "").encode("utf-8", "replace").decode()


def _plain_columns(frame: pd.DataFrame) -> dict[str, list[Any]]:
    return {str(name): _plain(frame[name]) for name in frame.columns}


def _plain(column: pd.Series[Any]) -> list[Any]:
    missing = column.isna().to_numpy()
    values = column.dt.to_pydatetime() if column.dtype.kind == "M" else column.astype(object)
    return [None if gone else value for value, gone in zip(values, missing, strict=True)]


def _merge(connection: sa.Connection, table: sa.Table, columns: Mapping[str, list[Any]]) -> None:
    n_rows = len(next(iter(columns.values()), []))
    for start in range(0, n_rows, _CHUNK):
        part = {name: own[start : start + _CHUNK] for name, own in columns.items()}
        row = insert(table).from_select(list(part), _rows(table, part))
        keys = [column.name for column in table.primary_key]
        connection.execute(
            row.on_conflict_do_update(
                index_elements=keys,
                set_={
                    name: _merged(table.c[name], row.excluded[name])
                    for name in part
                    if name not in keys
                },
            )
        )


def _rows(table: sa.Table, columns: Mapping[str, list[Any]]) -> sa.Select[Any]:
    # Whole columns as arrays: one statement of a fixed size, whatever the number of rows.
    return sa.select(
        *(
            sa.func.unnest(
                sa.cast(
                    sa.bindparam(f"of_{name}", own, type_=ARRAY(table.c[name].type)),
                    ARRAY(table.c[name].type),
                )
            )
            for name, own in columns.items()
        )
    )


def _merged(stored: sa.Column[Any], given: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    if stored.name == "extra":
        return stored.concat(given)
    return sa.func.coalesce(given, stored)


def _replace_certification(
    connection: sa.Connection, certified: Certification, source: str
) -> None:
    table, spans = context.certification, context.certification_range
    row = insert(table).values(
        kind=certified.kind, name=certified.name, source=source, loaded_at=sa.func.now()
    )
    kept = row.on_conflict_do_update(
        index_elements=["kind", "name"],
        set_={"source": row.excluded.source, "loaded_at": row.excluded.loaded_at},
    ).returning(table.c.certification_id)
    certification_id = connection.execute(kept).scalar_one()
    connection.execute(sa.delete(spans).where(spans.c.certification_id == certification_id))
    triples = [(run, *pair) for run, pairs in certified.ranges.items() for pair in pairs]
    _merge(
        connection,
        spans,
        {
            "certification_id": [certification_id] * len(triples),
            "run_number": [run for run, _, _ in triples],
            "first_ls": [first for _, first, _ in triples],
            "last_ls": [last for _, _, last in triples],
        },
    )


def _replace_registry(connection: sa.Connection, found: Conditions, source_id: int) -> None:
    flags, states = context.registry_flag, context.registry_state
    for table, frame in ((flags, found.flags), (states, found.states)):
        if frame.empty:
            continue
        for run_number, dataset in _pairs(found):
            connection.execute(
                sa.delete(table).where(table.c.run_number == run_number, table.c.dataset == dataset)
            )
    _merge(connection, flags, _plain_columns(found.flags))
    if not found.states.empty:
        _merge(
            connection,
            states,
            {**_plain_columns(found.states), "source_id": [source_id] * len(found.states)},
        )


def _pairs(found: Conditions) -> list[tuple[int, str]]:
    both: set[tuple[int, str]] = set()
    for frame in (found.flags, found.states):
        both |= {(int(run), str(name)) for run, name in _zipped(frame, "run_number", "dataset")}
    return sorted(both)


def _zipped(frame: pd.DataFrame, *columns: str) -> Iterable[Sequence[Any]]:
    return zip(*(frame[column] for column in columns), strict=True)


def stored_runs(engine: sa.Engine, run_numbers: Iterable[int], *, registry: bool) -> pd.DataFrame:
    """Which of the runs have stored conditions, or Run Registry's word, and since when.

    Columns run_number, n_lumisections (0 for Run Registry) and loaded_at, of the oldest row.
    """
    wanted = sorted({int(run_number) for run_number in run_numbers})
    tables = [context.registry_state] if registry else [context.run_condition, context.ls_condition]
    parts = [
        sa.select(
            table.c.run_number,
            sa.literal(int(table is context.ls_condition)).label("n"),
            table.c.source_id,
        ).where(table.c.run_number.in_(wanted))
        for table in tables
    ]
    held, source = sa.union_all(*parts).subquery(), context.condition_source
    query = (
        sa.select(
            held.c.run_number,
            sa.func.sum(held.c.n).label("n_lumisections"),
            sa.func.min(source.c.loaded_at).label("loaded_at"),
        )
        .join(source, held.c.source_id == source.c.source_id)
        .group_by(held.c.run_number)
        .order_by(held.c.run_number)
    )
    with engine.connect() as connection:
        rows = connection.execute(query).all()
    return pd.DataFrame(rows, columns=["run_number", "n_lumisections", "loaded_at"])
