"""Takes files and datasets out of the archive again."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from psycopg import sql

from ml4ad.ingest import cut, find
from ml4ad.store import State, dimensions
from ml4ad.store.connection import raw
from ml4ad.store.dimensions import DATASET_LOCK, FILE_LOCK
from ml4ad.store.schema import block, copy, dataset, file, lumisection, run, scalar


def has_contents(connection: sa.Connection, dataset_id: int, file_id: int) -> bool:
    """Whether a file has brought anything into a dataset."""
    brought = sa.select(run.c.file_id).where(
        run.c.dataset_id == dataset_id, run.c.file_id == file_id
    )
    return connection.execute(brought.limit(1)).first() is not None


def delete_contents(connection: sa.Connection, dataset_id: int, file_id: int) -> None:
    """Delete all that a file brought into a dataset; its row stays.

    Waits until nobody else is at the dataset: blocks that the file shares with others change.
    """
    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(DATASET_LOCK, dataset_id)))
    cut.cut_file(connection, dataset_id, file_id)
    for table in (block, scalar, lumisection, run):
        connection.execute(
            sa.delete(table).where(table.c.dataset_id == dataset_id, table.c.file_id == file_id)
        )


def known_path(target: Any, name: str) -> str:
    """The path under which the archive knows a file, given as a person would.

    Raises KeyError if it knows none.
    """
    engine: sa.Engine = getattr(target, "engine", target)
    spellings = [name, find.absolute(name)]
    with engine.connect() as connection:
        known = connection.scalar(sa.select(file.c.path).where(file.c.path.in_(spellings)))
        if known is None:
            known = connection.scalar(
                sa.select(file.c.path)
                .join(copy, copy.c.file_id == file.c.file_id)
                .where(copy.c.path.in_(spellings))
            )
    if known is None:
        raise KeyError(f"no dataset or file {name!r} in the archive; see `ml4ad list files`")
    return known


def forget_file(target: Any, path: str) -> int:
    """Number of lumisections that went with the file at ``path``; its row goes too.

    Files of its dataset that had lumisections refused are INDEXED again: they may have them now.
    Waits for files of the dataset that are being ingested.
    Raises KeyError if the file is not known, RuntimeError if it is being ingested.
    """
    engine: sa.Engine = getattr(target, "engine", target)
    with engine.begin() as connection:
        row = connection.execute(
            sa.select(file.c.file_id, file.c.dataset_id).where(file.c.path == path)
        ).one_or_none()
        if row is None:
            raise KeyError(f"no file {path!r} in the archive; see `ml4ad list files`")
        free = sa.func.pg_try_advisory_xact_lock(FILE_LOCK, row.file_id)
        if not connection.scalar(sa.select(free)):
            raise RuntimeError(f"{path} is being ingested now; try again when that is done")
        held = sa.select(sa.func.count()).where(lumisection.c.file_id == row.file_id)
        n_ls = connection.execute(held).scalar_one()
        if row.dataset_id is not None:
            delete_contents(connection, row.dataset_id, row.file_id)
            connection.execute(
                sa.update(file)
                .where(file.c.dataset_id == row.dataset_id, file.c.n_refused > 0)
                .values(state=State.INDEXED)
            )
        connection.execute(sa.delete(file).where(file.c.file_id == row.file_id))
    return n_ls


def forget_dataset(target: Any, name: str) -> int:
    """Number of files that went with a dataset, histograms and all.

    Waits for files of it that are being ingested. Raises KeyError if there is no such dataset.
    """
    engine: sa.Engine = getattr(target, "engine", target)
    with engine.begin() as connection:
        number = connection.scalar(sa.select(dataset.c.dataset_id).where(dataset.c.dataset == name))
        files = file.c.dataset_id == number
        n_files = connection.execute(
            sa.select(sa.func.count()).select_from(file).where(files)
        ).scalar_one()
        if number is None or not n_files:
            raise KeyError(f"no dataset {name!r} in the archive; see `ml4ad list datasets`")
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(DATASET_LOCK, number)))
        # The empty partition stays: dropping it would wait for readers of all other datasets.
        partition = sql.Identifier(dimensions.partition(number))
        raw(connection).execute(sql.SQL("TRUNCATE TABLE {}").format(partition))
        for table in (scalar, lumisection, run, file):
            connection.execute(sa.delete(table).where(table.c.dataset_id == number))
    return n_files
