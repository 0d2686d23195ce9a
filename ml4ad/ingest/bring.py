"""Takes an export into an archive, as a file is taken in."""

from __future__ import annotations

import os
from typing import Any

from ml4ad.ingest import exported
from ml4ad.ingest.catalogue import index
from ml4ad.ingest.queue import enqueue, retry
from ml4ad.ingest.take import Ingested, as_it_is, ingest_file


def import_folder(
    target: Any,
    folder: str | os.PathLike[str],
    *,
    dataset: str | None = None,
    replace: bool = False,
) -> Ingested:
    """What became of the export in ``folder``: stored whole or not at all, and twice is once.

    It is one file of its dataset, or of ``dataset``: lumisections that another file holds are
    refused; with ``replace`` the newer of the two has them. If a file in it is damaged all of it is
    BAD, and the reason names that file. Raises FileNotFoundError if there is no export, ValueError
    if its manifest is damaged.
    """
    engine = getattr(target, "engine", target)
    with exported.open_folder(folder) as found:
        wanted = dataset or found.dataset
        (known,) = index(engine, found.path, wanted, found.era or None)
    if known.file_id is None:
        raise OSError(known.reason)
    # What was damaged may have been copied again.
    retry(engine, [as_it_is(engine, known.file_id).path])
    url = engine.url.render_as_string(hide_password=False)
    for file_id in enqueue(engine, [known.file_id], replace=replace):
        ingest_file(url, file_id, replace=replace)
    return as_it_is(engine, known.file_id)
