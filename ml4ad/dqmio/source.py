"""Bytes of a file, local or remote, read by position; what is wrong with a file."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any


class NotDQMIOError(ValueError):
    """The file is not a DQMIO file."""


class CorruptFileError(ValueError):
    """The file was a DQMIO file, and a part of it cannot be read."""


class Source:
    """An open file of ``size`` bytes. Reading by position is safe from several threads.

    Raises the OSError of the system if it is absent, forbidden, a directory, or no file at all.
    """

    def __init__(self, path: str | os.PathLike[str], options: Mapping[str, Any] | None) -> None:
        self.path = os.fspath(path)
        protocol, _, rest = self.path.partition("://")
        if rest and protocol in ("file", "local"):
            self.path, rest = rest, ""
        self._position = 0
        self._handle: Any = None
        self._filesystem: Any = None
        if rest:
            self._open_remote(protocol, dict(options or {}))
            return
        mode = Path(self.path).stat().st_mode
        # Opening a pipe would wait for its other end, for ever.
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise OSError(f"{self.path}: not a file")
        self._handle = Path(self.path).open("rb", buffering=0)  # noqa: SIM115 (closed by close)
        self.size = os.fstat(self._handle.fileno()).st_size

    def _open_remote(self, protocol: str, options: dict[str, Any]) -> None:
        import fsspec

        try:
            self._filesystem, self._remote = fsspec.core.url_to_fs(self.path, **options)
        except (ImportError, ValueError) as missing:
            extra = ": pip install 'ml4ad[xrootd]'" if protocol in ("root", "xrootd") else ""
            raise ImportError(
                f"{protocol}:// cannot be opened here ({missing}){extra}"
            ) from missing
        self._handle = self._filesystem.open(self._remote, "rb")
        self.size = int(self._filesystem.size(self._remote))

    def read_at(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Bytes of each ``(start, length)``; fewer where the file ends before."""
        if self._filesystem is None:
            descriptor = self._handle.fileno()
            return [os.pread(descriptor, self._within(*item), item[0]) for item in ranges]
        ends = [start + self._within(start, length) for start, length in ranges]
        starts = [start for start, _ in ranges]
        return self._filesystem.cat_ranges([self._remote] * len(starts), starts, ends)

    def _within(self, start: int, length: int) -> int:
        return max(0, min(length, self.size - start))

    # What uproot needs of a file-like object.

    def seek(self, position: int) -> int:
        """Move to ``position``."""
        self._position = position
        return position

    def read(self, length: int) -> bytes:
        """At most ``length`` bytes from the present position."""
        length = self._within(self._position, length) if self._position >= 0 else 0
        if self._filesystem is None:
            data = os.pread(self._handle.fileno(), length, max(self._position, 0))
        else:
            self._handle.seek(max(self._position, 0))
            data = self._handle.read(length)
        self._position += len(data)
        return data

    @property
    def closed(self) -> bool:
        """Whether it is closed."""
        return bool(self._handle.closed)

    def close(self) -> None:
        """Close it; a second time does nothing."""
        self._handle.close()

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
