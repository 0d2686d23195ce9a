"""Reading and writing DQMIO, the file format of CMS's data quality monitoring."""

from __future__ import annotations

from ml4ad.dqmio.names import prefix
from ml4ad.dqmio.read import DQMIOFile, open  # noqa: A004 (ml4ad.dqmio.open is the name)
from ml4ad.dqmio.skim import skim
from ml4ad.dqmio.source import CorruptFileError, NotDQMIOError
from ml4ad.dqmio.write import DQMIOWriter, create, write

__all__ = [
    "CorruptFileError",
    "DQMIOFile",
    "DQMIOWriter",
    "NotDQMIOError",
    "create",
    "open",
    "prefix",
    "skim",
    "write",
]
