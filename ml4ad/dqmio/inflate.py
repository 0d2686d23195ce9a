"""Decompression of ROOT's compressed blocks; no input makes it take more memory than it tells."""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
_HEADER = 9
# No writer makes a dictionary or window larger than this: more is a corrupt length.
_MEMORY = 1 << 28


def _zlib(data: memoryview, size: int) -> bytes:
    # isal is three times as fast as zlib; given the size as a limit it allocates exactly once.
    stream = isal_zlib.decompressobj()
    out = stream.decompress(data, size + 1)
    if not stream.eof:
        raise ValueError("ZL block without end")
    return out


def _lzma(data: memoryview, size: int) -> bytes:
    return lzma.LZMADecompressor(memlimit=_MEMORY).decompress(data, size + 1)


def _lz4(data: memoryview, size: int) -> bytes:
    import lz4.block
    import xxhash

    if xxhash.xxh64(data[8:]).digest() != bytes(data[:8]):
        raise ValueError("wrong checksum of an LZ4 block")
    return lz4.block.decompress(data[8:], uncompressed_size=size)


def _zstd(data: memoryview, size: int) -> bytes:
    import zstandard

    # A frame that declares a size is given that much memory, whatever the limit.
    if zstandard.frame_content_size(data) > size:
        raise ValueError("a Zstandard frame larger than its block")
    return zstandard.ZstdDecompressor(max_window_size=_MEMORY).decompress(
        data, max_output_size=size
    )


_ALGORITHMS: dict[bytes, Callable[[memoryview, int], bytes]] = {
    b"ZL": _zlib,
    b"XZ": _lzma,
    b"L4": _lz4,
    b"ZS": _zstd,
}


def _errors() -> tuple[Any, ...]:
    """Exceptions of the libraries that are no ValueError."""
    import lz4.block
    import zstandard

    return (
        zlib.error,
        isal_zlib.error,
        lzma.LZMAError,
        lz4.block.LZ4BlockError,
        zstandard.ZstdError,
        EOFError,
    )


_FAILURES = _errors()


def inflate(packed: memoryview, out: Bytes) -> None:
    """Fill ``out`` from the blocks in ``packed``.

    Raises ValueError, with the reason, if they do not give exactly that many bytes.
    """
    if len(packed) == len(out):
        out[:] = np.frombuffer(packed, dtype=np.uint8)
        return
    at = filled = 0
    while at < len(packed):
        head = bytes(packed[at : at + _HEADER])
        size = int.from_bytes(head[3:6], "little")
        unpacked = int.from_bytes(head[6:9], "little")
        algorithm = _ALGORITHMS.get(head[:2])
        if algorithm is None:
            raise ValueError(f"compression {head[:2]!r}, want one of {list(_ALGORITHMS)}")
        at += _HEADER
        if at + size > len(packed) or filled + unpacked > len(out):
            raise ValueError("a block is longer than its basket")
        try:
            data = algorithm(packed[at : at + size], unpacked)
        except _FAILURES as error:
            raise ValueError(f"{head[:2].decode()} block does not decompress: {error}") from error
        if len(data) != unpacked:
            raise ValueError(f"a block of {len(data)} bytes, want {unpacked}")
        out[filled : filled + unpacked] = np.frombuffer(data, dtype=np.uint8)
        at, filled = at + size, filled + unpacked
    if filled != len(out):
        raise ValueError(f"blocks of {filled} bytes together, want {len(out)}")
