"""Writing a ROOT file: its header, keys and directories."""

from __future__ import annotations

import datetime
import struct
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from ml4ad.dqmio.compress import Compressor
from ml4ad.dqmio.layouts import Encoder, streamer_infos, string_bytes

_ROOT_VERSION = 62407
_BEGIN = 100
# Beyond this position ROOT stores 64 bits per address, and says so in the version.
BIG_FILE = 2_000_000_000
_BIG_KEY, _BIG_HEADER = 1000, 1_000_000


@dataclass
class _Key:
    """What a directory lists of an object."""

    class_name: str
    name: str
    title: str
    length: int = 0
    stored: int = 0
    position: int = 0
    directory: int = _BEGIN
    cycle: int = 1
    extra: bytes = b""

    def header(self, when: int) -> bytes:
        """Bytes before the object in the file, and of its line in the directory."""
        texts = b"".join(map(string_bytes, (self.class_name, self.name, self.title)))
        big = self.position > BIG_FILE
        size = 18 + (16 if big else 8) + len(texts) + len(self.extra)
        front = struct.pack(
            ">iHiIHH",
            size + self.stored,
            4 + big * _BIG_KEY,
            self.length,
            when,
            size,
            self.cycle,
        )
        seeks = struct.pack(">qq" if big else ">ii", self.position, self.directory)
        return front + seeks + texts + self.extra


@dataclass
class Directory:
    """A directory of the file and what it lists."""

    name: str
    position: int
    parent: int
    uuid: uuid.UUID
    keys: list[_Key] = field(default_factory=list)
    name_length: int = 0
    keys_position: int = 0
    keys_length: int = 0

    def record(self, when: int) -> bytes:
        """The directory's own record; as long whatever the size of its addresses."""
        big = max(self.position, self.keys_position) > BIG_FILE
        seeks = (self.position, self.parent, self.keys_position)
        return (
            struct.pack(">HII", 5 + big * _BIG_KEY, when, when)
            + struct.pack(">ii", self.keys_length, self.name_length)
            + struct.pack(">qqq" if big else ">iii", *seeks)
            + struct.pack(">H", 1)
            + self.uuid.bytes
            + (b"" if big else bytes(12))
        )


class RootFile:
    """A ROOT file being written to a ``stream`` that can seek.

    ``name`` is what the file calls itself; ``uuids`` gives an identity for the file and one for
    each directory; ``when`` is the time of everything in it.
    """

    def __init__(
        self,
        stream: BinaryIO,
        name: str,
        compressor: Compressor,
        when: datetime.datetime,
        uuids: Callable[[], uuid.UUID],
    ) -> None:
        self._stream = stream
        self.name = name
        self.compressor = compressor
        self.when = _datime(when)
        self._uuids = uuids
        self.root = Directory(name, _BEGIN, 0, uuids())
        self._directories = [self.root]
        self._end = _BEGIN
        stream.write(bytes(_BEGIN))
        names = string_bytes(name) + string_bytes("")
        record = names + self.root.record(self.when)
        key = _Key("TFile", name, "", directory=0)
        self._write(key, record, len(record))
        self.root.name_length = len(key.header(self.when)) + len(names)

    def _write(self, key: _Key, stored: Any, length: int) -> None:
        key.position, key.stored, key.length = self._end, len(stored), length
        header = key.header(self.when)
        self._stream.write(header)
        self._stream.write(stored)
        self._end += len(header) + len(stored)

    def key_length(self, class_name: str, name: str, title: str, extra: int = 0) -> int:
        """Length of the header of a key written now; what follows is counted from its start."""
        key = _Key(class_name, name, title, position=self._end, extra=bytes(extra))
        return len(key.header(self.when))

    def add(
        self, directory: Directory, class_name: str, name: str, title: str, data: bytes
    ) -> None:
        """Store an object's bytes under ``name`` in ``directory``."""
        key = _Key(class_name, name, title, directory=directory.position)
        self._write(key, self.compressor.pack(data), len(data))
        directory.keys.append(key)

    def directory(self, name: str) -> Directory:
        """A new directory in the file's first one."""
        made = Directory(name, self._end, _BEGIN, self._uuids())
        made.name_length = self.key_length("TDirectory", name, name)
        key = _Key("TDirectory", name, name)
        record = made.record(self.when)
        self._write(key, record, len(record))
        self.root.keys.append(key)
        self._directories.append(made)
        return made

    def basket(self, branch: str, tree: str, data: Any, extra: bytes, length: int) -> _Key:
        """Store the bytes of a basket; only its branch knows where."""
        key = _Key("TBasket", branch, tree, cycle=0, extra=extra)
        self._write(key, data, length)
        return key

    def close(self) -> None:
        """Write directories, descriptions of the classes and the header; the file is complete."""
        for directory in reversed(self._directories):
            self._list_keys(directory)
        origin = self.key_length("TList", "StreamerInfo", "Doubly linked list")
        encoder = Encoder(origin)
        encoder.collection("TList", streamer_infos())
        infos = _Key("TList", "StreamerInfo", "Doubly linked list")
        self._write(infos, self.compressor.pack(encoder.data), len(encoder.data))
        infos_length = self._end - infos.position
        free = self._free_record()
        self._write_header(infos.position, infos_length, free)
        for directory in self._directories:
            self._stream.seek(directory.position + directory.name_length)
            self._stream.write(directory.record(self.when))

    def _list_keys(self, directory: Directory) -> None:
        lines = b"".join(key.header(self.when) for key in directory.keys)
        data = struct.pack(">i", len(directory.keys)) + lines
        class_name = "TFile" if directory is self.root else "TDirectory"
        key = _Key(class_name, directory.name, "", directory=directory.position)
        self._write(key, data, len(data))
        directory.keys_position = key.position
        directory.keys_length = self._end - key.position

    def _free_record(self) -> _Key:
        # One free segment: from the end of the file, which holds this record, to the largest size.
        key = _Key("TFile", self.name, "")
        for fmt, version in ((">Hii", 1), (">Hqq", 1 + _BIG_KEY)):
            size = struct.calcsize(fmt)
            end = self._end + self.key_length("TFile", self.name, "") + size
            if version > 1 or end <= BIG_FILE:
                last = max(2_000_000_000, (end // 1_000_000_000 + 1) * 1_000_000_000)
                self._write(key, struct.pack(fmt, version, end, last), size)
                break
        return key

    def _write_header(self, infos: int, infos_length: int, free: _Key) -> None:
        free_length = self._end - free.position
        big = self._end > BIG_FILE
        width = "q" if big else "i"
        self._stream.seek(0)
        self._stream.write(
            b"root"
            + struct.pack(">ii", _ROOT_VERSION + big * _BIG_HEADER, _BEGIN)
            + struct.pack(f">{width}{width}", self._end, free.position)
            + struct.pack(">iii", free_length, 1, self.root.name_length)
            + struct.pack(">B", 8 if big else 4)
            + struct.pack(f">i{width}i", self.compressor.setting, infos, infos_length)
            + struct.pack(">H", 1)
            + self.root.uuid.bytes
        )


def _datime(when: datetime.datetime) -> int:
    day = (when.year - 1995) << 26 | when.month << 22 | when.day << 17
    return day | when.hour << 12 | when.minute << 6 | when.second
