"""Writing a ROOT file: keys, compression, directories, and trees whose baskets go out as filled."""

from __future__ import annotations

import datetime
import lzma
import struct
import uuid
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ml4ad.dqmio.layouts import (
    LAYOUTS,
    Encoder,
    Instance,
    class_reference,
    streamer_infos,
    string_bytes,
)

Bytes = NDArray[np.uint8]

_ROOT_VERSION = 62407
_BEGIN = 100
_BLOCK = 0xFFFFFF
# Beyond this position ROOT stores 64 bits per address, and says so in the version.
BIG_FILE = 2_000_000_000
_BIG_KEY, _BIG_HEADER = 1000, 1_000_000
_NO_REFERENCES = np.empty((0, 2), dtype=np.int64)


# -- compression -----------------------------------------------------------------------------------


def _zlib(level: int) -> Callable[[Any], bytes]:
    if level == 1:
        from isal import isal_zlib

        # The same format as zlib's level 1, of about its size, several times faster.
        return lambda data: isal_zlib.compress(data, 1)
    return lambda data: zlib.compress(data, level)


def _lzma(level: int) -> Callable[[Any], bytes]:
    return lambda data: lzma.compress(data, check=lzma.CHECK_CRC32, preset=level)


def _lz4(level: int) -> Callable[[Any], bytes]:
    import lz4.block
    import xxhash

    options = {"mode": "high_compression", "compression": level} if level > 3 else {}

    def pack(data: Any) -> bytes:
        packed = lz4.block.compress(data, store_size=False, **options)
        return xxhash.xxh64(packed).digest() + packed

    return pack


def _zstd(level: int) -> Callable[[Any], bytes]:
    import zstandard

    return zstandard.ZstdCompressor(level=level).compress


@dataclass(frozen=True)
class _Algorithm:
    code: int
    magic: bytes
    maker: Callable[[int], Callable[[Any], bytes]]
    default_level: int


_ALGORITHMS = {
    "zlib": _Algorithm(1, b"ZL\x08", _zlib, 1),
    "lzma": _Algorithm(2, b"XZ\x00", _lzma, 4),
    "lz4": _Algorithm(4, b"L4\x01", _lz4, 1),
    "zstd": _Algorithm(5, b"ZS\x01", _zstd, 3),
}
COMPRESSIONS = (*_ALGORITHMS, "none")


class Compressor:
    """ROOT's compression blocks: ``compression`` is one of `COMPRESSIONS`, ``level`` 1 to 9.

    Raises ValueError for any other.
    """

    def __init__(self, compression: str = "zlib", level: int | None = None) -> None:
        self.setting = 0
        self._algorithm = _ALGORITHMS.get(compression)
        if compression not in COMPRESSIONS:
            raise ValueError(f"compression {compression!r}, want one of {', '.join(COMPRESSIONS)}")
        if self._algorithm is None:
            if level not in (None, 0):
                raise ValueError(f"level {level} of no compression, want none")
            return
        chosen = self._algorithm.default_level if level is None else level
        if not isinstance(chosen, int) or not 1 <= chosen <= 9:
            raise ValueError(f"compression level {chosen!r} of {compression}, want 1 to 9")
        self.setting = 100 * self._algorithm.code + chosen
        self._pack = self._algorithm.maker(chosen)

    def pack(self, data: Any) -> Any:
        """Compressed blocks of ``data``, or ``data`` itself where they would not be smaller."""
        if self._algorithm is None:
            return data
        view = memoryview(data)
        blocks = []
        for start in range(0, len(view), _BLOCK):
            piece = view[start : start + _BLOCK]
            packed = self._pack(piece)
            if len(packed) > _BLOCK:
                return data
            sizes = len(packed).to_bytes(3, "little") + len(piece).to_bytes(3, "little")
            blocks += [self._algorithm.magic, sizes, packed]
        out = b"".join(blocks)
        return out if len(out) < len(view) else data


# -- the file --------------------------------------------------------------------------------------


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


# -- trees -----------------------------------------------------------------------------------------


