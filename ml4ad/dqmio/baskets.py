"""The baskets of one branch: where they lie, and their entries as one array of bytes."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml4ad.dqmio.inflate import Bytes, inflate
from ml4ad.dqmio.source import CorruptFileError, Source

Ints = NDArray[np.int64]

_KEY = struct.Struct(">ihiIhh")
_BASKET = struct.Struct(">Hiiii?")
# ROOT fills baskets up to 30 MB or so; a length beyond this is a corrupt one.
_LARGEST = 1 << 29
# Compressed bytes that are read at once, and that a thread takes at once.
_READ_BYTES = 1 << 23
_COLUMN_BYTES = 1 << 24
_TASK_BYTES = 1 << 19


@dataclass(frozen=True)
class Loss:
    """Entries of a tree that could not be read, first to last, and why."""

    tree: str
    first: int
    last: int
    reason: str

    def __str__(self) -> str:
        return f"{self.tree}, entries {self.first} to {self.last}: {self.reason}"


@dataclass(frozen=True)
class Piece:
    """Entries of a branch: number ``numbers[i]`` is ``data[starts[i]:stops[i]]``.

    ``origins`` is the position of each entry from which ROOT counts its class references: that of
    the entry in its basket, key included.
    """

    data: Bytes
    starts: Ints
    stops: Ints
    origins: Ints
    numbers: Ints

    def __len__(self) -> int:
        return len(self.numbers)

    def select(self, chosen: NDArray[Any]) -> Piece:
        """The chosen entries, upon the same bytes."""
        return Piece(
            self.data,
            self.starts[chosen],
            self.stops[chosen],
            self.origins[chosen],
            self.numbers[chosen],
        )

    def compact(self) -> Piece:
        """The same entries upon no more bytes than they need."""
        view = self.data.data
        spans = zip(self.starts.tolist(), self.stops.tolist(), strict=True)
        data = np.frombuffer(b"".join([view[a:b] for a, b in spans]), dtype=np.uint8)
        stops = np.cumsum(self.stops - self.starts)
        starts = stops - (self.stops - self.starts)
        return Piece(data, starts, stops, self.origins, self.numbers)


def join(pieces: list[Piece]) -> Piece:
    """All entries in one piece."""
    if len(pieces) == 1:
        return pieces[0]
    shifts = np.cumsum([0] + [len(piece.data) for piece in pieces])
    return Piece(
        np.concatenate([piece.data for piece in pieces]),
        np.concatenate([p.starts + shift for p, shift in zip(pieces, shifts, strict=False)]),
        np.concatenate([p.stops + shift for p, shift in zip(pieces, shifts, strict=False)]),
        np.concatenate([piece.origins for piece in pieces]),
        np.concatenate([piece.numbers for piece in pieces]),
    )


@dataclass(frozen=True)
class _Key:
    """What the key in front of a basket says, and the compressed bytes behind it."""

    basket: int
    packed: memoryview
    key_length: int
    size: int
    n_bytes: int


class Branch:
    """One branch of a tree.

    Raises CorruptFileError if its table of baskets makes no sense; reading hands the loss of a
    basket to ``lose``, which raises or keeps account.
    """

    def __init__(self, source: Source, tree: str, branch: Any) -> None:
        self._source = source
        self.tree, self.name = tree, str(branch.name)
        self.n_entries = int(branch.num_entries)
        self._embedded = list(branch.embedded_baskets)
        n_stored = int(branch.num_baskets) - len(self._embedded)
        self._seeks = np.array(branch.member("fBasketSeek")[:n_stored], dtype=np.int64)
        self._sizes = np.array(branch.member("fBasketBytes")[:n_stored], dtype=np.int64)
        self.firsts: Ints = np.array(branch.entry_offsets, dtype=np.int64)
        self.stored_bytes = int(self._sizes.sum())
        self.class_name = str(branch.member("fClassName", none_if_missing=True) or "")
        self.is_object = branch.classname == "TBranchObject"
        within = (self._seeks >= 0) & (self._sizes > 0)
        within &= self._seeks + self._sizes <= source.size
        if not within.all() or len(self._seeks) != n_stored or len(self._sizes) != n_stored:
            raise CorruptFileError(f"{self.where}: a basket lies outside of the file")
        rises = len(self.firsts) == n_stored + len(self._embedded) + 1
        if not rises or (np.diff(self.firsts) < 0).any() or self.firsts[-1] != self.n_entries:
            raise CorruptFileError(f"{self.where}: baskets do not hold {self.n_entries} entries")

    @property
    def where(self) -> str:
        """Tree and branch, for messages."""
        return f"{self.tree}/{self.name}"

    def column(self, dtype: str, lose: Callable[[Loss], None]) -> NDArray[Any]:
        """All entries of a branch of numbers; 0 where they are lost."""
        native = np.dtype(dtype).newbyteorder("=")
        parts: list[tuple[int, NDArray[Any]]] = []
        for room, keys in self._rooms(np.arange(len(self.firsts) - 1), _COLUMN_BYTES, None, lose):
            for key, at in keys:
                n = self._count(key.basket)
                if key.n_bytes != n * native.itemsize:
                    reason = f"{key.n_bytes} bytes of numbers, want {n * native.itemsize}"
                    lose(self._loss(key.basket, reason))
                else:
                    values = room[at : at + key.n_bytes].view(dtype).astype(native)
                    parts.append((int(self.firsts[key.basket]), values))
        # Only what was read tells how many entries there are to make room for.
        n_room = max((first + len(values) for first, values in parts), default=0)
        out = np.zeros(n_room, dtype=native)
        for first, values in parts:
            out[first : first + len(values)] = values
        return out

    def pieces(
        self,
        chosen: NDArray[np.bool_] | None,
        n_bytes: int,
        pool: ThreadPoolExecutor | None,
        lose: Callable[[Loss], None],
    ) -> Iterator[Piece]:
        """The chosen entries (all if None), in order, in pieces of about ``n_bytes``."""
        baskets = np.flatnonzero(np.diff(self.firsts) > 0)
        if chosen is not None:
            before = np.concatenate([[0], np.cumsum(chosen)])
            stops = np.minimum(self.firsts, len(chosen))
            baskets = baskets[np.diff(before[stops])[baskets] > 0]
        pending: list[Piece] = []
        for room in self._rooms(baskets, n_bytes, pool, lose):
            pending += self._chosen_of(*room, chosen, lose)
            # Nothing here may keep the bytes alive while the piece is worked on.
            del room
            # A room that was needed whole is handed on as it is, without a copy.
            if 2 * sum(len(piece.data) for piece in pending) > n_bytes:
                ready, pending = [join(pending)], []
                yield ready.pop()
        if pending:
            yield join(pending)

    def _chosen_of(
        self,
        room: Bytes,
        keys: list[tuple[_Key, int]],
        chosen: NDArray[np.bool_] | None,
        lose: Callable[[Loss], None],
    ) -> list[Piece]:
        """The chosen entries of a room, in one piece; none if all are lost."""
        pieces = []
        for key, at in keys:
            try:
                pieces.append(self._entries(key, room, at))
            except ValueError as error:
                lose(self._loss(key.basket, str(error)))
        if not pieces:
            return []
        piece = _of_one_room(pieces)
        if chosen is not None:
            known = piece.numbers < len(chosen)
            known[known] = chosen[piece.numbers[known]]
            piece = piece.select(known)
            if 2 * int((piece.stops - piece.starts).sum()) < len(room):
                piece = piece.compact()
        return [piece]

    def _count(self, basket: int) -> int:
        return int(self.firsts[basket + 1] - self.firsts[basket])

    def _loss(self, basket: int, reason: str) -> Loss:
        return Loss(self.tree, int(self.firsts[basket]), int(self.firsts[basket + 1]) - 1, reason)

    def _rooms(
        self,
        baskets: Ints,
        n_bytes: int,
        pool: ThreadPoolExecutor | None,
        lose: Callable[[Loss], None],
    ) -> Iterator[tuple[Bytes, list[tuple[_Key, int]]]]:
        """Decompressed baskets side by side in rooms of at most about ``n_bytes``, with places."""
        stored = baskets[baskets < len(self._seeks)]
        waiting: list[_Key] = []
        size = 0
        for group in _grouped(stored, self._sizes[stored], min(_READ_BYTES, n_bytes)):
            ranges = [(int(self._seeks[b]), int(self._sizes[b])) for b in group]
            for basket, data in zip(group.tolist(), self._source.read_at(ranges), strict=True):
                try:
                    key = self._key(basket, data)
                except ValueError as error:
                    lose(self._loss(basket, str(error)))
                    continue
                if waiting and size + key.size > n_bytes:
                    ready, waiting, size = waiting, [], 0
                    yield self._room(ready, pool, lose)
                waiting.append(key)
                size += key.size
        if waiting:
            yield self._room(waiting, pool, lose)
        for basket in baskets[baskets >= len(self._seeks)].tolist():
            yield self._embedded_room(basket)

    def _embedded_room(self, basket: int) -> tuple[Bytes, list[tuple[_Key, int]]]:
        """A basket that lies, not compressed, in the description of its tree."""
        held = self._embedded[basket - len(self._seeks)]
        data = np.ascontiguousarray(held.data).view(np.uint8)
        n_bytes, length, offsets = len(data), int(held.member("fKeylen")), held.byte_offsets
        if offsets is not None:
            table = np.concatenate([[len(offsets)], offsets[:-1] + length, [0]])
            data = np.concatenate([data, table.astype(">i4").view(np.uint8)])
        return data, [(_Key(basket, memoryview(b""), length, len(data), n_bytes), 0)]

    def _room(
        self, keys: list[_Key], pool: ThreadPoolExecutor | None, lose: Callable[[Loss], None]
    ) -> tuple[Bytes, list[tuple[_Key, int]]]:
        ends = np.cumsum([key.size for key in keys]).tolist()
        room = np.empty(ends[-1], dtype=np.uint8)

        def work(part: Ints) -> list[str]:
            reasons = []
            for i in part.tolist():
                try:
                    inflate(keys[i].packed, room[ends[i] - keys[i].size : ends[i]])
                except ValueError as error:
                    reasons.append(f"{self.name}: {error}")
                else:
                    reasons.append("")
            return reasons

        packed = np.array([len(key.packed) for key in keys], dtype=np.int64)
        parts = list(_grouped(np.arange(len(keys)), packed, _TASK_BYTES))
        results = map(work, parts) if pool is None or len(parts) < 2 else pool.map(work, parts)
        reasons = [reason for part in results for reason in part]
        whole = []
        for key, end, reason in zip(keys, ends, reasons, strict=True):
            if reason:
                lose(self._loss(key.basket, reason))
            else:
                whole.append((key, end - key.size))
        return room, whole

    def _key(self, basket: int, data: bytes) -> _Key:
        n_bytes = int(self._sizes[basket])
        if len(data) < n_bytes or n_bytes < _KEY.size + _BASKET.size:
            raise ValueError(f"{self.name}: a basket of {len(data)} bytes, want {n_bytes}")
        told, _, size, _, key_length, _ = _KEY.unpack_from(data)
        if told != n_bytes or not _KEY.size + _BASKET.size <= key_length <= n_bytes:
            raise ValueError(f"{self.name}: the key of the basket is corrupt")
        _, _, _, n, last, _ = _BASKET.unpack_from(data, key_length - _BASKET.size)
        if n != self._count(basket) or not 0 <= last - key_length <= size <= _LARGEST:
            raise ValueError(f"{self.name}: the key of the basket is corrupt")
        return _Key(basket, memoryview(data)[key_length:], key_length, size, last - key_length)

    def _entries(self, key: _Key, room: Bytes, at: int) -> Piece:
        n, end = self._count(key.basket), at + key.n_bytes
        table = room[end : at + key.size]
        if n == 1 and len(table) < 8:
            starts = np.full(1, at, dtype=np.int64)
        else:
            if len(table) < 4 * (n + 1):
                raise ValueError(f"{self.name}: no table of {n} entries")
            starts = table[4 : 4 * (n + 1)].view(">i4").astype(np.int64) + (at - key.key_length)
        stops = np.append(starts[1:], end)
        if starts[0] < at or (stops < starts).any():
            raise ValueError(f"{self.name}: the table of entries is corrupt")
        numbers = np.arange(n, dtype=np.int64) + self.firsts[key.basket]
        return Piece(room, starts, stops, starts + (key.key_length - at), numbers)


def _of_one_room(pieces: list[Piece]) -> Piece:
    if len(pieces) == 1:
        return pieces[0]
    return Piece(
        pieces[0].data,
        np.concatenate([piece.starts for piece in pieces]),
        np.concatenate([piece.stops for piece in pieces]),
        np.concatenate([piece.origins for piece in pieces]),
        np.concatenate([piece.numbers for piece in pieces]),
    )


def _grouped(items: Ints, sizes: Ints, limit: int) -> Iterator[Ints]:
    """Runs of items whose sizes sum to at most ``limit``, or single ones beyond it."""
    start = total = 0
    for i, size in enumerate(sizes.tolist()):
        if i > start and total + size > limit:
            yield items[start:i]
            start, total = i, 0
        total += size
    if len(items) > start:
        yield items[start:]
