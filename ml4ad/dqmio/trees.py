"""Writing trees of a ROOT file, whose baskets go out as they are filled."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml4ad.dqmio.layouts import LAYOUTS, Bytes, Encoder, Instance, class_reference, string_bytes
from ml4ad.dqmio.rootfile import Directory, RootFile

_NO_REFERENCES = np.empty((0, 2), dtype=np.int64)


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
