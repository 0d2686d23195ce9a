"""Work that one process at a time does, wherever the others run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

# First key of the advisory lock of a work; the second is a hash of its name.
_WORK_LOCK = 0x4D4C0F


@contextmanager
def alone(engine: sa.Engine, work: str, *, wait: bool = True) -> Iterator[bool]:
    """Whether this process alone may do a work of that name, until the end or its own.

    With ``wait`` others are waited for. PostgreSQL drops the lock with the connection.
    """
    key = sa.func.hashtext(work)
    take = sa.func.pg_advisory_lock if wait else sa.func.pg_try_advisory_lock
    with engine.connect() as connection:
        got = connection.scalar(sa.select(take(_WORK_LOCK, key)))
        connection.commit()
        try:
            # The blocking form returns nothing.
            yield wait or bool(got)
        finally:
            if not connection.closed and not connection.invalidated and (wait or got):
                connection.rollback()
                connection.execute(sa.select(sa.func.pg_advisory_unlock(_WORK_LOCK, key)))
                connection.commit()
