"""Writing DQMIO files: stacks of histograms and single values in, the layout of CMSSW out."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
import re
import secrets
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from ml4ad.dqmio import entries
from ml4ad.dqmio.batch import SCALARS, Batch, run_order
from ml4ad.dqmio.compress import Compressor
from ml4ad.dqmio.layouts import string_bytes
from ml4ad.dqmio.rootfile import RootFile
from ml4ad.dqmio.trees import Tree
from ml4ad.stack import KINDS, HistogramStack, Ints

if TYPE_CHECKING:
    import pandas as pd

#: Kinds of elements in the order of DQMIO's type numbers, and the trees that hold them.
TREES = {kind: f"{kind}s" for kind in ("Int", "Float", "String", *KINDS)}
_TYPES = {kind: number for number, kind in enumerate(TREES)}
_NOTHING = 1000
_VALUE_BASKET = 128 * 1024
_BATCH_BYTES = 8 * 1024**2


def write(
    path: str | os.PathLike[str],
    stacks: Iterable[HistogramStack],
    *,
    scalars: pd.DataFrame | None = None,
    lumisections: pd.DataFrame | None = None,
    release: str = "CMSSW_14_0_0",
    guid: str | None = None,
    compression: str = "zlib",
    level: int | None = None,
    seed: int | None = None,
    overwrite: bool = False,
) -> None:
    """Write a DQMIO file that holds ``stacks`` and ``scalars``.

    In a stack lumisection 0 is the whole run. ``scalars`` has the columns ``run_number``,
    ``ls_number``, ``me``, ``kind`` (Int, Float or String), ``value`` and, if wanted, ``flags``;
    ``lumisections`` has ``run_number``, ``ls_number``, ``begin_time`` and ``end_time`` (UTC; NaT is
    unknown), and names those too that hold nothing. ``compression`` is zlib, lzma, lz4, zstd or
    none, ``level`` 1 to 9. With a ``seed`` the same input gives the same bytes: the identity of the
    file follows from the seed, and its time stamps are ROOT's first, 1 January 1995. ``guid`` is
    the file's name for itself, by default random or from the seed.

    Everything is checked before a file is begun; the file gets its name when it is complete. All
    stacks are held in memory: `create` writes in parts. Raises ValueError, naming value and wanted
    range, for a name over 255 bytes, an unknown kind, a negative number, contents that the kind
    cannot hold, or an element given twice for a lumisection; FileExistsError if ``path`` exists and
    is not to be overwritten; IsADirectoryError for a folder.
    """
    held = list(stacks)
    batch = Batch(held, scalars, lumisections)
    with create(
        path,
        release=release,
        guid=guid,
        compression=compression,
        level=level,
        seed=seed,
        overwrite=overwrite,
    ) as out:
        out._append(batch)


def create(
    path: str | os.PathLike[str],
    *,
    release: str = "CMSSW_14_0_0",
    guid: str | None = None,
    compression: str = "zlib",
    level: int | None = None,
    seed: int | None = None,
    overwrite: bool = False,
) -> DQMIOWriter:
    """A DQMIO file to be written in parts, so that memory is bounded by the largest part.

    The arguments are those of `write`. Leaving the ``with`` block by an exception
    leaves no file::

        with dqmio.create("out.root") as out:
            for part in parts:
                out.write(part.stacks, lumisections=part.lumisections)
    """
    return DQMIOWriter(
        path,
        release=release,
        guid=guid,
        compression=compression,
        level=level,
        seed=seed,
        overwrite=overwrite,
    )


_GUID = re.compile(r"[0-9A-F]{8}(-[0-9A-F]{4}){3}-[0-9A-F]{12}")
_FIRST_TIME = datetime.datetime(1995, 1, 1, tzinfo=datetime.UTC)


class DQMIOWriter:
    """A DQMIO file being written in parts; made by `create`."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        release: str,
        guid: str | None,
        compression: str,
        level: int | None,
        seed: int | None,
        overwrite: bool,
    ) -> None:
        self.path = Path(path)
        self._overwrite = overwrite
        self._check_path()
        compressor = Compressor(compression, level)
        if not isinstance(release, str) or not release:
            raise ValueError(f"release {release!r}, want a text such as CMSSW_14_0_0")
        uuids = _Uuids(seed)
        self.guid = str(uuids()).upper() if guid is None else guid
        if not _GUID.fullmatch(self.guid):
            raise ValueError(f"guid {guid!r}, want 8-4-4-4-12 digits of 0-9 and A-F")
        self._release = release
        self._written: set[tuple[int, int]] = set()
        self._templates: dict[Any, entries.Template] = {}
        self._part = self.path.with_name(f".{self.path.name[:60]}.{secrets.token_hex(4)}.part")
        self._stream = self._part.open("xb")
        when = datetime.datetime.now(tz=datetime.UTC) if seed is None else _FIRST_TIME
        self._file = RootFile(self._stream, f"{self.guid}.root", compressor, when, uuids)
        self._indices = _indices_tree(self._file)
        self._trees = {kind: _type_tree(self._file, kind) for kind in TREES}

    def _check_path(self) -> None:
        if self.path.is_dir():
            raise IsADirectoryError(f"{self.path} is a folder, want the name of a file")
        if self.path.exists() and not self._overwrite:
            raise FileExistsError(f"{self.path} exists: want another name, or overwrite=True")
        if not self.path.parent.is_dir():
            raise FileNotFoundError(f"{self.path}: no folder {self.path.parent}, want one that is")

    def __enter__(self) -> DQMIOWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        del error, trace
        if kind is None:
            self.close()
        else:
            self.discard()

    def write(
        self,
        stacks: Iterable[HistogramStack] = (),
        *,
        scalars: pd.DataFrame | None = None,
        lumisections: pd.DataFrame | None = None,
    ) -> None:
        """Append complete lumisections: all their elements, and their times.

        Raises ValueError, before anything of it is written, as `write` does, and if one of the
        lumisections was written before.
        """
        self._append(Batch(list(stacks), scalars, lumisections))

    def _append(self, batch: Batch) -> None:
        again = self._written.intersection(batch.keys)
        if again:
            run_number, ls_number = min(again)
            raise ValueError(
                f"run {run_number}, lumisection {ls_number} was written before: "
                "want all elements of a lumisection at once"
            )
        self._written.update(batch.keys)
        ranges: dict[tuple[int, int], list[tuple[int, int, int]]] = {key: [] for key in batch.keys}
        for kind, tree in self._trees.items():
            before = tree.branches["FullName"].n_entries
            counts = (
                self._fill_scalars(tree, kind, batch)
                if kind in SCALARS
                else self._fill_stacks(tree, kind, batch)
            )
            for key, count in counts.items():
                ranges[key].append((_TYPES[kind], before, before + count - 1))
                before += count
        self._fill_indices(batch, ranges)

    def _fill_indices(
        self, batch: Batch, ranges: dict[tuple[int, int], list[tuple[int, int, int]]]
    ) -> None:
        rows = [
            (*key, 0, *batch.times.get(key, (0, 0)), *found)
            for key in batch.keys
            for found in ranges[key] or [(_NOTHING, 0, 0)]
        ]
        columns = zip(*rows, strict=True) if rows else iter([[]] * len(_INDICES))
        named = {
            name: np.array(column, dtype=np.uint64)
            for name, column in zip(_INDICES, columns, strict=True)
        }
        self._indices.fill(**named)

    def _fill_scalars(self, tree: Tree, kind: str, batch: Batch) -> dict[tuple[int, int], int]:
        rows = [row for row in batch.scalars if row.kind == kind]
        rows.sort(key=lambda row: run_order((row.run_number, row.ls_number)))
        tree.fill(
            FullName=[row.me for row in rows],
            Flags=np.array([row.flags for row in rows], dtype=np.uint32),
            Value=[row.value for row in rows],
        )
        counts: dict[tuple[int, int], int] = {}
        for row in rows:
            key = (row.run_number, row.ls_number)
            counts[key] = counts.get(key, 0) + 1
        return counts

    def _fill_stacks(self, tree: Tree, kind: str, batch: Batch) -> dict[tuple[int, int], int]:
        counts: dict[tuple[int, int], int] = {}
        of_kind = [stack for stack in batch.stacks if stack.kind == kind and len(stack)]
        for run_number in sorted({stack.run_number for stack in of_kind}):
            stacks = [stack for stack in of_kind if stack.run_number == run_number]
            numbers = np.unique(np.concatenate([stack.ls_numbers for stack in stacks]))
            numbers = np.concatenate([numbers[numbers != 0], numbers[numbers == 0]])
            templates = [self._template_of(stack) for stack in stacks]
            per_ls = sum(template.size for template in templates)
            step = max(1, _BATCH_BYTES // per_ls)
            for start in range(0, len(numbers), step):
                some = numbers[start : start + step]
                present = _fill_some(tree, stacks, templates, some)
                for ls_number, count in zip(some.tolist(), present.tolist(), strict=True):
                    counts[run_number, ls_number] = count
        return counts

    def _template_of(self, stack: HistogramStack) -> entries.Template:
        key = (
            *(stack.kind, stack.me, stack.title, stack.axes, stack.error_mode, stack.value_range),
            *(stack.sumw2 is None, stack.sum_of_weights_squared is None),
        )
        found = self._templates.get(key)
        if found is None:
            if len(self._templates) >= _MAX_TEMPLATES:
                self._templates.clear()
            found = self._templates[key] = entries.template(stack)
        return found

    def close(self) -> None:
        """Complete the file and give it its name."""
        try:
            self._finish()
        except BaseException:
            self.discard()
            raise

    def _finish(self) -> None:
        file = self._file
        guid = string_bytes(self.guid)
        file.add(file.root, "string", "cms::edm::GUID", "object title", guid)
        meta = file.directory("MetaData")
        for tree in _metadata_trees(file, self._release):
            tree.close(meta)
        for tree in (self._indices, *self._trees.values()):
            tree.close(file.root)
        file.close()
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        self._check_path()
        self._part.replace(self.path)

    def discard(self) -> None:
        """Leave no file behind."""
        self._stream.close()
        with contextlib.suppress(FileNotFoundError):
            self._part.unlink()


_MAX_TEMPLATES = 20_000


class _Uuids:
    """Identities: random, or one after another from a seed."""

    def __init__(self, seed: int | None) -> None:
        self._seed, self._count = seed, 0

    def __call__(self) -> uuid.UUID:
        if self._seed is None:
            return uuid.uuid4()
        self._count += 1
        return uuid.uuid5(uuid.NAMESPACE_URL, f"ml4ad:{self._seed}:{self._count}")


def _fill_some(
    tree: Tree, stacks: Sequence[HistogramStack], templates: Sequence[entries.Template], some: Ints
) -> Ints:
    """Append the lumisections ``some`` of the stacks, in order; how many histograms each has."""
    where = [np.flatnonzero(np.isin(some, stack.ls_numbers)) for stack in stacks]
    sizes = np.zeros((len(some), len(stacks)), dtype=np.int64)
    for j, (template, rows) in enumerate(zip(templates, where, strict=True)):
        sizes[rows, j] = template.size
    starts = (np.cumsum(sizes) - sizes.ravel()).reshape(sizes.shape)
    data = np.empty(int(sizes.sum()), dtype=np.uint8)
    references = []
    for j, (stack, template) in enumerate(zip(stacks, templates, strict=True)):
        positions = starts[where[j], j]
        rows = np.searchsorted(stack.ls_numbers, some[where[j]])
        entries.scatter(template, stack, rows, data, positions)
        moved = positions[:, None, None] + template.references
        references.append(moved.reshape(-1, 2))
    kept = sizes.ravel() > 0
    present = (sizes > 0).sum(axis=1)
    tree.branches["Value"].fill(data, sizes.ravel()[kept], np.concatenate(references))
    order = np.tile(np.arange(len(stacks)), len(some))[kept]
    names = [stack.me for stack in stacks]
    flags = np.array([stack.flags for stack in stacks], dtype=np.uint32)
    tree.fill(FullName=[names[j] for j in order.tolist()], Flags=flags[order])
    return present


# Names of the branches of `Indices` and their types, in the order of their rows here.
_INDICES = {
    "Run": "i",
    "Lumi": "i",
    "ProcessHistoryIndex": "i",
    "BeginTime": "l",
    "EndTime": "l",
    "Type": "i",
    "FirstIndex": "l",
    "LastIndex": "l",
}


def _indices_tree(file: RootFile) -> Tree:
    tree = Tree(file, "Indices")
    for name, letter in _INDICES.items():
        tree.number(name, letter)
    return tree


def _type_tree(file: RootFile, kind: str) -> Tree:
    tree = Tree(file, TREES[kind])
    tree.text("FullName")
    tree.number("Flags", "i")
    if kind not in SCALARS:
        framed = kind not in entries.BARE
        tree.objects("Value", kind, framed=framed, basket_size=_VALUE_BASKET)
    elif SCALARS[kind]:
        tree.number("Value", SCALARS[kind])
    else:
        tree.text("Value")
    return tree


def _metadata_trees(file: RootFile, release: str) -> list[Tree]:
    parameters = "written by ml4ad"
    sets = Tree(file, "ParameterSets")
    sets.text("ParameterSetBlob")
    sets.fill(ParameterSetBlob=[parameters])
    histories = Tree(file, "ProcessHistories")
    histories.number("Index", "i")
    for name in ("ProcessName", "ParameterSetID", "ReleaseVersion", "PassID"):
        histories.text(name)
    digest = hashlib.md5(parameters.encode(), usedforsecurity=False).hexdigest()
    histories.fill(
        Index=[0],
        ProcessName=["DQM"],
        ParameterSetID=[digest],
        ReleaseVersion=[release],
        PassID=[""],
    )
    return [histories, sets]
