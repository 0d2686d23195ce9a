"""One function over many tasks: in this process, or on Dask workers with their own connections."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from distributed import Client

    from ml4ad.archive import Archive

T = TypeVar("T")
R = TypeVar("R")

#: What may go wrong with one element without stopping the others: bad data, a foreign detector
#: that does not fit, a database that is gone.
FAILURES = (ArithmeticError, AttributeError, LookupError, MemoryError, OSError, RuntimeError,
            TypeError, ValueError)  # fmt: skip


def said(error: BaseException) -> str:
    """One line of what an error says."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    line = " ".join(text.split()) or "no message"
    plain = isinstance(error, ValueError | KeyError | OSError)
    return line if plain else f"{type(error).__name__}: {line}"


def each(
    archive: Archive,
    client: Client | None,
    function: Callable[[Archive, Any, T], R],
    tasks: Sequence[T],
    shared: Any = None,
) -> Iterator[tuple[T, R | BaseException]]:
    """``function(archive, shared, task)`` of every task as they end: its result, or its error.

    With a Dask client, workers open the archive by its URL; ``shared`` travels to each worker once.
    A worker that dies takes no other task along, nor do all at once: what they were at is tried
    again by those that take their place, and is an error if that kills them too. Raises
    ConnectionError if the scheduler itself is lost.
    """
    if client is None:
        for task in tasks:
            try:
                yield task, function(archive, shared, task)
            except FAILURES as error:
                yield task, error
        return
    import dask
    from distributed import as_completed

    url = archive.url
    # A task, which the scheduler can have done again; what is scattered dies with its workers.
    with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 GiB"}):
        sent = client.submit(_itself, shared, pure=False)
    futures = {
        client.submit(_remote, url, function, sent, task, pure=False): task for task in tasks
    }
    for future in as_completed(futures):
        try:
            failed = future.exception()
            came = future.result() if failed is None else failed
        except CancelledError as lost:
            raise ConnectionError(
                "the Dask scheduler is lost, and with it what was not done: run it again"
            ) from lost
        yield futures[future], came
        future.release()


def _itself(shared: T) -> T:
    return shared


def _remote(url: str, function: Callable[[Archive, Any, T], R], shared: Any, task: T) -> R:
    return function(_opened(url), shared, task)


@cache
def _opened(url: str) -> Archive:
    # One engine per worker process and database, whatever the number of tasks.
    from ml4ad.archive import connect

    return connect(url)
