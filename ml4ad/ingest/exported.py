"""A dataset as a folder of Parquet files, one per element and run: what `export` has written.

In the folder: ``manifest.json``, written last, names every file with its size and BLAKE2b digest;
``lumisections.parquet`` and ``scalars.parquet``; and a folder per run with a file per element. Of
an element's file each row is a lumisection (0 is the whole run), per-bin arrays are lists of all
cells, flow bins included, in the order of the axes (the last runs fastest). The schema's metadata
hold, under ``ml4ad``, JSON with the shape of the cells, kind, axes, labels and titles.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ml4ad.dqmio.names import Pattern, matcher
from ml4ad.stack import HistogramStack
from ml4ad.store import binning

MANIFEST = "manifest.json"
FORMAT = 1
#: Arrays that have a value per bin.
CELLS = ("contents", "sumw2", "sum_of_weights", "sum_of_weights_squared")
#: Key of the schema's metadata.
KEY = b"ml4ad"


def open_folder(path: str | os.PathLike[str]) -> Folder:
    """The export at ``path``: a folder, or its manifest.

    Raises FileNotFoundError if there is none, ValueError if its manifest is damaged.
    """
    at = Path(path)
    return Folder(at if at.name == MANIFEST else at / MANIFEST)


class Folder:
    """An export, read as a DQMIO file is; each file is held against the manifest before it is used.

    Raises FileNotFoundError, or ValueError naming a file that is damaged, in all that it does.
    """

    guid = ""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._told = read_manifest(path)
        self.uuid: str = self._told["uuid"]
        self.dataset: str = self._told["dataset"]
        self.era: str = self._told["era"]
        self.release: str = self._told["release"]
        self.nbytes: int = sum(entry["size"] for entry in entries(self._told))

    def __enter__(self) -> Folder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Nothing is held open."""

    @property
    def index(self) -> pd.DataFrame:
        """A row per lumisection and run (lumisection 0), as of `ml4ad.dqmio.DQMIOFile.index`."""
        columns = ("run_number", "ls_number", "begin_time", "end_time", "n_mes")
        frame = self._frame(self._told["lumisections"], columns)
        kind = np.where(frame.n_mes > 0, "any", "")
        return frame.assign(kind=kind, first=0, last=frame.n_mes - 1)

    def stacks(
        self, me: Pattern = "*", memory_mb: int = 256, threads: int | None = None
    ) -> Iterator[HistogramStack]:
        """Stacks of the elements that match, in parts of some lumisections."""
        del memory_mb, threads  # parts are small
        is_meant = matcher(me)
        for entry in self._told["files"]:
            if is_meant(entry["me"]):
                path = self._checked(entry)
                with _door(path):
                    yield from _read_stacks(path, entry)

    def scalars(self, me: Pattern = "*") -> pd.DataFrame:
        """A row per scalar: run_number, ls_number, me, kind and value."""
        key = ("run_number", "ls_number", "me", "kind")
        entry = self._told["scalars"]
        table = self._table(entry, (*key, "int_value", "float_value", "string_value"))
        is_meant = matcher(me)
        rows = []
        for row in table.to_pylist():
            if not is_meant(row["me"]):
                continue
            value = row[f"{row['kind'].lower()}_value"]
            if row["kind"] == "String":
                value = value.decode(errors="surrogateescape")
            rows.append([*(row[name] for name in key), value])
        return pd.DataFrame(rows, columns=[*key, "value"])

    def _checked(self, entry: dict[str, Any]) -> Path:
        path = self.path.parent / entry["path"]
        size = path.stat().st_size
        if size != entry["size"]:
            raise ValueError(f"{path}: damaged: {size} bytes, want {entry['size']}")
        if digest(path) != entry["blake2b"]:
            raise ValueError(f"{path}: damaged: its digest is not the manifest's")
        return path

    def _table(self, entry: dict[str, Any], columns: Iterable[str]) -> pa.Table:
        path = self._checked(entry)
        with _door(path):
            return pq.ParquetFile(path).read(columns=list(columns)).select(list(columns))

    def _frame(self, entry: dict[str, Any], columns: Iterable[str]) -> pd.DataFrame:
        return self._table(entry, columns).to_pandas()


@contextmanager
def _door(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, ValueError, KeyError, TypeError, AttributeError) as error:
        told = " ".join(str(error).split())
        raise ValueError(f"{path}: not what ml4ad exports: {told}") from error


def read_manifest(path: Path) -> dict[str, Any]:
    """What a manifest tells; raises FileNotFoundError, or ValueError if it is damaged."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; an export has one when it is complete")
    with _door(path):
        told = json.loads(path.read_text(encoding="ascii"))
        if told["format"] != "ml4ad parquet" or told["version"] != FORMAT:
            raise ValueError(f"format {told['format']!r} {told['version']!r}, want {FORMAT}")
        if told["uuid"] != uuid_of(told):
            raise ValueError("damaged: its uuid does not follow from its contents")
        for entry in entries(told):
            name = PurePosixPath(entry["path"])
            if name.is_absolute() or ".." in name.parts or "\\" in entry["path"]:
                raise ValueError(f"a file {entry['path']!r}, want one inside the folder")
    return told


def entries(told: dict[str, Any]) -> list[dict[str, Any]]:
    """Files of a manifest, each with path, size and digest."""
    return [told["lumisections"], told["scalars"], *told["files"]]


def uuid_of(told: dict[str, Any]) -> str:
    """Name of this very export; the same of the same contents."""
    text = json.dumps({key: told[key] for key in sorted(told) if key != "uuid"})
    return str(uuid.UUID(bytes=hashlib.blake2b(text.encode(), digest_size=16).digest(), version=4))


def digest(path: Path) -> str:
    """BLAKE2b of a file."""
    with path.open("rb") as opened:
        digest = hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=32))
    return digest.hexdigest()


def _read_stacks(path: Path, entry: dict[str, Any]) -> Iterator[HistogramStack]:
    opened = pq.ParquetFile(path)
    about = json.loads(opened.schema_arrow.metadata[KEY])
    if (about["me"], about["run_number"]) != (entry["me"], entry["run_number"]):
        raise ValueError(f"it holds {about['me']}, run {about['run_number']}")
    shared = binning.parse(json.dumps(about["stack"]))
    shape = tuple(about["shape"])
    for position in range(opened.num_row_groups):
        table = opened.read_row_group(position)
        arrays: dict[str, Any] = {
            name: _cells(table[name]).reshape(len(table), *shape)
            for name in CELLS
            if name in table.column_names
        }
        yield HistogramStack(
            me=about["me"],
            dataset=about["dataset"],
            run_number=about["run_number"],
            ls_numbers=table["ls_number"].to_numpy(),
            entries=table["entries"].to_numpy(),
            statistics=_cells(table["statistics"]).reshape(len(table), -1),
            **arrays,
            **shared,
        )


def _cells(column: pa.ChunkedArray) -> NDArray[Any]:
    joined = [chunk.flatten() for chunk in column.chunks]
    return np.concatenate([part.to_numpy(zero_copy_only=True) for part in joined])
