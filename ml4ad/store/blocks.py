"""Stacks into rows of the table ``block``, and rows into stacks."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import sqlalchemy as sa

from ml4ad.stack import HistogramStack, Ints, concatenate
from ml4ad.store import binning, dimensions, packing
from ml4ad.store.connection import raw, translated
from ml4ad.store.packing import DamagedBlockError

#: Contents of one block at most, in bytes, unless one lumisection alone is larger: large enough to
#: compress well, small enough that threads share a long run and a few lumisections cost little.
BLOCK_BYTES = 8 * 2**20

# Blocks whose names are looked up together.
_BATCH_BYTES, _BATCH_BLOCKS = 16 * 2**20, 5000

_ARRAYS = ("contents", "sumw2", "sum_of_weights", "sum_of_weights_squared")
_COPY = (
    "COPY block "
    "(me_id, run_number, first_ls, file_id, dataset_id, binning_id, last_ls, n_ls, packed) "
    "FROM STDIN (FORMAT BINARY)"
)
_COPY_TYPES = ("int4", "int8", "int8", "int4", "int4", "int4", "int8", "int4", "bytea")


@dataclass(frozen=True)
class PackedBlock:
    """A block that has not been stored yet."""

    me: str
    kind: str
    description: str
    run_number: int
    first_ls: int
    last_ls: int
    n_ls: int
    packed: bytes


def pack(stack: HistogramStack) -> Iterator[PackedBlock]:
    """Blocks that hold the stack: per-run contents (lumisection 0) apart, none too large."""
    description = binning.describe(stack)
    row_bytes = max(1, stack.contents[:1].nbytes)
    step = max(1, BLOCK_BYTES // row_bytes)
    start = 0
    while start < len(stack):
        per_run = stack.ls_numbers[start] == 0
        end = min(len(stack), start + (1 if per_run else step))
        columns = {
            name: array[start:end]
            for name in packing.COLUMNS
            if (array := getattr(stack, name)) is not None
        }
        yield PackedBlock(
            me=stack.me,
            kind=stack.kind,
            description=description,
            run_number=stack.run_number,
            first_ls=int(stack.ls_numbers[start]),
            last_ls=int(stack.ls_numbers[end - 1]),
            n_ls=end - start,
            packed=packing.pack(columns),
        )
        start = end


def store(
    engine: sa.Engine,
    connection: sa.Connection,
    file_id: int,
    dataset_id: int,
    packed: Iterable[PackedBlock],
) -> None:
    """Store blocks of a file in the transaction of ``connection``, as they come.

    Names and binnings get their numbers on another connection of ``engine``.
    """
    me_ids: dict[str, int] = {}
    binning_ids: dict[str, int] = {}
    with translated(engine), raw(connection).cursor() as cursor, cursor.copy(_COPY) as copying:
        copying.set_types(_COPY_TYPES)
        for batch in _batches(packed):
            new = {b.me: b.kind for b in batch if b.me not in me_ids}
            me_ids |= dimensions.me_ids(engine, new) if new else {}
            fresh = {b.description for b in batch} - binning_ids.keys()
            binning_ids |= dimensions.binning_ids(engine, fresh) if fresh else {}
            for b in batch:
                key = (me_ids[b.me], b.run_number, b.first_ls, file_id, dataset_id)
                shared = binning_ids[b.description]
                copying.write_row((*key, shared, b.last_ls, b.n_ls, b.packed))


def _batches(packed: Iterable[PackedBlock]) -> Iterator[list[PackedBlock]]:
    batch: list[PackedBlock] = []
    nbytes = 0
    for block in packed:
        batch.append(block)
        nbytes += len(block.packed)
        if nbytes >= _BATCH_BYTES or len(batch) >= _BATCH_BLOCKS:
            yield batch
            batch, nbytes = [], 0
    if batch:
        yield batch


@dataclass(frozen=True)
class StoredBlock:
    """A row of the table with its description, still packed."""

    me: str
    dataset: str
    run_number: int
    file_id: int
    first_ls: int
    description: str
    packed: bytes


def query_bytes(connection: sa.Connection, statement: sa.Select[Any]) -> Iterator[tuple[Any, ...]]:
    """Rows of a query in PostgreSQL's binary format, which bytes pass through as they are."""
    compiled = statement.compile(dialect=connection.dialect)
    with raw(connection).cursor(binary=True) as cursor:
        cursor.execute(str(compiled), compiled.params)
        yield from cursor