class Branch:
    """One column of a tree; a basket is written whenever enough entries are there.

    ``leaf`` holds the members of its leaf, ``members`` those in which its class differs from an
    ordinary branch. ``item_size`` is 0 where the entries differ in length.
    """

    def __init__(
        self,
        file: RootFile,
        tree: str,
        name: str,
        *,
        leaf: Instance,
        class_name: str = "TBranch",
        members: dict[str, Any] | None = None,
        item_size: int = 0,
        basket_size: int = 32000,
    ) -> None:
        self._file, self._tree, self.name = file, tree, name
        self.leaf = leaf
        self._class_name, self._members = class_name, members or {}
        self._item_size, self._basket_size = item_size, basket_size
        self._data = np.empty(0, dtype=np.uint8)
        self._lengths = np.empty(0, dtype=np.int64)
        self._references = _NO_REFERENCES
        self._first_entries = [0]
        self._baskets: list[tuple[int, int]] = []
        self.total_bytes = self.stored_bytes = 0

    @property
    def n_entries(self) -> int:
        """Number of entries, those not yet written included."""
        return self._first_entries[-1] + len(self._lengths)

    def fill(
        self, data: Bytes, lengths: NDArray[np.int64], references: NDArray[np.int64] | None = None
    ) -> None:
        """Append entries: their bytes on end, and the length of each.

        ``references`` is ``(n, 2)``: positions in ``data`` that are to name a class written at
        another position of the same entry.
        """
        if references is None:
            references = _NO_REFERENCES
        references = np.concatenate([self._references, references + len(self._data)])
        data = np.concatenate([self._data, data]) if len(self._data) else data
        lengths = np.concatenate([self._lengths, lengths])
        ends = np.cumsum(lengths)
        first = begin = 0
        while first < len(lengths):
            last = int(np.searchsorted(ends, begin + self._basket_size, side="right"))
            if last == len(lengths) and ends[-1] - begin < self._basket_size:
                break
            last = max(last, first + 1)
            end = int(ends[last - 1])
            inside = (references[:, 0] >= begin) & (references[:, 0] < end)
            self._write_basket(data[begin:end], lengths[first:last], references[inside] - begin)
            first, begin = last, end
        self._data, self._lengths = data[begin:].copy(), lengths[first:].copy()
        self._references = references[references[:, 0] >= begin] - begin

    def fill_values(self, values: NDArray[Any]) -> None:
        """Append one number per entry."""
        plain = np.ascontiguousarray(values).view(np.uint8)
        self.fill(plain, np.full(len(values), self._item_size, dtype=np.int64))

    def fill_texts(self, texts: Sequence[str]) -> None:
        """Append one text per entry."""
        pieces = [string_bytes(text) for text in texts]
        lengths = np.fromiter(map(len, pieces), dtype=np.int64, count=len(pieces))
        self.fill(np.frombuffer(b"".join(pieces), dtype=np.uint8), lengths)

    def flush(self) -> None:
        """Write the entries that wait for a full basket."""
        if len(self._lengths):
            self._write_basket(self._data, self._lengths, self._references)
            self._data, self._lengths = self._data[:0], self._lengths[:0]
            self._references = _NO_REFERENCES

    def _write_basket(
        self, data: Bytes, lengths: NDArray[np.int64], references: NDArray[np.int64]
    ) -> None:
        # Behind the key's usual members: version, sizes and counts of the basket, and a flag 0.
        form = struct.Struct(">HiiiiB")
        key_length = self._file.key_length("TBasket", self.name, self._tree, form.size)
        if len(references):
            data = data.copy()
            named = class_reference(references[:, 1] + key_length).astype(">u4")
            places = references[:, :1] + np.arange(4)
            data[places] = named.view(np.uint8).reshape(-1, 4)
        n_entries, last = len(lengths), key_length + len(data)
        content: Any = data
        if not self._item_size:
            # Where the entries start, counted from the key, after their number plus one.
            table = np.zeros(n_entries + 2, dtype=">i4")
            table[0] = n_entries + 1
            table[1:-1] = key_length + np.cumsum(lengths) - lengths
            content = np.concatenate([data, table.view(np.uint8)])
        per_entry = self._item_size or max(n_entries, 1000)
        extra = form.pack(3, self._basket_size, per_entry, n_entries, last, 0)
        packed = self._file.compressor.pack(content)
        key = self._file.basket(self.name, self._tree, packed, extra, len(content))
        self._baskets.append((key_length + len(packed), key.position))
        self._first_entries.append(self._first_entries[-1] + n_entries)
        self.total_bytes += key_length + len(content)
        self.stored_bytes += key_length + len(packed)

    def instance(self) -> Instance:
        """The branch as an object of the tree."""
        n_baskets = len(self._baskets)
        room = max(10, n_baskets + 1)

        def padded(values: list[int]) -> list[int]:
            return values + [0] * (room - len(values))

        values = {
            "fName": self.name,
            "fTitle": self.name,
            "fBits": 0x03400000,
            "fFillStyle": 1001,
            "fCompress": self._file.compressor.setting,
            "fBasketSize": self._basket_size,
            "fEntryOffsetLen": 0 if self._item_size else 1000,
            "fWriteBasket": n_baskets,
            "fEntryNumber": self.n_entries,
            "fMaxBaskets": room,
            "fEntries": self.n_entries,
            "fTotBytes": self.total_bytes,
            "fZipBytes": self.stored_bytes,
            "fLeaves": [self.leaf],
            "fBasketBytes": padded([size for size, _ in self._baskets]),
            "fBasketEntry": padded(self._first_entries),
            "fBasketSeek": padded([position for _, position in self._baskets]),
        }
        return Instance(self._class_name, values | self._members)


