"""How fast files go into the archive, what still waits, and how large it is."""

from __future__ import annotations

from typing import Any

import pandas as pd
import sqlalchemy as sa

from ml4ad.store import State
from ml4ad.store.schema import file

_MB = 1e6


def rates(target: Any, minutes: float = 60.0) -> pd.DataFrame:
    """Two rows, of the last ``minutes`` and of ever: files and MB (of file) that were taken in.

    Columns since, n_files, bytes, minutes, files_per_minute and mb_per_minute. The time is that
    from the first start to now, at most ``minutes``; of ever to the last end, and NaN if there is
    none.
    Raises ValueError for no minutes.
    """
    if not minutes > 0:
        raise ValueError(f"{minutes} minutes, want more than 0")
    engine: sa.Engine = getattr(target, "engine", target)
    now = sa.func.clock_timestamp()
    window = now - sa.func.make_interval(0, 0, 0, 0, 0, 0, minutes * 60)
    first = sa.func.min(file.c.started_at)
    spans = (
        (f"last {minutes:g} minutes", file.c.finished_at > window, sa.func.greatest(first, window)),
        ("ever", sa.true(), first),
    )
    rows = []
    with engine.connect() as connection:
        for since, chosen, start in spans:
            end = now if since != "ever" else sa.func.max(file.c.finished_at)
            query = sa.select(
                sa.func.count(),
                sa.cast(sa.func.coalesce(sa.func.sum(file.c.size), 0), sa.BigInteger),
                sa.cast(sa.extract("epoch", end - start), sa.Double) / 60,
            ).where(file.c.state == State.PROCESSED, chosen)
            rows.append((since, *connection.execute(query).one()))
    found = pd.DataFrame(rows, columns=["since", "n_files", "bytes", "minutes"])
    found = found.astype({"minutes": "float64"})
    return found.assign(
        files_per_minute=found.n_files / found.minutes,
        mb_per_minute=found.bytes / _MB / found.minutes,
    )


def history(target: Any, hours: int = 24) -> pd.DataFrame:
    """A row per hour of the last ``hours``, this one last: begin, n_files and bytes taken in.

    Hours begin at full ones, UTC; those in which nothing came are there, with zeros. Raises
    ValueError for no hours.
    """
    if hours < 1:
        raise ValueError(f"{hours} hours, want at least 1")
    engine: sa.Engine = getattr(target, "engine", target)
    utc = sa.literal("UTC")
    this = sa.func.date_trunc("hour", sa.func.clock_timestamp(), utc)
    hour = sa.func.date_trunc("hour", file.c.finished_at, utc)
    first = this - sa.func.make_interval(0, 0, 0, 0, hours - 1)
    query = (
        sa.select(hour, sa.func.count(), sa.cast(sa.func.sum(file.c.size), sa.BigInteger))
        .where(file.c.state == State.PROCESSED, file.c.finished_at >= first)
        .group_by(hour)
    )
    with engine.connect() as connection:
        begin, rows = connection.execute(sa.select(first)).scalar_one(), connection.execute(query)
        found = pd.DataFrame([tuple(row) for row in rows], columns=["begin", "n_files", "bytes"])
    every = pd.date_range(pd.Timestamp(begin).tz_convert("UTC"), periods=hours, freq="h")
    found["begin"] = pd.to_datetime(found["begin"], utc=True)
    filled = found.set_index("begin").reindex(every, fill_value=0).rename_axis("begin")
    return filled.astype("int64").reset_index()


def waiting(target: Any) -> dict[str, Any]:
    """What waits: n_files, bytes, and the oldest: when it was indexed, and its path ("" if none).

    Files that are INDEXED, PENDING or RUNNING.
    """
    engine: sa.Engine = getattr(target, "engine", target)
    these = file.c.state.in_([State.INDEXED, State.PENDING, State.RUNNING])
    size = sa.cast(sa.func.coalesce(sa.func.sum(file.c.size), 0), sa.BigInteger)
    oldest = sa.select(file.c.indexed_at, file.c.path).where(these)
    with engine.connect() as connection:
        n_files, nbytes = connection.execute(sa.select(sa.func.count(), size).where(these)).one()
        row = connection.execute(
            oldest.order_by(file.c.indexed_at, file.c.file_id).limit(1)
        ).one_or_none()
    since, path = (pd.NaT, "") if row is None else row
    return {"n_files": n_files, "bytes": nbytes, "oldest": since, "path": path}


def database_bytes(target: Any) -> int:
    """Bytes of the database on its disk, indexes and all."""
    engine: sa.Engine = getattr(target, "engine", target)
    with engine.connect() as connection:
        size = sa.func.pg_database_size(sa.func.current_database())
        return connection.execute(sa.select(size)).scalar_one()