def unpack(blocks: Sequence[StoredBlock], run_ls_numbers: Ints | None) -> list[HistogramStack]:
    """One stack per binning of the blocks of one element, run and dataset.

    Per-run contents of several files of a run are parts of it, and are summed. Raises
    DamagedBlockError, naming element, run and file, if a block is not what was stored.
    """
    by_binning: dict[Any, list[StoredBlock]] = {}
    for block in sorted(blocks, key=lambda b: (b.first_ls, b.file_id)):
        shared = binning.parse(block.description)
        edges = tuple(axis.edges.tobytes() for axis in shared["axes"])
        by_binning.setdefault((shared["kind"], edges), []).append(block)
    stacks = []
    for group in by_binning.values():
        # Titles and labels of the newest file, as in ml4ad.stack.concatenate.
        per_run = [_assemble([b]) for b in group if b.first_ls == 0]
        parts = [_summed(per_run)] if per_run else []
        rest = [b for b in group if b.first_ls != 0]
        if rest:
            parts.append(_assemble(rest))
        stack = concatenate(parts) if len(parts) > 1 else parts[0]
        known = run_ls_numbers if rest else None
        stacks.append(dataclasses.replace(stack, run_ls_numbers=known))
    return stacks


def _assemble(blocks: Sequence[StoredBlock]) -> HistogramStack:
    shared = binning.parse(blocks[-1].description)
    opened, small = [], []
    for block in blocks:
        with _told(block):
            opened.append(packing.unpack(block.packed))
            small.append(opened[-1].small())
    numbers = np.concatenate([columns["ls_numbers"] for columns in small])
    bounds = np.cumsum([0, *(p.n_ls for p in opened)])
    cells = tuple(axis.n_bins + 2 for axis in shared["axes"])
    arrays: dict[str, Any] = {}
    for name in _ARRAYS:
        dtypes = [p.dtype(name) for p in opened if name in p.names()]
        if dtypes:
            arrays[name] = packing.empty((len(numbers), *cells), np.result_type(*dtypes))

    def fill(position: int) -> None:
        packed = opened[position]
        here = slice(bounds[position], bounds[position + 1])
        for name, array in arrays.items():
            source = name
            if name not in packed.names():
                # Weights of 1: the sums of squares are the counts.
                source = "contents" if name == "sumw2" else "sum_of_weights"
            with _told(blocks[position]):
                packed.fill(source, array[here])

    if len(blocks) > 1 and sum(a.nbytes for a in arrays.values()) > 2**20:
        list(_threads().map(fill, range(len(blocks))))
    else:
        for position in range(len(blocks)):
            fill(position)
    for name in ("entries", "statistics"):
        arrays[name] = np.concatenate([columns[name] for columns in small])
    if (np.diff(numbers) <= 0).any():
        order = np.argsort(numbers, kind="stable")
        numbers = numbers[order]
        arrays = {name: array[order] for name, array in arrays.items()}
    first = blocks[0]
    return HistogramStack(
        me=first.me,
        dataset=first.dataset,
        run_number=first.run_number,
        ls_numbers=numbers,
        **arrays,
        **shared,
    )


@contextmanager
def _told(block: StoredBlock) -> Iterator[None]:
    try:
        yield
    except DamagedBlockError as error:
        whose = f"file {block.file_id}" if block.file_id else "several files"
        again = "ingest the file again" if block.file_id else "forget the dataset, ingest it again"
        raise DamagedBlockError(
            f"{block.me}, run {block.run_number}, lumisections from {block.first_ls}, "
            f"{whose}: {error}; {again}"
        ) from error


def _summed(stacks: Sequence[HistogramStack]) -> HistogramStack:
    if len(stacks) == 1:
        return stacks[0]
    changed: dict[str, Any] = {}
    for name in (*_ARRAYS, "entries", "statistics"):
        if all(getattr(s, name) is None for s in stacks):
            continue
        arrays = [
            s._squares(name) if getattr(s, name) is None else getattr(s, name) for s in stacks
        ]
        dtype = arrays[0].dtype
        total: Any = np.sum(arrays, axis=0, dtype=np.float64 if dtype.kind == "f" else np.int64)
        if dtype.kind != "f":  # a short that is full stays full, as ROOT has it
            total = np.clip(total, np.iinfo(dtype).min, np.iinfo(dtype).max)
        changed[name] = total.astype(dtype)
    return dataclasses.replace(stacks[-1], **changed)


@cache
def _threads() -> ThreadPoolExecutor:
    workers = min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4)
    return ThreadPoolExecutor(workers, thread_name_prefix="ml4ad-unpack")
