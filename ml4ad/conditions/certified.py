"""QUERY certification: stored lists of lumisections, Run Registry's word, reference runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import sqlalchemy as sa

from ml4ad.conditions import ranges
from ml4ad.conditions.query import Runs, among
from ml4ad.conditions.ranges import Ranges
from ml4ad.conditions.record import CERTIFICATION_KINDS
from ml4ad.store import context

#: A list of lumisections: the name of a stored one, a JSON file, ranges; True: the only stored one
#: of its kind. Several are all to be fulfilled.
CertificationLike = str | Path | bool | Mapping[Any, Any]
Certifications = CertificationLike | Iterable[CertificationLike] | None


def certifications(engine: sa.Engine) -> pd.DataFrame:
    """Stored lists: kind, name, n_runs, n_lumisections, source, loaded_at."""
    table, spans = context.certification, context.certification_range
    query = (
        sa.select(
            table.c.kind,
            table.c.name,
            sa.func.count(sa.distinct(spans.c.run_number)).label("n_runs"),
            sa.func.coalesce(sa.func.sum(spans.c.last_ls - spans.c.first_ls + 1), 0).label(
                "n_lumisections"
            ),
            table.c.source,
            table.c.loaded_at,
        )
        .join_from(table, spans, isouter=True)
        .group_by(table.c.certification_id)
        .order_by(table.c.kind, table.c.name)
    )
    with engine.connect() as connection:
        result = connection.execute(query)
        frame = pd.DataFrame(result.all(), columns=list(result.keys()))
    return frame.astype({"n_runs": "int64", "n_lumisections": "int64"})


def certification(engine: sa.Engine, wanted: CertificationLike, kind: str | None = None) -> Ranges:
    """Lumisections of a list: a stored one by name, a JSON file, or ranges as a mapping.

    True is the only stored one of ``kind``. A text that names no stored list is a path.
    Raises KeyError, naming those there are, if it is neither, or True is not unique; ValueError if
    the file or the mapping is no certification.
    """
    if isinstance(wanted, Mapping):
        return ranges.of_mapping(wanted)
    if isinstance(wanted, Path):
        return ranges.read(wanted)
    if kind is not None and kind not in CERTIFICATION_KINDS:
        raise ValueError(f"kind {kind!r}: want one of {', '.join(CERTIFICATION_KINDS)}")
    table, spans = context.certification, context.certification_range
    query = sa.select(table.c.certification_id, table.c.name)
    if kind is not None:
        query = query.where(table.c.kind == kind)
    with engine.connect() as connection:
        stored = connection.execute(query).all()
        chosen = [own_id for own_id, name in stored if wanted is True or name == wanted]
        if not chosen and isinstance(wanted, str) and Path(wanted).is_file():
            return ranges.read(wanted)
        if len(chosen) != 1:
            there = ", ".join(sorted(name for _, name in stored)) or "none"
            asked = "the only one" if wanted is True else repr(wanted)
            raise KeyError(
                f"{len(chosen)} stored {kind or 'certification'} lists are {asked}, and it is no "
                f"file; stored: {there}; `ml4ad conditions load` stores one"
            )
        rows = connection.execute(
            sa.select(spans.c.run_number, spans.c.first_ls, spans.c.last_ls)
            .where(spans.c.certification_id == chosen[0])
            .order_by(spans.c.run_number, spans.c.first_ls)
        ).all()
    found: Ranges = {}
    for run_number, first, last in rows:
        found.setdefault(run_number, []).append((first, last))
    return found


def all_of(engine: sa.Engine, wanted: Certifications, kind: str | None) -> list[Ranges]:
    """Each of the lists that somebody asked for; raises as ``certification``."""
    if wanted is None or wanted is False:
        return []
    if isinstance(wanted, str | Path | bool | Mapping):
        return [certification(engine, wanted, kind)]
    return [certification(engine, one, kind) for one in wanted]


def flags(engine: sa.Engine, run_number: Runs = None, component: str | None = None) -> pd.DataFrame:
    """Run Registry's flags: dataset, run_number, component, first_ls, last_ls, flag, cause."""
    table = context.registry_flag
    query = sa.select(table).where(among(table.c.run_number, run_number))
    if component is not None:
        query = query.where(table.c.component == component)
    return _rows(engine, query.order_by(*table.primary_key))


def states(engine: sa.Engine, run_number: Runs = None) -> pd.DataFrame:
    """How far Run Registry is: run_number, dataset, workspace, state."""
    table = context.registry_state
    query = sa.select(*(column for column in table.columns if column.name != "source_id"))
    return _rows(
        engine,
        query.where(among(table.c.run_number, run_number)).order_by(*table.primary_key),
    )


def references(engine: sa.Engine, run_number: Runs = None) -> pd.DataFrame:
    """Reference runs: run_number, reco, dataset, reference_run_number, reference_reco, ..."""
    table = context.reference_run
    query = sa.select(table).where(among(table.c.run_number, run_number))
    return _rows(engine, query.order_by(*table.primary_key))


def reference_run(engine: sa.Engine, run_number: int, *, reco: str = "", dataset: str = "") -> int:
    """Run that a run is compared with; the entry of this ``reco`` and ``dataset`` comes first.

    Raises KeyError if none is stored, or several remain that differ.
    """
    stored = references(engine, run_number)
    for column, wanted in (("dataset", dataset), ("reco", reco)):
        if wanted:
            exact = stored[stored[column] == wanted]
            stored = exact if len(exact) else stored[stored[column] == ""]
    found = sorted(set(stored["reference_run_number"].tolist()))
    if len(found) != 1:
        raise KeyError(
            f"run {run_number}: {len(found)} reference runs {found or ''} for reco {reco!r}, "
            f"dataset {dataset!r}: want one"
        )
    return int(found[0])


def _rows(engine: sa.Engine, query: sa.Select[Any]) -> pd.DataFrame:
    with engine.connect() as connection:
        result = connection.execute(query)
        return pd.DataFrame(result.all(), columns=list(result.keys()))
