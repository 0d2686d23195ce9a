"""Files into the archive, as the notebook ``ingest`` does it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields
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
    does the work, once. See `ml4ad.ingest.ingest_parallel`.
    """
    given = [int(number) for number in found["file_id"].dropna()]
    waiting = {*ingest.enqueue(archive, given, replace=replace), *ingest.enqueue(archive)}
    return _table(_taken(archive, sorted(waiting), client, attempts, replace))


def again(
    archive: Archive, numbers: list[int], client: Client | None = None, *, attempts: int = 3
) -> pd.DataFrame:
    """A row per file of those that `ml4ad.ingest.retry` has waiting again, taken in as `take`."""
    return _table(_taken(archive, numbers, client, attempts))


def _table(done: Iterable[ingest.Ingested]) -> pd.DataFrame:
    import pandas as pd

    columns = [field.name for field in fields(ingest.Ingested)]
    return pd.DataFrame(list(done), columns=columns)


def _taken(
    archive: Archive,
    numbers: list[int],
    client: Client | None,
    attempts: int,
    replace: bool = False,
) -> Iterator[ingest.Ingested]:
    if not numbers:
        return
    if client is not None:
        yield from ingest.ingest_parallel(
            archive, client, numbers, attempts=attempts, replace=replace
        )
        return
    for number in numbers:
        yield ingest.ingest_file(archive.url, number, replace=replace)
