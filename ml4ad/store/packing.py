"""Arrays of lumisections to bytes and back, exactly: dtype, NaN payloads and -0.0 included.

A packed block is a header, then its columns. Per-bin arrays are narrowed to the smallest integers
that hold them exactly, turned so that the lumisections of a bin stand side by side (a bin without
detector behind it is one run of zeros), and compressed by blosc2 with Zstandard and the filter that
suits them. Small columns (lumisections, entries, running sums) are narrowed and compressed
together. What equals an earlier column bit for bit, as Sumw2 of unweighted fills does, costs 4
bytes.

    magic "mb", version, number of columns n; checksum of all that follows (XXH3, seed n, low 32
    bits)
    n_ls, cells of a lumisection, bytes of the small columns: as stored, as joined
    per column: what it is, dtype, dtype as stored (of an equal one: which), how it is stored
    per compressed column: its bytes
    the small columns, the compressed ones

All little-endian. Cells are in ROOT's order, x fastest, which is the order in memory of the arrays
that the reader gives. Nothing is decompressed before checksum and lengths have been found right.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import blosc2
import numpy as np
import xxhash
from numpy.typing import NDArray

VERSION = 1
_MAGIC = b"mb"
_FLOAT = np.dtype("<f4")
_UNSIGNED = {size: np.dtype(f"<u{size}") for size in (1, 2, 4, 8)}
_MASK = 0xFFFFFFFF
_HEADER = struct.Struct("<2sBBI")
_SIZES = struct.Struct("<IIII")
_COLUMN = struct.Struct("<BBBB")

#: Columns of a block, by their number in the bytes: never renumber. The last three are small.
COLUMNS = (
    *("contents", "sumw2", "sum_of_weights", "sum_of_weights_squared"),
    *("ls_numbers", "entries", "statistics"),
)
_SMALL = frozenset(("ls_numbers", "entries", "statistics"))
#: dtypes by their number in the bytes: never renumber.
_DTYPES = tuple(
    np.dtype(code) for code in ("u1", "i1", "<u2", "<i2", "<u4", "<i4", "<i8", "<f4", "<f8", "<u8")
)
_DTYPE_NUMBERS = {dtype: number for number, dtype in enumerate(_DTYPES)}

# How a column is stored: compressed by itself, among the small ones, or as an earlier one.
_PACKED, _JOINED, _SAME = 0, 1, 2
# Bytes of a column that are tried to see which filter suits it.
_TRIED = 16 * 1024

# blosc2's own limit is 2 GiB a buffer; a block is far smaller, see ml4ad.store.blocks.
_LARGEST = 2**31 - 2**20


class DamagedBlockError(ValueError):
    """The bytes of a block are not what was stored."""


@dataclass(frozen=True)
class _Column:
    name: str
    dtype: np.dtype[Any]
    stored: int  # number of the dtype in the bytes; of the column that this one equals
    how: int


def pack(columns: Mapping[str, NDArray[Any]]) -> bytes:
    """Bytes that hold the arrays; axis 0 of each is the lumisection.

    Raises ValueError for no lumisections, an unknown column, a dtype that DQMIO does not have,
    arrays of unequal shape, or more than 2 GB in one array.
    """
    if unknown := set(columns) - set(COLUMNS):
        raise ValueError(f"columns {sorted(unknown)}, want some of {', '.join(COLUMNS)}")
    n_ls = len(columns["ls_numbers"])
    if not n_ls:
        raise ValueError("a block of no lumisections, want at least one")
    given = {name: _checked(name, columns[name], n_ls) for name in COLUMNS if name in columns}
    large = {name: array for name, array in given.items() if name not in _SMALL}
    cells = {array.size // n_ls for array in large.values()}
    if len(cells) > 1:
        raise ValueError(f"arrays of {sorted(cells)} cells in each lumisection, want one number")
    described, packed = _pack_large(large, n_ls)
    small, joined = _pack_small({name: given[name] for name in given if name in _SMALL})
    described += small
    squeezed = _compress(np.frombuffer(joined, dtype=np.uint8))
    if len(squeezed) >= len(joined):
        squeezed = joined
    body = b"".join(
        (
            _SIZES.pack(n_ls, cells.pop() if cells else 0, len(squeezed), len(joined)),
            *(_COLUMN.pack(*column) for column in described),
            struct.pack(f"<{len(packed)}I", *map(len, packed)),
            squeezed,
            *packed,
        )
    )
    checksum = _checksum(body, len(described))
    return _HEADER.pack(_MAGIC, VERSION, len(described), checksum) + body


_Described = list[tuple[int, int, int, int]]


def _pack_large(arrays: Mapping[str, NDArray[Any]], n_ls: int) -> tuple[_Described, list[bytes]]:
    described, packed = [], []
    seen: dict[str, NDArray[Any]] = {}
    for name, array in arrays.items():
        key = (COLUMNS.index(name), _DTYPE_NUMBERS[array.dtype])
        twin = _twin(array, seen)
        if twin is not None:
            described.append((*key, COLUMNS.index(twin), _SAME))
            continue
        seen[name] = array
        stored = narrowed(array)
        by_bin = np.ascontiguousarray(stored.reshape(n_ls, -1).T)
        packed.append(_compress(by_bin))
        described.append((*key, _DTYPE_NUMBERS[stored.dtype], _PACKED))
    return described, packed


def _pack_small(arrays: Mapping[str, NDArray[Any]]) -> tuple[_Described, bytes]:
    described = []
    rows: dict[tuple[np.dtype[Any], np.dtype[Any], bytes], int] = {}
    for name, array in arrays.items():
        key = (COLUMNS.index(name), _DTYPE_NUMBERS[array.dtype])
        for stored in _narrowed_rows(_rows(array)):
            row = (array.dtype, stored.dtype, stored.tobytes())
            if row in rows:
                described.append((*key, rows[row], _SAME))
                continue
            rows[row] = len(rows)
            described.append((*key, _DTYPE_NUMBERS[stored.dtype], _JOINED))
    return described, b"".join(data for _, _, data in rows)


def _checksum(body: bytes | memoryview, n_columns: int) -> int:
    return xxhash.xxh3_64_intdigest(body, seed=n_columns) & _MASK


def _checked(name: str, array: NDArray[Any], n_ls: int) -> NDArray[Any]:
    if array.dtype.newbyteorder("<") not in _DTYPE_NUMBERS:
        raise ValueError(f"{name} of dtype {array.dtype}, want one of {[str(d) for d in _DTYPES]}")
    if len(array) != n_ls:
        raise ValueError(f"{name} of {len(array)} rows for {n_ls} lumisections")
    if array.nbytes > _LARGEST:
        raise ValueError(f"{name} of {array.nbytes} bytes in one block, want at most {_LARGEST}")
    return np.ascontiguousarray(in_file_order(array), dtype=array.dtype.newbyteorder("<"))


def in_file_order(array: NDArray[Any]) -> NDArray[Any]:
    """View of ``(n_ls, nx, ny, nz)`` as ``(n_ls, nz, ny, nx)``, and the other way round."""
    return array.transpose(0, *range(array.ndim - 1, 0, -1))


def empty(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Array of ``(n_ls, nx, ny, nz)`` with memory in ROOT's order, as `Packed.fill` likes it."""
    return in_file_order(np.empty((shape[0], *shape[:0:-1]), dtype=dtype))


