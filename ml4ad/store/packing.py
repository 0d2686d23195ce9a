"""Arrays of lumisections to bytes and back, exactly: dtype, NaN payloads and -0.0 included.

A packed block is a header, then its columns. Per-bin arrays are narrowed to the smallest integers
that hold them exactly, bit-shuffled and compressed by blosc2 with Zstandard. Small columns
(lumisections, entries, running sums) are narrowed and compressed together. A column that equals
an earlier one bit for bit, as Sumw2 of unweighted fills does, costs nothing.

    magic "mb", version, number of columns; checksum of all that follows (XXH3, low 32 bits)
    n_ls, bytes of the small columns: as packed, as joined
    per column: what it is, dtype, stored dtype, how it is stored; cells per lumisection, bytes

All little-endian. Nothing is decompressed before checksum and lengths have been found right.
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
_SIZES = struct.Struct("<III")
_COLUMN = struct.Struct("<BBBBII")

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

# How a column is stored.
_PACKED, _JOINED, _SAME = 0, 1, 2

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
    cells: int
    size: int


def pack(columns: Mapping[str, NDArray[Any]]) -> bytes:
    """Bytes that hold the arrays; axis 0 of each is the lumisection.

    Raises ValueError for no lumisections, an unknown column, a dtype that DQMIO does not have,
    arrays of unequal length, or more than 2 GB in one array.
    """
    n_ls = len(columns["ls_numbers"])
    if not n_ls:
        raise ValueError("a block of no lumisections, want at least one")
    described, large, small = [], [], []
    seen: dict[str, NDArray[Any]] = {}
    for number, name in enumerate(COLUMNS):
        array = columns.get(name)
        if array is None:
            continue
        array = _checked(name, array, n_ls)
        dtype = _DTYPE_NUMBERS[array.dtype]
        cells = array.size // n_ls
        twin = None if name in _SMALL else _twin(array, seen)
        if twin is not None:
            described.append((number, dtype, COLUMNS.index(twin), _SAME, cells, 0))
            continue
        seen[name] = array
        if name in _SMALL:
            for stored in _narrowed_rows(_rows(array)):
                small.append(stored.tobytes())
                kind = _DTYPE_NUMBERS[stored.dtype]
                described.append((number, dtype, kind, _JOINED, 1, len(small[-1])))
        else:
            stored = narrowed(array)
            large.append(_compress(stored))
            kind = _DTYPE_NUMBERS[stored.dtype]
            described.append((number, dtype, kind, _PACKED, cells, len(large[-1])))
    if unknown := set(columns) - set(COLUMNS):
        raise ValueError(f"columns {sorted(unknown)}, want some of {', '.join(COLUMNS)}")
    joined = b"".join(small)
    squeezed = _compress(np.frombuffer(joined, dtype=np.uint8)) if joined else b""
    if len(squeezed) >= len(joined):
        squeezed = joined
    body = b"".join(
        (
            _SIZES.pack(n_ls, len(squeezed), len(joined)),
            *(_COLUMN.pack(*column) for column in described),
            squeezed,
            *large,
        )
    )
    checksum = xxhash.xxh3_64_intdigest(body) & _MASK
    return _HEADER.pack(_MAGIC, VERSION, len(described), checksum) + body


def _checked(name: str, array: NDArray[Any], n_ls: int) -> NDArray[Any]:
    if array.dtype.newbyteorder("<") not in _DTYPE_NUMBERS:
        raise ValueError(f"{name} of dtype {array.dtype}, want one of {[str(d) for d in _DTYPES]}")
    if len(array) != n_ls:
        raise ValueError(f"{name} of {len(array)} rows for {n_ls} lumisections")
    if array.nbytes > _LARGEST:
        raise ValueError(f"{name} of {array.nbytes} bytes in one block, want at most {_LARGEST}")
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))


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
    if not array.size:
        return b""
    # Counts differ in few bits; the bytes of true floats only compress by exponent.
    shuffle = blosc2.Filter.SHUFFLE if array.dtype.kind == "f" else blosc2.Filter.BITSHUFFLE
    return blosc2.compress2(
        array,
        typesize=array.dtype.itemsize,
        clevel=1,
        filters=[shuffle],
        codec=blosc2.Codec.ZSTD,
        nthreads=1,
    )


# -- and back ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Packed:
    """A block's bytes, found whole; its arrays are made when asked for."""

    n_ls: int
    columns: tuple[_Column, ...]
    data: memoryview
    squeezed: tuple[int, int, int]  # offset and bytes of the small columns, bytes when joined

    def names(self) -> list[str]:
        """Columns that are here."""
        return list(dict.fromkeys(column.name for column in self.columns))

    def dtype(self, name: str) -> np.dtype[Any]:
        """The dtype in which column ``name`` was given."""
        return next(c.dtype for c in self.columns if c.name == name)

    def small(self) -> dict[str, NDArray[Any]]:
        """The small columns: ``(n_ls,)``, and ``(n_ls, n)`` of statistics."""
        offset, size, length = self.squeezed
        joined: Any = self.data[offset : offset + size]
        if size != length:
            joined = _decompress(joined, length)
        rows: dict[str, list[NDArray[Any]]] = {}
        at = 0
        for column in self.columns:
            if column.how == _JOINED:
                row = np.frombuffer(
                    joined, dtype=_DTYPES[column.stored], count=self.n_ls, offset=at
                )
                rows.setdefault(column.name, []).append(row.astype(column.dtype))
                at += column.size
        plain = {name: found[0] for name, found in rows.items() if name != "statistics"}
        if "statistics" in rows:
            plain["statistics"] = np.stack(rows["statistics"], axis=1)
        return plain

    def fill(self, name: str, out: NDArray[Any]) -> None:
        """Write a per-bin column into ``out``, ``(n_ls, ...)``, cast to its dtype.

        Raises DamagedBlockError if the shapes do not fit, KeyError if the column is not here.
        """
        offset = self.squeezed[0] + self.squeezed[1]
        for column in self.columns:
            if column.name == name:
                break
            offset += column.size if column.how == _PACKED else 0
        else:
            raise KeyError(name)
        if out.size != column.cells * self.n_ls:
            raise DamagedBlockError(
                f"{name}: {column.cells} cells in each of {self.n_ls} lumisections, "
                f"want {out.shape}"
            )
        if column.how == _SAME:
            self.fill(COLUMNS[column.stored], out)
        elif out.size:
            stored = _DTYPES[column.stored]
            packed = self.data[offset : offset + column.size]
            plain = _decompress(packed, out.size * stored.itemsize)
            out[...] = np.frombuffer(plain, dtype=stored).reshape(out.shape)


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
    if xxhash.xxh3_64_intdigest(view[_HEADER.size :]) & _MASK != checksum:
        raise DamagedBlockError("the checksum of a block is wrong: its bytes have changed")
    n_ls, small, joined = _SIZES.unpack_from(view, _HEADER.size)
    start = _HEADER.size + _SIZES.size
    columns = []
    for position in range(n_columns):
        number, dtype, stored, how, cells, size = _COLUMN.unpack_from(
            view, start + position * _COLUMN.size
        )
        columns.append(_Column(COLUMNS[number], _DTYPES[dtype], stored, how, cells, size))
    offset = start + n_columns * _COLUMN.size
    length = offset + small + sum(c.size for c in columns if c.how == _PACKED)
    if length != len(view):
        raise DamagedBlockError(f"a block of {len(view)} bytes, its columns need {length}")
    return Packed(n_ls, tuple(columns), view, (offset, small, joined))


def _decompress(data: Any, nbytes: int) -> bytearray | bytes:
    try:
        plain = blosc2.decompress(data)
    except (RuntimeError, ValueError) as error:
        raise DamagedBlockError(f"a column does not decompress: {error}") from error
    if len(plain) != nbytes:
        raise DamagedBlockError(f"a column of {len(plain)} bytes, want {nbytes}")
    return plain
