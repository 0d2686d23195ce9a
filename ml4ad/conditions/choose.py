"""CHOOSE lumisections: those that are certified and whose conditions fulfil a cut."""

from __future__ import annotations

import numpy as np
import pandas as pd
import sqlalchemy as sa

from ml4ad.conditions import names, query, ranges
from ml4ad.conditions.certified import Certifications, all_of
from ml4ad.conditions.ranges import Ranges
from ml4ad.conditions.where import Scope, Value, compiled
from ml4ad.store import context

_RUN, _LS = context.run_condition, context.ls_condition


def good(
    engine: sa.Engine,
    dataset: str | None = None,
    *,
    run_number: query.Runs = None,
    golden: Certifications = None,
    dcs: Certifications = None,
    exclude: Certifications = None,
    where: str | None = None,
) -> pd.DataFrame:
    """Lumisections that fulfil everything asked: columns run_number and ls_number, sorted.

    They are those of a dataset in the archive, or without one all that conditions are known of.
    ``golden`` and ``dcs`` must list them, ``exclude`` must not; ``where`` is an expression of
    ``where.compiled`` on lumisection conditions, run conditions (``run.energy``, or plain where no
    lumisection condition has that name), extras, ``rate("HLT_ZeroBias")`` and
    ``flag("tracker-pixel")``. What is missing does not pass.
    ``.attrs`` counts: ``n_asked``, and of these ``n_without_conditions``.
    Raises KeyError for a dataset or list that is not there, ValueError as ``where.compiled``.
    """
    frame = _judged(engine, dataset, run_number, where)
    keys = frame["run_number"].to_numpy(), frame["ls_number"].to_numpy()
    kept = np.array(frame["passed"], dtype=np.bool_)
    required = all_of(engine, golden, "golden" if golden is True else None) + all_of(
        engine, dcs, "dcs" if dcs is True else None
    )
    for listed in required:
        kept &= ranges.mask(listed, *keys)
    for listed in all_of(engine, exclude, "bad" if exclude is True else None):
        kept &= ~ranges.mask(listed, *keys)
    found = frame.loc[kept, ["run_number", "ls_number"]].reset_index(drop=True)
    found.attrs = {
        "n_asked": len(frame),
        "n_without_conditions": int((~frame["known"].to_numpy(dtype=bool)).sum()),
    }
    return found


def as_ranges(found: pd.DataFrame) -> Ranges:
    """Ranges of a table with run_number and ls_number, as for certification JSON."""
    return ranges.of_lumisections(found["run_number"], found["ls_number"])


def _judged(
    engine: sa.Engine, dataset: str | None, run_number: query.Runs, where: str | None
) -> pd.DataFrame:
    with engine.connect() as connection:
        if dataset is None:
            held = (
                sa.select(_LS.c.run_number, _LS.c.ls_number)
                .where(query.among(_LS.c.run_number, run_number))
                .subquery("held")
            )
        else:
            held = query.held_lumisections(connection, dataset, run_number)
        passed: sa.ColumnElement[bool] = sa.true()
        if where is not None:
            passed = sa.func.coalesce(compiled(where, _scope(connection, held)), sa.false())
        chosen = (
            sa.select(
                held.c.run_number,
                held.c.ls_number,
                passed.label("passed"),
                _LS.c.run_number.is_not(None).label("known"),
            )
            .join_from(held, _LS, query.same_ls(held, _LS), isouter=True)
            .join(_RUN, held.c.run_number == _RUN.c.run_number, isouter=True)
            .order_by(held.c.run_number, held.c.ls_number)
        )
        try:
            rows = connection.execute(chosen).all()
        except sa.exc.DataError as error:
            raise ValueError(f"where {where!r}: {error.orig}") from error
    columns = ["run_number", "ls_number", "passed", "known"]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.astype(dict.fromkeys(columns[:2], "int64")).astype(
        dict.fromkeys(columns[2:], "bool")
    )


def _scope(connection: sa.Connection, held: sa.Subquery) -> Scope:
    columns = {
        "run_number": Value(held.c.run_number, "number"),
        "ls_number": Value(held.c.ls_number, "number"),
    }
    for name, kind in names.LS_COLUMNS.items():
        columns[name] = Value(_LS.c[name], "number" if kind == "integer" else kind)
    for name, kind in names.RUN_COLUMNS.items():
        value = Value(_RUN.c[name], "number" if kind == "integer" else kind)
        columns.setdefault(name, value)
        columns[f"run.{name}"] = value
    for table, prefix in ((_LS, ""), (_RUN, "run.")):
        for name, value in _extras(connection, table, held).items():
            columns.setdefault(f"{prefix}{name}", value)
            columns.setdefault(name, value)
    return Scope(
        columns,
        {
            "rate": lambda path: _rate(held, path),
            "flag": lambda component, dataset="": _flag(held, component, dataset),
        },
    )


def _extras(connection: sa.Connection, table: sa.Table, held: sa.Subquery) -> dict[str, Value]:
    each = sa.func.jsonb_each(table.c.extra).table_valued("key", "value").lateral("each")
    kind = sa.func.jsonb_typeof(sa.cast(each.c.value, table.c.extra.type))
    asked = sa.select(held.c.run_number)
    kinds_of = (
        sa.select(each.c.key, sa.func.array_agg(sa.distinct(kind)))
        .select_from(table)
        .join(each, sa.true())
        .where(table.c.run_number.in_(asked))
        .group_by(each.c.key)
    )
    found: dict[str, Value] = {}
    for key, kinds in connection.execute(kinds_of):
        text = table.c.extra[key].astext
        # Values of several types can only be compared as the texts they are.
        if kinds == ["number"]:
            found[key] = Value(sa.cast(text, sa.Double), "number")
        elif kinds == ["boolean"]:
            found[key] = Value(sa.cast(text, sa.Boolean), "flag")
        else:
            found[key] = Value(text, "text")
    return found


def _rate(held: sa.Subquery, path: str) -> Value:
    table = context.trigger_rate
    summed = (
        sa.select(sa.func.sum(table.c.rate))
        .where(query.same_ls(table, held))
        .where(query.is_path(table.c.path, path))
        .correlate(held)
        .scalar_subquery()
    )
    return Value(summed, "number")


def _flag(held: sa.Subquery, component: str, dataset: str) -> Value:
    table = context.registry_flag
    # Where Run Registry's datasets disagree, and none is named, the flag is not known.
    agreed = sa.case(
        (sa.func.count(sa.distinct(table.c.flag)) == 1, sa.func.min(table.c.flag)), else_=None
    )
    said = (
        sa.select(agreed)
        .where(table.c.run_number == held.c.run_number)
        .where(held.c.ls_number.between(table.c.first_ls, table.c.last_ls))
        .where(table.c.component == component)
    )
    if dataset:
        said = said.where(table.c.dataset == dataset)
    return Value(said.correlate(held).scalar_subquery(), "text")