# Type letter of ROOT's leaf lists -> class of the leaf, dtype.
_LEAVES = {
    "i": ("TLeafI", ">u4"),
    "l": ("TLeafL", ">u8"),
    "L": ("TLeafL", ">i8"),
    "D": ("TLeafD", ">f8"),
}


class Tree:
    """A tree being written; ``title`` and its branches are as CMSSW makes them."""

    def __init__(self, file: RootFile, name: str, title: str = "") -> None:
        self._file, self.name, self._title = file, name, title or name
        self.branches: dict[str, Branch] = {}
        self._dtypes: dict[str, str] = {}

    def number(self, name: str, letter: str) -> None:
        """Add a branch of numbers: ``i`` uint32, ``l`` uint64, ``L`` int64, ``D`` float64."""
        class_name, dtype = _LEAVES[letter]
        size = np.dtype(dtype).itemsize
        leaf = {"fName": name, "fTitle": name, "fLen": 1, "fLenType": size}
        leaf["fIsUnsigned"] = letter.islower()
        self._dtypes[name] = dtype
        self.branches[name] = Branch(
            self._file,
            self.name,
            name,
            leaf=Instance(class_name, leaf),
            members={"fTitle": f"{name}/{letter}"},
            item_size=size,
        )

    def text(self, name: str) -> None:
        """Add a branch of std::string."""
        leaf = {"fName": name, "fTitle": name, "fLen": 1, "fLenType": 4, "fID": -1, "fType": -1}
        # What ROOT itself writes for a class that it knows without a description.
        members = {"fClassName": "string", "fCheckSum": 41797, "fClassVersion": 2}
        members |= {"fID": -1, "fType": -1, "fStreamerType": -1}
        self.branches[name] = Branch(
            self._file,
            self.name,
            name,
            leaf=Instance("TLeafElement", leaf),
            class_name="TBranchElement",
            members=members,
        )

    def objects(self, name: str, class_name: str, *, framed: bool, basket_size: int) -> None:
        """Add a branch of whole objects, with their class and frame or bare."""
        leaf: dict[str, Any] = {"fName": name, "fTitle": name, "fLen": 1, "fLenType": 4}
        members: dict[str, Any] = {"fClassName": class_name}
        if framed:
            leaf |= {"fTitle": class_name, "fVirtual": True}
            members |= {"fBits": 0x03008000}
        else:
            leaf |= {"fID": -1}
            layout = LAYOUTS[class_name]
            members |= {"fCheckSum": layout.checksum, "fClassVersion": layout.version}
            members |= {"fID": -1, "fStreamerType": -1, "fBits": 0x03001000}
        self.branches[name] = Branch(
            self._file,
            self.name,
            name,
            leaf=Instance("TLeafObject" if framed else "TLeafElement", leaf),
            class_name="TBranchObject" if framed else "TBranchElement",
            members=members,
            basket_size=basket_size,
        )

    def fill(self, **columns: Any) -> None:
        """Append rows to branches of numbers and texts, a column each."""
        for name, values in columns.items():
            if name in self._dtypes:
                self.branches[name].fill_values(np.asarray(values).astype(self._dtypes[name]))
            else:
                self.branches[name].fill_texts(values)

    def close(self, directory: Directory) -> None:
        """Write what waits, and the tree itself into ``directory``."""
        for branch in self.branches.values():
            branch.flush()
        made = list(self.branches.values())
        counts = {branch.n_entries for branch in made}
        if len(counts) != 1:
            raise ValueError(f"tree {self.name}: branches of {sorted(counts)} entries")
        n_entries, total = counts.pop(), sum(branch.total_bytes for branch in made)
        values = {
            "fName": self.name,
            "fTitle": self._title,
            "fBits": 0x03000008,
            "fLineColor": 602,
            "fLineStyle": 1,
            "fLineWidth": 1,
            "fFillStyle": 1001,
            "fMarkerColor": 1,
            "fMarkerStyle": 1,
            "fMarkerSize": 1.0,
            "fEntries": n_entries,
            "fTotBytes": total,
            "fZipBytes": sum(branch.stored_bytes for branch in made),
            "fFlushedBytes": 0,
            "fWeight": 1.0,
            "fScanField": 25,
            "fDefaultEntryOffsetLen": 1000,
            "fMaxEntries": 1_000_000_000_000,
            "fMaxEntryLoop": 1_000_000_000_000,
            "fAutoSave": -300_000_000,
            "fAutoFlush": -30_000_000,
            "fEstimate": 1_000_000,
            "fBranches": [branch.instance() for branch in made],
            "fLeaves": [branch.leaf for branch in made],
        }
        encoder = Encoder(self._file.key_length("TTree", self.name, self._title))
        encoder.record("TTree", values)
        self._file.add(directory, "TTree", self.name, self._title, bytes(encoder.data))
