"""Takes lumisections out of blocks that keep others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import sqlalchemy as sa

from ml4ad.ingest import repack
from ml4ad.ingest.repack import SEVERAL_FILES, Place
from ml4ad.store import blocks
from ml4ad.store.schema import block, lumisection


def cut(
    connection: sa.Connection,
    dataset_id: int,
    file_id: int,
    run_number: int,
    ls_numbers: Sequence[int],
) -> int:
    """Number of histograms of these lumisections that were taken out of blocks of ``file_id``.

    What remains of a block is packed again; the whole run, lumisection 0, is left where it is.
    The caller has the dataset's lock for itself. Raises DamagedBlockError for a damaged block.
    """
    wanted = np.unique(np.array([n for n in ls_numbers if n > 0], dtype=np.int64))
    if not len(wanted):
        return 0
    touched = (
        repack.of_run(dataset_id, run_number)
        & (block.c.file_id == file_id)
        & (block.c.first_ls > 0)
        & (block.c.first_ls <= int(wanted[-1]))
        & (block.c.last_ls >= int(wanted[0]))
    )
    if file_id == SEVERAL_FILES:
        # Of several files most blocks may be: the index of files is no help, the key is.
        touched &= repack.among(block.c.me_id, repack.elements(connection))
    size = sa.func.octet_length(block.c.packed)
    query = sa.select(block.c.me_id, block.c.first_ls, block.c.file_id, size).where(touched)
    places = [Place(*row) for row in connection.execute(query.order_by(block.c.me_id))]
    n_cut = 0
    for some in repack.portions(places):
        for row in repack.read(connection, dataset_id, run_number, some):
            (stack,) = blocks.unpack([row.stored], None)
            rest = stack.select(np.setdiff1d(stack.ls_numbers, wanted))
            if len(rest) < len(stack):
                repack.replace(connection, dataset_id, [row], rest, file_id)
                n_cut += len(stack) - len(rest)
    return n_cut


def cut_file(connection: sa.Connection, dataset_id: int, file_id: int) -> None:
    """Take the lumisections of a file out of the blocks that it shares with others."""
    held = (
        sa.select(lumisection.c.run_number, sa.func.array_agg(lumisection.c.ls_number))
        .where(lumisection.c.dataset_id == dataset_id, lumisection.c.file_id == file_id)
        .group_by(lumisection.c.run_number)
        .order_by(lumisection.c.run_number)
    )
    for run_number, ls_numbers in connection.execute(held).all():
        cut(connection, dataset_id, SEVERAL_FILES, run_number, ls_numbers)
