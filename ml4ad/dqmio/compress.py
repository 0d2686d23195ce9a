"""Compression as ROOT stores it: blocks of one of four algorithms, each with a header."""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_BLOCK = 0xFFFFFF


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
