"""Progress of ingestion for a person who looks on, in a terminal or a notebook."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from ml4ad.ingest.take import Ingested, Told
from ml4ad.store.schema import file

if TYPE_CHECKING:
    from rich.console import Console


def shown(
    target: Any,
    file_ids: Iterable[int],
    take: Callable[..., Iterator[Ingested]],
    *,
    console: Console | None = None,
) -> Iterator[Ingested]:
    """What ``take(file_ids, told=...)`` gives, while bars show how far it is.

    ``take`` is `in_turn` or `ingest_parallel` with all other arguments. One bar is of all files,
    one of each that is under way, each with bytes of file, rate and time left. Nothing is shown
    where standard error, or ``console``, is neither a terminal nor a notebook.

    >>> from functools import partial
    >>> shown(archive, numbers, partial(ingest_parallel, archive, client))  # doctest: +SKIP
    """
    from rich import progress
    from rich.console import Console

    engine: sa.Engine = getattr(target, "engine", target)
    numbers = list(file_ids)
    sizes = _sizes(engine, numbers)
    screen = console or Console(stderr=True)
    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
    )
    seen = screen.is_terminal or screen.is_jupyter
    with progress.Progress(*columns, console=screen, transient=True, disable=not seen) as bars:
        whole = bars.add_task(f"0 of {len(numbers)} files", total=sum(sizes.values()))
        under_way: dict[int, progress.TaskID] = {}
        done: dict[int, int] = {}

        def told(each: Told) -> None:
            size = sizes.get(each.file_id, 0)
            if each.file_id not in under_way:
                name = each.path.rpartition("/")[2]
                under_way[each.file_id] = bars.add_task(name, total=size)
            done[each.file_id] = size * each.n_done // max(1, each.n_histograms)
            bars.update(under_way[each.file_id], completed=done[each.file_id])
            bars.update(whole, completed=sum(list(done.values())))

        for n_done, record in enumerate(take(numbers, told=told), 1):
            if record.file_id in under_way:
                bars.update(under_way[record.file_id], visible=False)
            done[record.file_id] = sizes.get(record.file_id, 0)
            description = f"{n_done} of {len(numbers)} files"
            bars.update(whole, description=description, completed=sum(list(done.values())))
            yield record


def _sizes(engine: sa.Engine, numbers: Iterable[int]) -> dict[int, int]:
    these = sa.bindparam("these", list(numbers), type_=sa.ARRAY(sa.Integer))
    query = sa.select(file.c.file_id, file.c.size).where(file.c.file_id == sa.any_(these))
    with engine.connect() as connection:
        return {row.file_id: row.size for row in connection.execute(query)}
