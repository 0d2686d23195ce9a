"""Reading and writing DQMIO, the file format of CMS's data quality monitoring."""

from __future__ import annotations

from ml4ad.dqmio.write import DQMIOWriter, create, write

__all__ = ["DQMIOWriter", "create", "write"]
