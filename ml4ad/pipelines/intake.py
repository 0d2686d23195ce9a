"""Files into the archive, as the notebook ``ingest`` does it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING

from ml4ad import ingest

if TYPE_CHECKING:
    import pandas as pd
    from distributed import Client

    from ml4ad.archive import Archive


def index(archive: Archive, paths: Iterable[str], dataset: str | None = None) -> pd.DataFrame:
    """A row per file at ``paths``: see `ml4ad.ingest.index`."""
    import pandas as pd

    columns = [field.name for field in fields(ingest.Found)]
    return pd.DataFrame(list(ingest.index(archive, list(paths), dataset)), columns=columns)


def take(
    archive: Archive,
    found: pd.DataFrame,
    client: Client | None = None,
    *,
    attempts: int = 3,
    replace: bool = False,
) -> pd.DataFrame:
    """A row per file that was taken in: those of ``found``, and all others that wait.

    Of those of ``found`` also what failed before is tried again. Without ``client`` this process
    does the work. Bars show how far it is. See `ml4ad.ingest.ingest_parallel`.
    """
    given = [int(number) for number in found["file_id"].dropna()]
    waiting = {*ingest.enqueue(archive, given, replace=replace), *ingest.enqueue(archive)}
    return _taken(archive, sorted(waiting), client, attempts, replace)


def again(
    archive: Archive, numbers: list[int], client: Client | None = None, *, attempts: int = 3
) -> pd.DataFrame:
    """A row per file of those that `ml4ad.ingest.retry` has waiting again, taken in as `take`."""
    return _taken(archive, numbers, client, attempts)


def _taken(
    archive: Archive,
    numbers: list[int],
    client: Client | None,
    attempts: int,
    replace: bool = False,
) -> pd.DataFrame:
    import pandas as pd

    doing: Callable[..., Iterator[ingest.Ingested]] = partial(ingest.in_turn, archive)
    if client is not None:
        doing = partial(ingest.ingest_parallel, archive, client)
    doing = partial(doing, attempts=attempts, replace=replace)
    columns = [field.name for field in fields(ingest.Ingested)]
    done = ingest.shown(archive, numbers, doing) if numbers else ()
    return pd.DataFrame(list(done), columns=columns)
