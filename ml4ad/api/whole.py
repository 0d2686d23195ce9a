"""Whole stacks as Arrow or Parquet, exactly: flow bins, errors, profiles, axes.

A row is a lumisection. Bins stand in ROOT's order, x fastest, underflow first and overflow last on
each axis. What a kind of histogram does not have is null. The schema's metadata hold a JSON text
``ml4ad`` with the element, the run, the kind and the axes. `read` makes a stack of it again.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy as sa

from ml4ad.api.view import View
from ml4ad.archive import Archive
from ml4ad.stack import KINDS, Axis, HistogramStack, is_profile, statistics_names
from ml4ad.store import binning
from ml4ad.store.schema import binning as binning_table
from ml4ad.store.schema import block, lumisection, me

Format = Literal["arrow", "parquet"]
Compression = Literal["none", "lz4", "zstd"]
MEDIA = {
    "arrow": "application/vnd.apache.arrow.stream",
    "parquet": "application/vnd.apache.parquet",
}

# Bytes of contents that are read, and sent, at a time.
_PART_BYTES = 16 * 2**20
_SMALL = 2**16
_ERRORS = ("sumw2", "sum_of_weights", "sum_of_weights_squared")


@dataclass(frozen=True)
class Element:
    """An element of a run that is there, and is seen."""

    me: str
    dataset: str
    run_number: int
    kind: str
    shared: dict[str, Any]
    ls_numbers: list[int]

    def described(self) -> dict[str, Any]:
        """What its lumisections share, for JSON."""
        axes = [
            {
                "name": axis.name,
                "title": axis.title,
                "edges": axis.edges.tolist(),
                "labels": list(axis.labels),
                "variable": axis.variable,
            }
            for axis in self.shared["axes"]
        ]
        return {
            "me": self.me,
            "dataset": self.dataset,
            "run_number": self.run_number,
            "kind": self.kind,
            "title": self.shared["title"],
            "flags": self.shared["flags"],
            "error_mode": self.shared["error_mode"],
            "value_range": list(self.shared["value_range"]),
            "axes": axes,
            "statistics": list(statistics_names(self.kind)),
        }


def element(view: View, name: str, dataset: str, run_number: int) -> Element:
    """The element of a run; raises KeyError, in the same words, if it is not there or not seen."""
    with view.reading() as connection:
        datasets = view.datasets(connection, name=dataset)
        if not datasets:
            raise KeyError(f"Not found, or not to be seen: dataset {dataset!r}")
        (dataset_id,) = datasets
        query = (
            sa.select(binning_table.c.description)
            .join_from(block, me, me.c.me_id == block.c.me_id)
            .join(binning_table, binning_table.c.binning_id == block.c.binning_id)
            .where(block.c.dataset_id == sa.literal_column(str(int(dataset_id))))
            .where(me.c.me == name, block.c.run_number == run_number, view.elements(dataset))
            .order_by(block.c.first_ls.desc())
            .limit(1)
        )
        description = connection.scalar(query)
        if description is None:
            raise KeyError(f"Not found, or not to be seen: element {name!r} in run {run_number}")
        numbers = connection.scalars(
            sa.select(lumisection.c.ls_number)
            .where(lumisection.c.dataset_id == dataset_id, lumisection.c.ls_number > 0)
            .where(lumisection.c.run_number == run_number)
            .order_by(lumisection.c.ls_number)
        )
        shared = binning.parse(description)
        return Element(name, dataset, run_number, shared["kind"], shared, list(numbers))


def parts(view: View, own: Element, first_ls: int, last_ls: int) -> Iterator[HistogramStack]:
    """The stack of lumisections, a bounded part at a time; lumisection 0 is the whole run."""
    archive = Archive(view.engine)
    cells = math.prod(axis.n_bins + 2 for axis in own.shared["axes"])
    step = max(1, _PART_BYTES // (cells * np.dtype(KINDS[own.kind][1]).itemsize))
    wanted = [number for number in own.ls_numbers if first_ls <= number <= last_ls]
    starts = [first_ls, *wanted[step::step]]
    ends = [number - 1 for number in starts[1:]] + [last_ls]
    for low, high in zip(starts, ends, strict=True):
        try:
            yield archive.stack(own.me, own.run_number, own.dataset, slice(low, high))
        except KeyError:
            # None of these lumisections has the element.
            continue


def schema(own: Element) -> pa.Schema:
    """Columns of a stack of this element."""
    cells = math.prod(axis.n_bins + 2 for axis in own.shared["axes"])
    contents = pa.from_numpy_dtype(np.dtype(KINDS[own.kind][1]))
    fields = [
        pa.field("ls_number", pa.int64(), nullable=False),
        pa.field("entries", pa.float64(), nullable=False),
        pa.field("contents", pa.list_(contents, cells), nullable=False),
        # Of no fixed size, for null of a fixed size takes as many bytes as numbers do.
        *(pa.field(name, pa.list_(pa.float64())) for name in _ERRORS),
        pa.field("statistics", pa.list_(pa.float64(), len(statistics_names(own.kind)))),
    ]
    described = own.described() | {"run_ls_numbers": own.ls_numbers}
    return pa.schema(fields, metadata={"ml4ad": json.dumps(described)})


def _batch(stack: HistogramStack, columns: pa.Schema) -> pa.RecordBatch:
    arrays = [pa.array(stack.ls_numbers), pa.array(stack.entries)]
    for name in ("contents", *_ERRORS, "statistics"):
        kind = columns.field(name).type
        values = getattr(stack, name)
        if values is None:
            arrays.append(pa.nulls(len(stack), kind))
            continue
        if name != "statistics":
            values = values.transpose(0, *range(values.ndim - 1, 0, -1))
        flat = np.ascontiguousarray(values).reshape(-1)
        if pa.types.is_fixed_size_list(kind):
            arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(flat), type=kind))
        else:
            offsets = np.arange(len(stack) + 1, dtype=np.int32) * (flat.size // max(len(stack), 1))
            arrays.append(pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat), type=kind))
    return pa.RecordBatch.from_arrays(arrays, schema=columns)


def read(answer: bytes | pa.Table) -> HistogramStack:
    """The stack that an answer of ``/api/v2/stack`` holds, Arrow or Parquet, as the archive has it.

    Its arrays are views of the answer, which are not to be written to. Raises ValueError for
    anything else.
    """
    table = answer if isinstance(answer, pa.Table) else _table(answer)
    text = (table.schema.metadata or {}).get(b"ml4ad")
    if text is None:
        raise ValueError(f"a table of {', '.join(table.column_names)}, want one of /api/v2/stack")
    told = json.loads(text)
    axes = tuple(
        Axis(
            np.array(axis["edges"]),
            title=axis["title"],
            name=axis["name"],
            labels=tuple(axis["labels"]),
            variable=axis["variable"],
        )
        for axis in told["axes"]
    )
    shape = (len(table), *(axis.n_bins + 2 for axis in reversed(axes)))
    order = (0, *range(len(axes), 0, -1))

    def cells(name: str) -> Any:
        flat = _flat(table[name])
        return None if flat is None else flat.reshape(shape).transpose(order)

    if not len(table) and is_profile(told["kind"]):
        empty = np.empty(shape).transpose(order)
        errors = dict.fromkeys(("sumw2", "sum_of_weights"), empty)
    else:
        errors = {name: cells(name) for name in _ERRORS}
    statistics = _flat(table["statistics"])
    return HistogramStack(
        me=told["me"],
        kind=told["kind"],
        run_number=told["run_number"],
        ls_numbers=table["ls_number"].to_numpy(),
        axes=axes,
        contents=np.empty(shape, KINDS[told["kind"]][1]).transpose(order)
        if not len(table)
        else cells("contents"),
        entries=table["entries"].to_numpy(),
        statistics=np.empty((0, 0)) if statistics is None else statistics.reshape(len(table), -1),
        dataset=told["dataset"],
        title=told["title"],
        flags=told["flags"],
        error_mode=told["error_mode"],
        value_range=tuple(told["value_range"]),
        run_ls_numbers=np.array(told["run_ls_numbers"], dtype=np.int64),
        **errors,
    )


def _table(answer: bytes) -> pa.Table:
    opened = pa.BufferReader(answer)
    if answer[:4] == b"PAR1":
        return pq.read_table(opened)
    try:
        return pa.ipc.open_stream(opened).read_all()
    except pa.ArrowInvalid as error:
        raise ValueError(f"{answer[:80]!r}, want an Arrow stream or Parquet") from error


def _flat(column: pa.ChunkedArray) -> Any:
    """Numbers of all rows, one after the other; None where there are none."""
    if column.null_count == len(column):
        return None
    parts = [part.flatten().to_numpy() for part in column.chunks]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


class _Sink(io.RawIOBase):
    """Takes what a writer writes, to be sent and forgotten."""

    def __init__(self) -> None:
        super().__init__()
        self._pieces: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def taken(self) -> Iterator[bytes]:
        """What was written since; small pieces are joined, large ones come as they are."""
        pieces, self._pieces = self._pieces, []
        small: list[bytes] = []
        for piece in pieces:
            if len(piece) < _SMALL:
                small.append(piece)
                continue
            yield b"".join(small)
            small = []
            yield piece
        yield b"".join(small)


def written(
    own: Element,
    stacks: Iterator[HistogramStack],
    form: Format,
    compression: Compression = "lz4",
) -> Iterator[bytes]:
    """Bytes of the parts of a stack, in order; its columns are compressed, or not."""
    columns, sink = schema(own), _Sink()
    target = pa.PythonFile(sink, mode="w")
    if form == "arrow":
        options = pa.ipc.IpcWriteOptions(compression=None if compression == "none" else compression)
        writer = pa.ipc.new_stream(target, columns, options=options)
    else:
        writer = pq.ParquetWriter(target, columns, compression=compression)
    for stack in stacks:
        writer.write_batch(_batch(stack, columns))
        yield from sink.taken()
    writer.close()
    yield from sink.taken()
