"""Files that wait for another attempt: what may pass is tried again, later each time."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable

import sqlalchemy as sa

from ml4ad.ingest.take import Ingested
from ml4ad.store import DatabaseError, State
from ml4ad.store.schema import file

_NOT_YET = (State.FAILED, State.PENDING, State.RUNNING, State.INDEXED)


class Attempts:
    """Numbers of files, each to be tried ``most`` times; as many as still wait is its length.

    After a first failure a file waits ``backoff_s`` seconds, and twice as long each further time;
    the others go on meanwhile. Raises ValueError for ``most`` below 1 or a negative wait.
    """

    def __init__(self, file_ids: Iterable[int], most: int, backoff_s: float) -> None:
        if most < 1 or backoff_s < 0:
            raise ValueError(f"{most} attempts {backoff_s} s apart, want at least 1 and 0 s")
        self.most = most
        self.backoff_s = backoff_s
        self._waiting = [(0.0, place, number, 1) for place, number in enumerate(file_ids)]

    def __len__(self) -> int:
        return len(self._waiting)

    def pop(self) -> tuple[int, int]:
        """The file that waits for the shortest time, and which attempt it is."""
        _, _, number, attempt = heapq.heappop(self._waiting)
        return number, attempt

    def due_in_s(self) -> float:
        """Seconds until the next file is due; IndexError if none waits."""
        return max(0.0, self._waiting[0][0] - time.monotonic())

    def again(self, number: int, attempt: int) -> bool:
        """Whether the file has an attempt left, after this one; it waits for it now."""
        if attempt >= self.most:
            return False
        due = time.monotonic() + self.backoff_s * 2 ** (attempt - 1)
        heapq.heappush(self._waiting, (due, 0, number, attempt + 1))
        return True

    def ended(
        self, engine: sa.Engine, number: int, attempt: int, result: Callable[[], Ingested]
    ) -> Ingested | None:
        """The ``result`` of a file's attempt; None if it waits for another.

        Raises DatabaseError if the database is away and no attempt is left.
        """
        try:
            record = result()
            again = _may_pass(engine, record)
        except DatabaseError:
            # It is away for this process, too, which can note nothing.
            if not self.again(number, attempt):
                raise
            return None
        return None if again and self.again(number, attempt) else record


def _may_pass(engine: sa.Engine, record: Ingested) -> bool:
    """Whether another attempt may go better: nothing is wrong with the file, and it is there."""
    if record.state not in _NOT_YET:
        return False
    query = sa.select(file.c.vanished).where(file.c.file_id == record.file_id)
    with engine.connect() as connection:
        return not connection.scalar(query)