def _rows(array: NDArray[Any]) -> NDArray[Any]:
    """Each quantity by itself: ``(n_ls, n)`` is stored as n rows of ``n_ls``."""
    return np.ascontiguousarray(array.reshape(len(array), -1).T)


def _narrowed_rows(rows: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Rows of integers in the smallest dtype, the others as they are."""
    with np.errstate(invalid="ignore"):
        numbers = rows.astype(np.int64)
        whole = (_bits(numbers.astype(rows.dtype)) == _bits(rows)).all(axis=1)
    lows, highs = numbers.min(axis=1).tolist(), numbers.max(axis=1).tolist()
    for row, is_whole, low, high in zip(rows, whole.tolist(), lows, highs, strict=True):
        dtype = _integers(low, high) if is_whole else None
        yield row if dtype is None or dtype.itemsize >= row.dtype.itemsize else row.astype(dtype)


_LIMITS = tuple(
    (np.iinfo(code).min, np.iinfo(code).max, np.dtype(code))
    for code in ("u1", "i1", "<u2", "<i2", "<u4", "<i4")
)


def _integers(low: float, high: float) -> np.dtype[Any] | None:
    """Smallest integer dtype of that range; None for NaN or a range that is too large."""
    for least, most, dtype in _LIMITS:
        if least <= low and high <= most:
            return dtype
    return None


def _twin(array: NDArray[Any], seen: Mapping[str, NDArray[Any]]) -> str | None:
    """Earlier column that gives this one, bit for bit, when it is cast to this one's dtype."""
    for name, other in seen.items():
        if other.shape == array.shape:
            # The first lumisection tells most of them apart.
            first = _same_bits(other[:1].astype(array.dtype), array[:1])
            if first and _same_bits(other.astype(array.dtype), array):
                return name
    return None


def _same_bits(ours: NDArray[Any], theirs: NDArray[Any]) -> bool:
    return bool((_bits(ours) == _bits(theirs)).all())


def _bits(array: NDArray[Any]) -> NDArray[Any]:
    return array.view(_UNSIGNED[array.dtype.itemsize])


def narrowed(array: NDArray[Any]) -> NDArray[Any]:
    """The array in the smallest dtype from which a cast gives it back bit for bit.

    >>> narrowed(np.array([0.0, 3.0, 255.0])).dtype, narrowed(np.array([0.5, -0.0])).dtype
    (dtype('uint8'), dtype('float32'))
    """
    for dtype in _narrower(array):
        # A small part tells in most cases that it cannot be.
        if _survives(array[:1], dtype) is not None:
            smaller = _survives(array, dtype)
            if smaller is not None:
                return smaller
    return array


def _survives(array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any] | None:
    with np.errstate(invalid="ignore", over="ignore"):
        smaller = array.astype(dtype)
    return smaller if _same_bits(smaller.astype(array.dtype), array) else None


def _narrower(array: NDArray[Any]) -> list[np.dtype[Any]]:
    """Smaller dtypes that may do: the one kind of integers that has the range, then floats."""
    if not array.size:
        return []
    integers = _integers(array.min().item(), array.max().item())
    found = [] if integers is None else [integers]
    if array.dtype.kind == "f":
        found.append(_FLOAT)
    return [dtype for dtype in found if dtype.itemsize < array.dtype.itemsize]


def _compress(array: NDArray[Any]) -> bytes:
    """Bytes of an array, with the filter that suits a part of it best."""
    if not array.size:
        return b""
    flat = array.reshape(-1)
    # Of one byte, shuffling bytes is nothing.
    filters = (blosc2.Filter.BITSHUFFLE, blosc2.Filter.SHUFFLE)
    n_tried = _TRIED // flat.itemsize
    if len(flat) <= n_tried:
        return min((_compress_with(flat, each) for each in filters), key=len)
    middle = (len(flat) - n_tried) // 2
    part = flat[middle : middle + n_tried]
    best = min(filters, key=lambda each: len(_compress_with(part, each)))
    return _compress_with(flat, best)


def _compress_with(array: NDArray[Any], applied: blosc2.Filter) -> bytes:
    return blosc2.compress2(
        array,
        typesize=array.dtype.itemsize,
        clevel=1,
        filters=[applied],
        codec=blosc2.Codec.ZSTD,
        nthreads=1,
    )


# -- and back ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Packed:
    """A block's bytes, found whole; its arrays are made when asked for."""

    n_ls: int
    cells: int
    columns: tuple[_Column, ...]
    joined: memoryview
    joined_bytes: int
    packed: Mapping[str, memoryview]

    def names(self) -> list[str]:
        """Columns that are here."""
        return list(dict.fromkeys(column.name for column in self.columns))

    def dtype(self, name: str) -> np.dtype[Any]:
        """The dtype in which column ``name`` was given."""
        return next(c.dtype for c in self.columns if c.name == name)

    def small(self) -> dict[str, NDArray[Any]]:
        """The small columns: ``(n_ls,)``, and ``(n_ls, n)`` of statistics."""
        joined: Any = self.joined
        if len(joined) != self.joined_bytes:
            joined = _decompress(joined, self.joined_bytes)
        different: list[NDArray[Any]] = []
        rows: dict[str, list[NDArray[Any]]] = {}
        at = 0
        for column in self.columns:
            if column.name not in _SMALL:
                continue
            if column.how == _SAME:
                row = different[column.stored]
            else:
                stored = _DTYPES[column.stored]
                row = np.frombuffer(joined, dtype=stored, count=self.n_ls, offset=at)
                different.append(row)
                at += row.nbytes
            rows.setdefault(column.name, []).append(row.astype(column.dtype))
        plain = {name: found[0] for name, found in rows.items() if name != "statistics"}
        if "statistics" in rows:
            plain["statistics"] = np.stack(rows["statistics"], axis=1)
        return plain

    def fill(self, name: str, out: NDArray[Any]) -> None:
        """Write a per-bin column into ``out``, ``(n_ls, ...)``, cast to its dtype.

        Raises DamagedBlockError if the shapes do not fit, KeyError if the column is not here.
        """
        column = {c.name: c for c in self.columns}[name]
        if out.size != self.cells * self.n_ls:
            raise DamagedBlockError(
                f"{name}: {self.cells} cells in each of {self.n_ls} lumisections, want {out.shape}"
            )
        if column.how == _SAME:
            self.fill(COLUMNS[column.stored], out)
        elif out.size:
            stored = _DTYPES[column.stored]
            plain = _decompress(self.packed[name], out.size * stored.itemsize)
            by_bin = np.frombuffer(plain, dtype=stored).reshape(self.cells, self.n_ls)
            target = in_file_order(out)
            # Turned while it is narrow, then widened along the memory.
            target[...] = np.ascontiguousarray(by_bin.T).reshape(target.shape)


def unpack(data: bytes | memoryview) -> Packed:
    """The block of these bytes, checked; raises DamagedBlockError, saying what is wrong."""
    view = memoryview(data)
    if len(view) < _HEADER.size + _SIZES.size:
        raise DamagedBlockError(f"a block of {len(view)} bytes, want at least a header")
    magic, version, n_columns, checksum = _HEADER.unpack_from(view)
    if magic != _MAGIC:
        raise DamagedBlockError(f"a block that starts with {magic!r}, want {_MAGIC!r}")
    if version != VERSION:
        raise DamagedBlockError(f"a block of format {version}, want {VERSION}: update ml4ad")
    if _checksum(view[_HEADER.size :], n_columns) != checksum:
        raise DamagedBlockError("the checksum of a block is wrong: its bytes have changed")
    n_ls, cells, small, joined = _SIZES.unpack_from(view, _HEADER.size)
    at = _HEADER.size + _SIZES.size
    columns = []
    for _ in range(n_columns):
        number, dtype, stored, how = _COLUMN.unpack_from(view, at)
        columns.append(_Column(COLUMNS[number], _DTYPES[dtype], stored, how))
        at += _COLUMN.size
    names = [column.name for column in columns if column.how == _PACKED]
    sizes = struct.unpack_from(f"<{len(names)}I", view, at)
    at += 4 * len(names)
    if at + small + sum(sizes) != len(view):
        raise DamagedBlockError(f"a block of {len(view)} bytes, want {at + small + sum(sizes)}")
    squeezed = view[at : at + small]
    at += small
    packed = {}
    for name, size in zip(names, sizes, strict=True):
        packed[name] = view[at : at + size]
        at += size
    return Packed(n_ls, cells, tuple(columns), squeezed, joined, packed)


def _decompress(data: Any, nbytes: int) -> bytearray | bytes:
    try:
        plain = blosc2.decompress(data)
    except (RuntimeError, ValueError) as error:
        raise DamagedBlockError(f"a column does not decompress: {error}") from error
    if len(plain) != nbytes:
        raise DamagedBlockError(f"a column of {len(plain)} bytes, want {nbytes}")
    return plain
