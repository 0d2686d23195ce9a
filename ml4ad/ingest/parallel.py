"""Takes many files in at once: a file is a Dask task, its worker another process or machine."""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from ml4ad.ingest.queue import enqueue, release_orphans
from ml4ad.ingest.take import Ingested, as_it_is, ingest_file
from ml4ad.store import State
from ml4ad.store.schema import file

if TYPE_CHECKING:
    from distributed import Client

# Tasks handed out per worker: enough that none waits, few enough that a stop is quick.
_AHEAD = 3
# Longest wait for a result before what is due for another attempt is looked at, in seconds.
_TICK_S = 0.5


def ingest_parallel(
    target: Any,
    client: Client,
    file_ids: Iterable[int] | None = None,
    *,
    attempts: int = 3,
    backoff_s: float = 2.0,
    memory_mb: int | None = None,
    replace: bool = False,
) -> Iterator[Ingested]:
    """What becomes of each file, as they end; those given, or all that wait.

    Each worker opens the database by the URL of ``target`` (an engine, or an archive), so an
    embedded server serves workers of this machine only. What FAILED, or lost its worker, is tried
    again up to ``attempts`` times, after ``backoff_s`` seconds and twice as long each time; a BAD
    file is not. A file that kills its worker again and again becomes FAILED and says so. Leaving
    the iterator early cancels what has not begun; what has begun is stored whole or not at all.
    Raises ValueError for attempts below 1 or a negative wait.
    """
    if attempts < 1 or backoff_s < 0:
        raise ValueError(f"{attempts} attempts {backoff_s} s apart, want at least 1 and 0 s")
    engine: sa.Engine = getattr(target, "engine", target)
    url = engine.url.render_as_string(hide_password=False)
    options = {
        "memory_mb": memory_mb,
        "replace": replace,
    }
    run = _Run(engine, client, url, options, attempts, backoff_s)
    run.waiting = [(0.0, number, 1) for number in enqueue(engine, file_ids, replace=replace)]
    heapq.heapify(run.waiting)
    try:
        while run.waiting or run.sent:
            run.send()
            yield from run.collect()
    finally:
        client.cancel(list(run.sent))
        release_orphans(engine)


class _Run:
    """Files that wait (when, number, attempt), and futures of those that are with a worker."""

    def __init__(
        self,
        engine: sa.Engine,
        client: Client,
        url: str,
        options: dict[str, Any],
        attempts: int,
        backoff_s: float,
    ) -> None:
        self.engine = engine
        self.client = client
        self.url = url
        self.options = options
        self.attempts = attempts
        self.backoff_s = backoff_s
        self.waiting: list[tuple[float, int, int]] = []
        self.sent: dict[Any, tuple[int, int]] = {}

    def send(self) -> None:
        """Hand out what is due, a few files per worker."""
        n_workers = max(1, len(self.client.scheduler_info(n_workers=-1)["workers"]))
        now = time.monotonic()
        while self.waiting and self.waiting[0][0] <= now and len(self.sent) < _AHEAD * n_workers:
            _, number, attempt = heapq.heappop(self.waiting)
            future = self.client.submit(
                ingest_file, self.url, number, pure=False, key=f"ingest-{number}-{attempt}-{now}",
                **self.options,
            )  # fmt: skip
            self.sent[future] = (number, attempt)

    def collect(self) -> Iterator[Ingested]:
        """Records of the files that have ended since."""
        from distributed import TimeoutError as NoneYet
        from distributed import wait

        if not self.sent:
            time.sleep(_TICK_S)
            return
        try:
            done = wait(list(self.sent), timeout=_TICK_S, return_when="FIRST_COMPLETED").done
        except NoneYet:
            return
        for future in done:
            number, attempt = self.sent.pop(future)
            record = self._record(future, number)
            again = record.state in (State.FAILED, State.PENDING, State.RUNNING, State.INDEXED)
            if again and attempt < self.attempts and not _gone(self.engine, number):
                due = time.monotonic() + self.backoff_s * 2 ** (attempt - 1)
                heapq.heappush(self.waiting, (due, number, attempt + 1))
            else:
                yield record

    def _record(self, future: Any, number: int) -> Ingested:
        error = future.exception()
        if error is None:
            return future.result()
        # The worker died, or lost the database: what it was at was rolled back.
        release_orphans(self.engine)
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:1000]
        with self.engine.begin() as connection:
            connection.execute(
                sa.update(file)
                .where(file.c.file_id == number)
                .where(file.c.state.in_([State.PENDING, State.RUNNING, State.INDEXED]))
                .values(state=State.FAILED, reason=reason)
            )
        return as_it_is(self.engine, number)


def _gone(engine: sa.Engine, number: int) -> bool:
    query = sa.select(file.c.vanished).where(file.c.file_id == number)
    with engine.connect() as connection:
        return bool(connection.scalar(query))
