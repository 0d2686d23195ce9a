"""What a path holds: a DQMIO file, or the manifest of an export."""

from __future__ import annotations

from ml4ad import dqmio
from ml4ad.ingest import exported
from ml4ad.ingest.exported import MANIFEST


def opened(path: str) -> dqmio.DQMIOFile | exported.Folder:
    """The file or export at a path, to be closed; raises what their opening raises."""
    if path.rpartition("/")[2] == MANIFEST and "://" not in path:
        return exported.open_folder(path)
    return dqmio.open(path)
