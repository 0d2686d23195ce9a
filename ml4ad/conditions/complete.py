"""How complete runs are: lumisections that the archive has, against those there should be."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd
import sqlalchemy as sa

from ml4ad.conditions import query, ranges
from ml4ad.conditions.certified import Certifications, all_of
from ml4ad.conditions.ranges import Ranges
from ml4ad.store import context

_RUN, _LS = context.run_condition, context.ls_condition


def completeness(
    engine: sa.Engine,
    dataset: str,
    run_number: query.Runs = None,
    *,
    expected: Certifications = None,
) -> pd.DataFrame:
    """How much of each run the archive has of a dataset, indexed by run_number.

    ``n_seen`` lumisections of ``n_expected`` are there, ``fraction`` of them; ``missing`` are the
    others, as pairs; ``n_unexpected`` are there beyond. Expected are those of the ``expected``
    lists (a golden or DCS JSON), else 1 to the last one that the conditions know, else 1 to the
    last one seen; ``expected_from`` says which. Runs that ``expected`` lists and the archive lacks
    have a row of their own; so have no others.
    Raises KeyError for a dataset or list that is not there.
    """
    listed = all_of(engine, expected, None)
    with engine.connect() as connection:
        held = query.held_lumisections(connection, dataset, run_number)
        seen = _as_sets(connection.execute(sa.select(held.c.run_number, held.c.ls_number)))
        of_runs = query.held_runs(connection, dataset, run_number)
        held_runs = set(connection.execute(sa.select(of_runs)).scalars())
        last = _last_known(connection, sa.select(of_runs.c.run_number))
    wanted_runs = held_runs | set(seen)
    if listed:
        demanded = ranges.intersection(*listed)
        asked = None if run_number is None else query.run_set(run_number)
        wanted_runs |= {run for run in demanded if asked is None or run in asked}
    rows = []
    for run in sorted(wanted_runs):
        if listed:
            want, source = demanded.get(run, []), "list"
        elif run in last:
            want, source = [(1, last[run])] if last[run] else [], "conditions"
        else:
            here = seen.get(run, [])
            want, source = [(1, here[-1][1])] if here else [], "highest seen"
        rows.append(
            {"run_number": run, **_compared(seen.get(run, []), want), "expected_from": source}
        )
    columns = ["run_number", "n_seen", "n_expected", "n_unexpected", "fraction", "missing"]
    frame = pd.DataFrame(rows, columns=[*columns, "expected_from"])
    return frame.astype({"run_number": "int64"}).set_index("run_number")


def _as_sets(rows: Iterable[Any]) -> Ranges:
    keys = [tuple(row) for row in rows]
    return ranges.of_lumisections([run for run, _ in keys], [ls for _, ls in keys])


def _last_known(connection: sa.Connection, held: sa.Select[Any]) -> dict[int, int]:
    told = sa.select(_RUN.c.run_number, _RUN.c.last_ls_number.label("last")).where(
        _RUN.c.run_number.in_(held), _RUN.c.last_ls_number.is_not(None)
    )
    listed = (
        sa.select(_LS.c.run_number, sa.func.max(_LS.c.ls_number).label("last"))
        .where(_LS.c.run_number.in_(held))
        .group_by(_LS.c.run_number)
    )
    both = sa.union_all(told, listed).subquery()
    latest = sa.select(both.c.run_number, sa.func.max(both.c.last)).group_by(both.c.run_number)
    return {int(run): int(last) for run, last in connection.execute(latest)}


def _compared(seen: list[tuple[int, int]], want: list[tuple[int, int]]) -> dict[str, Any]:
    here, there = {1: seen}, {1: want}
    missing = ranges.difference(there, here).get(1, [])
    n_expected = ranges.count(there)
    n_met = n_expected - sum(last - first + 1 for first, last in missing)
    return {
        "n_seen": ranges.count(here),
        "n_expected": n_expected,
        "n_unexpected": ranges.count(here) - n_met,
        "fraction": n_met / n_expected if n_expected else float("nan"),
        "missing": [list(pair) for pair in missing],
    }
