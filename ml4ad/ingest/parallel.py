"""Takes many files in at once: a file is a Dask task, its worker another process or machine."""

from __future__ import annotations

import dataclasses
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from ml4ad.ingest.attempts import Attempts
from ml4ad.ingest.queue import enqueue, release_orphans
from ml4ad.ingest.take import Ingested, Told, as_it_is, ingest_file
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
    told: Callable[[Told], object] | None = None,
) -> Iterator[Ingested]:
    """What becomes of each file, as they end; those given, or all that wait.

    Each worker opens the database by the URL of ``target`` (an engine, or an archive), so an
    embedded server serves workers of this machine only. What FAILED, or lost its worker or the
    database, is tried again up to ``attempts`` times, after ``backoff_s`` seconds and twice as long
    each time; a BAD file is not. A file that kills its worker again and again becomes FAILED and
    says so. Leaving the iterator early cancels what has not begun; what has begun is stored whole
    or not at all. ``told`` is called with how far each file has come, in another thread.
    Raises ValueError for attempts below 1 or a negative wait, DatabaseError if the database stays
    away.
    """
    engine: sa.Engine = getattr(target, "engine", target)
    waiting = Attempts(enqueue(engine, file_ids, replace=replace), attempts, backoff_s)
    run = _Run(engine, client, waiting, {"memory_mb": memory_mb, "replace": replace})
    try:
        if told is not None:
            run.listen(told)
        while run.waiting or run.sent:
            run.send()
            yield from run.collect()
    finally:
        run.end()
        release_orphans(engine)


class _Run:
    """Files that wait, and futures of those that are with a worker (number, attempt)."""

    def __init__(
        self, engine: sa.Engine, client: Client, waiting: Attempts, options: dict[str, Any]
    ) -> None:
        self.engine = engine
        self.client = client
        self.url = engine.url.render_as_string(hide_password=False)
        self.waiting = waiting
        self.options = options
        self.sent: dict[Any, tuple[int, int]] = {}
        self.topic = ""

    def listen(self, told: Callable[[Told], object]) -> None:
        """Have the workers tell how far each file has come."""
        self.topic = f"ml4ad-ingest-{uuid.uuid4().hex}"
        self.client.subscribe_topic(self.topic, lambda event: told(Told(*event[1])))

    def end(self) -> None:
        """Take back what no worker has begun."""
        self.client.cancel(list(self.sent))
        if self.topic:
            self.client.unsubscribe_topic(self.topic)

    def send(self) -> None:
        """Hand out what is due, a few files per worker."""
        n_workers = max(1, len(self.client.scheduler_info(n_workers=-1)["workers"]))
        while self.waiting and not self.waiting.due_in_s() and len(self.sent) < _AHEAD * n_workers:
            number, attempt = self.waiting.pop()
            future = self.client.submit(
                _on_worker, self.url, number, self.topic, pure=False,
                key=f"ingest-{number}-{attempt}-{uuid.uuid4().hex}", **self.options,
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
            result = partial(self._record, future, number)
            record = self.waiting.ended(self.engine, number, attempt, result)
            if record is not None:
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


def _on_worker(url: str, number: int, topic: str, **options: Any) -> Ingested:
    from distributed import get_worker

    worker = get_worker()

    def told(each: Told) -> None:
        worker.log_event(topic, dataclasses.astuple(each))

    # The cores of the machine are for other workers, too.
    threads = worker.state.nthreads
    return ingest_file(url, number, told=told if topic else None, threads=threads, **options)
