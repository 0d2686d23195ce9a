"""News of the archive, as PostgreSQL tells them, taken without waiting."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ml4ad.store.connection import raw
from ml4ad.store.scoring import CHANNEL

if TYPE_CHECKING:
    import sqlalchemy as sa


class News:
    """What was told since the last `take`; a connection that is lost is made anew.

    ``missed`` says that the last `take` had to begin listening: what was told before is not known.
    """

    def __init__(self) -> None:
        self._connection: sa.Connection | None = None
        self.missed = True

    def take(self, engine: sa.Engine) -> list[dict[str, Any]]:
        """News, oldest first; raises ConnectionError while the database does not answer."""
        self.missed = self._connection is None
        if self._connection is None:
            made = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            made.exec_driver_sql(f'LISTEN "{CHANNEL}"')
            self._connection = made
        import psycopg

        try:
            # That a server is gone is only seen when it is asked something.
            listening = raw(self._connection)
            listening.execute("SELECT 1")
            told = list(listening.notifies(timeout=0))
        except psycopg.OperationalError as error:
            self.close()
            raise ConnectionError(str(error)) from error
        return [json.loads(one.payload) for one in told]

    def close(self) -> None:
        """Give the connection up."""
        if self._connection is not None:
            self._connection.invalidate()
            self._connection.close()
            self._connection = None
