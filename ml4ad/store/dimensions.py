"""Numbers that stand for names: datasets, monitoring elements, binnings.

Each is looked up or made in a short transaction of its own, in sorted order: two workers that meet
the same new names wait for each other for a moment, and never in a circle.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa
from psycopg import sql
from sqlalchemy.dialects.postgresql import insert

from ml4ad.stack import KINDS
from ml4ad.store import binning, schema
from ml4ad.store.connection import raw

# First half of the keys of advisory locks; the second is a dataset's or a file's number.
PARTITION_LOCK = 0x6D6C3401
DATASET_LOCK = 0x6D6C3402
FILE_LOCK = 0x6D6C3403


def dataset_id(engine: sa.Engine, dataset: str) -> int:
    """Number of a dataset; a new one gets its partition of the blocks.

    Raises ValueError for an empty name or one that is too long.
    """
    if not 1 <= len(dataset) <= schema.MAX_NAME or "\0" in dataset:
        raise ValueError(f"dataset {dataset!r}, want 1 to {schema.MAX_NAME} characters")
    table = schema.dataset
    wanted = sa.select(table.c.dataset_id).where(table.c.dataset == dataset)
    with engine.connect() as connection:
        known = connection.scalar(wanted)
    if known is not None:
        return known
    with engine.begin() as connection:
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(PARTITION_LOCK, 0)))
        connection.execute(insert(table).values(dataset=dataset).on_conflict_do_nothing())
        number = connection.execute(wanted).scalar_one()
        name = partition(number)
        if connection.scalar(sa.select(sa.func.to_regclass(name))) is None:
            # Attaching lets readers and writers of other partitions go on; CREATE ... PARTITION OF
            # would wait for all of them.
            names = {"part": sql.Identifier(name), "number": sql.Literal(number)}
            make = sql.SQL("CREATE TABLE {part} (LIKE block INCLUDING ALL)")
            attach = sql.SQL("ALTER TABLE block ATTACH PARTITION {part} FOR VALUES IN ({number})")
            driver = raw(connection)
            driver.execute(make.format(**names))
            driver.execute(attach.format(**names))
    return number


def partition(number: int) -> str:
    """Name of the table that holds a dataset's blocks."""
    return f"block_{number}"


def me_ids(engine: sa.Engine, kinds: Mapping[str, str]) -> dict[str, int]:
    """Number of each monitoring element; ``kinds`` gives the kind of each name.

    Raises ValueError for a name that is empty, too long, or no valid text.
    """
    for me in kinds:
        if not 1 <= len(me) <= schema.MAX_NAME or "\0" in me or not _is_unicode(me):
            raise ValueError(
                f"monitoring element {me[:300]!r}, want 1 to {schema.MAX_NAME} characters of text"
            )
    table = schema.me

    def row(me: str) -> dict[str, Any]:
        kind = kinds[me]
        dim = KINDS[kind][0] if kind in KINDS else 0
        return {"me": me, "kind": kind, "subsystem": me.split("/", 1)[0], "dim": dim}

    query = sa.select(table.c.me, table.c.me_id, table.c.kind)
    with engine.begin() as connection:
        found = {r.me: (r.me_id, r.kind) for r in _among(connection, query, table.c.me, kinds)}
        stale = sorted(me for me in kinds if me not in found or found[me][1] != kinds[me])
        if stale:
            upsert = insert(table)
            upsert = upsert.on_conflict_do_update(
                index_elements=[table.c.me],
                set_={"kind": upsert.excluded.kind, "dim": upsert.excluded.dim},
            )
            connection.execute(upsert, [row(me) for me in stale])
            added = _among(connection, query, table.c.me, stale)
            found |= {r.me: (r.me_id, r.kind) for r in added}
    return {me: found[me][0] for me in kinds}


def binning_ids(engine: sa.Engine, descriptions: Iterable[str]) -> dict[str, int]:
    """Number of each description of a block's axes."""
    table = schema.binning
    texts = {binning.digest(text): text for text in descriptions}
    query = sa.select(table.c.digest, table.c.binning_id)
    with engine.begin() as connection:
        found = {r.digest: r.binning_id for r in _among(connection, query, table.c.digest, texts)}
        new = sorted(set(texts) - set(found))
        if new:
            rows = [{"digest": key, "description": texts[key]} for key in new]
            connection.execute(insert(table).on_conflict_do_nothing(), rows)
            added = _among(connection, query, table.c.digest, new)
            found |= {r.digest: r.binning_id for r in added}
    return {text: found[key] for key, text in texts.items()}


def _among(
    connection: sa.Connection,
    query: sa.Select[Any],
    column: sa.ColumnElement[Any],
    values: Iterable[Any],
) -> list[sa.Row[Any]]:
    listed = sa.bindparam("listed", list(values), type_=sa.ARRAY(column.type))
    return list(connection.execute(query.where(column == sa.any_(listed))))


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
