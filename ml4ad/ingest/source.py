"""What a path holds: a DQMIO file, or the manifest of an export."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ml4ad import dqmio, settings
from ml4ad.ingest import exported
from ml4ad.ingest.exported import MANIFEST


@contextmanager
def at_hand(path: str) -> Iterator[str]:
    """Path to read from: a copy in the scratch folder of the settings, gone at the end, or itself.

    Raises OSError if it cannot be copied.
    """
    folder = settings.load().scratch_dir
    if folder is None or path.endswith(MANIFEST):
        yield path
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ml4ad-", dir=folder) as name:
        copied = Path(name) / path.rpartition("/")[2]
        if "://" in path:
            import fsspec

            filesystem, inside = fsspec.core.url_to_fs(path)
            filesystem.get_file(inside, str(copied))
        else:
            shutil.copyfile(path, copied)
        yield str(copied)


def opened(path: str) -> dqmio.DQMIOFile | exported.Folder:
    """The file or export at a path, to be closed; raises what their opening raises."""
    if path.rpartition("/")[2] == MANIFEST and "://" not in path:
        return exported.open_folder(path)
    return dqmio.open(path)
