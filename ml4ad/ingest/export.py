"""Writes a dataset into a folder of Parquet files; `ml4ad.ingest.exported` tells what is in it.

Floats are written plainly, since Parquet's dictionaries do not tell one NaN from another.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ml4ad.dqmio.names import Pattern
from ml4ad.ingest.exported import (
    CELLS,
    FORMAT,
    KEY,
    MANIFEST,
    digest,
    entries,
    read_manifest,
    uuid_of,
)
from ml4ad.provenance import code_version
from ml4ad.stack import HistogramStack, statistics_names
from ml4ad.store import binning
from ml4ad.store.blocks import BLOCK_BYTES

_LUMISECTIONS, _SCALARS = "lumisections.parquet", "scalars.parquet"
_TIME = pa.timestamp("us", tz="UTC")


class Stacks(Protocol):
    """What an archive is asked for; see `ml4ad.archive.Archive`."""

    def stacks(
        self, me: Pattern, run_number: int | Iterable[int] | None, dataset: str
    ) -> Iterator[HistogramStack]:
        """Stacks of elements and runs."""

    def lumisections(self, dataset: str, run_number: int | None) -> pd.DataFrame:
        """A row per lumisection."""

    def runs(self, dataset: str) -> pd.DataFrame:
        """A row per run."""

    def scalars(self, me: Pattern, run_number: int | None, dataset: str) -> pd.DataFrame:
        """A row per scalar."""

    def files(self, dataset: str) -> pd.DataFrame:
        """A row per file."""


@dataclass(frozen=True)
class Exported:
    """What was written: the folder, and how much is in it."""

    folder: Path
    dataset: str
    n_files: int
    n_runs: int
    n_ls: int
    n_histograms: int
    nbytes: int


def export(
    archive: Stacks,
    dataset: str,
    folder: str | os.PathLike[str],
    *,
    me: Pattern = "*",
    run_number: int | None = None,
    each: Callable[[Path], object] | None = None,
) -> Exported:
    """What was written into ``folder`` of a dataset; of elements and a run, or of all.

    An export of the same dataset that is there is replaced; one that was killed has no manifest,
    and another takes its place. ``each`` is called with the path of each file when it is there.
    Raises KeyError for an unknown dataset or no element that matches, FileExistsError if the folder
    holds another dataset.
    """
    out = Path(folder)
    before = _names_of_before(out, dataset)
    lumisections = archive.lumisections(dataset, run_number)
    runs = archive.runs(dataset)
    if run_number is not None:
        runs = runs[runs.run_number == run_number]
    if not len(runs):
        raise KeyError(f"{dataset} has no run {run_number}; see `ml4ad list runs`")
    wanted = None if run_number is None else [run_number]
    written = []
    for entry in _write_stacks(out, archive.stacks(me, wanted, dataset)):
        written.append(entry)
        if each is not None:
            each(out / entry["path"])
    files = archive.files(dataset)
    told = {
        "format": "ml4ad parquet",
        "version": FORMAT,
        "written_by": code_version(),
        "dataset": dataset,
        "era": next((era for era in files.era if era), ""),
        "release": next((release for release in files.release[::-1] if release), ""),
        "runs": sorted({int(number) for number in runs.run_number}),
        "lumisections": _write_lumisections(out, lumisections, runs),
        "scalars": _write_scalars(out, archive.scalars(me, run_number, dataset)),
        "files": written,
    }
    text = json.dumps({**told, "uuid": uuid_of(told)}, indent=1)
    with _whole(out / MANIFEST) as temporary:
        temporary.write_text(text, encoding="ascii")
    for name in before - {MANIFEST, *(entry["path"] for entry in entries(told))}:
        (out / name).unlink(missing_ok=True)
    return Exported(
        folder=out,
        dataset=dataset,
        n_files=len(written),
        n_runs=len(runs),
        n_ls=len(lumisections),
        n_histograms=sum(entry["n_ls"] for entry in written),
        nbytes=sum(entry["size"] for entry in entries(told)),
    )


def _names_of_before(out: Path, dataset: str) -> set[str]:
    """Files of the export that is there; from now on it is none."""
    if not (out / MANIFEST).exists():
        out.mkdir(parents=True, exist_ok=True)
        return set()
    there = read_manifest(out / MANIFEST)
    if there["dataset"] != dataset:
        raise FileExistsError(f"{out} holds an export of {there['dataset']}, want a new folder")
    (out / MANIFEST).unlink()
    return {entry["path"] for entry in entries(there)}


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """Where to write what gets its name when it is complete."""
    temporary = path.with_name(f".{path.name[:200]}.{os.getpid()}")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _entry(out: Path, name: str) -> dict[str, Any]:
    path = out / name
    return {"path": name, "size": path.stat().st_size, "blake2b": digest(path)}


def _write_stacks(out: Path, stacks: Iterable[HistogramStack]) -> Iterator[dict[str, Any]]:
    last: tuple[str, int] = "", -1
    part = 1
    for stack in stacks:
        # Several stacks of an element and run follow each other where its binning changes.
        part = part + 1 if (stack.me, stack.run_number) == last else 1
        last = stack.me, stack.run_number
        name = f"{stack.run_number}/{file_name(stack.me, part)}"
        (out / name).parent.mkdir(exist_ok=True)
        with _whole(out / name) as temporary:
            _write_stack(temporary, stack)
        about = {"me": stack.me, "kind": stack.kind, "run_number": stack.run_number}
        yield {**_entry(out, name), **about, "n_ls": len(stack)}


def file_name(me: str, part: int = 1) -> str:
    """A name for an element's file that every file system takes, and no other element has.

    >>> file_name("Pixel/charge +1")
    'Pixel%2Fcharge%20%2B1-f3137585.parquet'
    """
    # Long names are cut, and some file systems do not tell "A" from "a".
    digest = hashlib.blake2b(me.encode(), digest_size=4).hexdigest()
    numbered = f"-{part}" if part > 1 else ""
    return f"{quote(me, safe='')[:150]}-{digest}{numbered}.parquet"


def _write_stack(path: Path, stack: HistogramStack) -> None:
    cells = {name: array for name in CELLS if (array := getattr(stack, name)) is not None}
    about = {
        "version": FORMAT,
        "dataset": stack.dataset,
        "me": stack.me,
        "run_number": stack.run_number,
        "shape": list(stack.contents.shape[1:]),
        "statistics": list(statistics_names(stack.kind)),
        "stack": json.loads(binning.describe(stack)),
    }
    fields = [
        pa.field("ls_number", pa.int64(), nullable=False),
        pa.field("entries", pa.float64(), nullable=False),
        *(_lists(name, array) for name, array in {**cells, "statistics": stack.statistics}.items()),
    ]
    schema = pa.schema(fields, metadata={KEY: json.dumps(about).encode("ascii")})
    split = [f"{name}.list.element" for name, array in cells.items() if array.dtype.kind == "f"]
    step = max(1, BLOCK_BYTES // max(1, stack.contents[:1].nbytes))
    with pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        use_dictionary=False,
        use_byte_stream_split=split or False,
        write_statistics=["ls_number"],
    ) as writer:
        for start in range(0, len(stack), step):
            rows = slice(start, start + step)
            columns = [pa.array(stack.ls_numbers[rows]), pa.array(stack.entries[rows])]
            for name in (*cells, "statistics"):
                array = np.ascontiguousarray(getattr(stack, name)[rows])
                columns.append(
                    pa.FixedSizeListArray.from_arrays(
                        pa.array(array.reshape(-1)), type=schema.field(name).type
                    )
                )
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def _lists(name: str, array: NDArray[Any]) -> pa.Field:
    cell = pa.field("element", pa.from_numpy_dtype(array.dtype), nullable=False)
    return pa.field(name, pa.list_(cell, array[:1].size), nullable=False)


def _write_lumisections(out: Path, found: pd.DataFrame, runs: pd.DataFrame) -> dict[str, Any]:
    """Lumisections, and runs as lumisection 0."""
    columns = ["run_number", "ls_number", "begin_time", "end_time", "n_mes", "file"]
    whole = runs.assign(ls_number=0, n_mes=0, file="")
    both = pd.concat([whole[columns], found[columns]], ignore_index=True)
    both = both.sort_values(["run_number", "ls_number"], ignore_index=True)
    types = (pa.int64(), pa.int64(), _TIME, _TIME, pa.int64(), pa.string())
    table = pa.table(
        {name: pa.array(both[name], type=kind) for name, kind in zip(columns, types, strict=True)}
    )
    return _write_table(out, _LUMISECTIONS, table)


def _write_scalars(out: Path, found: pd.DataFrame) -> dict[str, Any]:
    """Scalars; of a whole run's that several files have, the last file's."""
    key = ["run_number", "ls_number", "me"]
    found = found.drop_duplicates(key, keep="last")
    values = list(zip(found.kind.tolist(), found.value.tolist(), strict=True))

    def of(wanted: str) -> list[Any]:
        return [value if kind == wanted else None for kind, value in values]

    texts = [None if v is None else v.encode(errors="surrogateescape") for v in of("String")]
    table = pa.table(
        {
            "run_number": pa.array(found.run_number, type=pa.int64()),
            "ls_number": pa.array(found.ls_number, type=pa.int64()),
            "me": pa.array(found.me, type=pa.string()),
            "kind": pa.array(found.kind, type=pa.string()),
            "int_value": pa.array(of("Int"), type=pa.int64()),
            "float_value": pa.array(of("Float"), type=pa.float64()),
            "string_value": pa.array(texts, type=pa.binary()),
        }
    )
    return _write_table(out, _SCALARS, table)


def _write_table(out: Path, name: str, table: pa.Table) -> dict[str, Any]:
    with _whole(out / name) as temporary:
        pq.write_table(table, temporary, compression="zstd", use_dictionary=["me", "kind", "file"])
    return {**_entry(out, name), "n_rows": len(table)}
