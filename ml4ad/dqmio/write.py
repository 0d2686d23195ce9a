"""Writing DQMIO files: stacks of histograms and single values in, the layout of CMSSW out."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
import re
import secrets
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ml4ad.dqmio.layouts import Encoder, Instance, Slot, string_bytes
from ml4ad.dqmio.rootfile import Bytes, Compressor, RootFile, Tree
from ml4ad.stack import KINDS, Axis, HistogramStack, Ints, is_profile, statistics_names

if TYPE_CHECKING:
    import pandas as pd

#: Kinds of elements in the order of DQMIO's type numbers, and the trees that hold them.
TREES = {kind: f"{kind}s" for kind in ("Int", "Float", "String", *KINDS)}
_TYPES = {kind: number for number, kind in enumerate(TREES)}
_NOTHING = 1000
_SCALARS = {"Int": "L", "Float": "D", "String": ""}
# ROOT writes these classes bare into a TBranchElement, all others framed into a TBranchObject.
_BARE = {"TH1F", "TH1S", "TH1D", "TH1I", "TH2I"}

_MAX_NAME = 255
_UINT32 = 2**32 - 1
_VALUE_BASKET = 128 * 1024
_BATCH_BYTES = 8 * 1024**2
_ERROR_MODES = {"": 0, "s": 1, "i": 2, "g": 3}
_SCALAR_COLUMNS = ("run_number", "ls_number", "me", "kind", "value")
_LS_COLUMNS = ("run_number", "ls_number", "begin_time", "end_time")


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
    batch = _Batch(held, scalars, lumisections)
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

    The arguments are those of `write`. Leaving the ``with`` block by an exception leaves no file.

    >>> with ml4ad.dqmio.create("out.root") as out:  # doctest: +SKIP
    ...     for chunk in chunks:
    ...         out.write(chunk.stacks, lumisections=chunk.lumisections)
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


# -- what is to be written, checked ----------------------------------------------------------------


class _Batch:
    """Complete lumisections: stacks, scalars, and the times of every lumisection."""

    def __init__(
        self,
        stacks: Sequence[HistogramStack],
        scalars: pd.DataFrame | None,
        lumisections: pd.DataFrame | None,
    ) -> None:
        self.stacks = [_checked(stack) for stack in stacks]
        self.scalars = [] if scalars is None else list(_scalar_rows(scalars))
        self.times = {} if lumisections is None else dict(_time_rows(lumisections))
        seen: set[tuple[str, int, int]] = set()
        for stack in self.stacks:
            for ls_number in stack.ls_numbers.tolist():
                _note(seen, stack.me, stack.run_number, ls_number)
        for row in self.scalars:
            _note(seen, row.me, row.run_number, row.ls_number)
        keys = {(run_number, ls_number) for _, run_number, ls_number in seen} | set(self.times)
        # CMSSW stores a run's own elements (lumisection 0) when the run ends.
        self.keys = sorted(keys, key=_run_order)


def _run_order(key: tuple[int, int]) -> tuple[int, bool, int]:
    run_number, ls_number = key
    return run_number, ls_number == 0, ls_number


def _note(seen: set[tuple[str, int, int]], me: str, run_number: int, ls_number: int) -> None:
    key = (me, run_number, ls_number)
    if key in seen:
        raise ValueError(f"{me}, run {run_number}, lumisection {ls_number}: given twice, want once")
    seen.add(key)


def _check_name(me: object) -> str:
    if not isinstance(me, str) or not me or "\0" in me:
        raise ValueError(f"element name {me!r}, want a text of 1 to {_MAX_NAME} bytes")
    length = len(me.encode("utf-8", "surrogateescape"))
    if length > _MAX_NAME:
        raise ValueError(f"element name {me!r} has {length} bytes, want 1 to {_MAX_NAME}")
    return me


def _check_number(what: str, value: Any) -> int:
    if value != value or int(value) != value or not 0 <= value <= _UINT32:
        raise ValueError(f"{what} {value}, want a whole number from 0 to {_UINT32}")
    return int(value)


def _checked(stack: HistogramStack) -> HistogramStack:
    me = _check_name(stack.me)
    _check_number(f"{me}: run number", stack.run_number)
    _check_number(f"{me}: flags", stack.flags)
    for ls_number in stack.ls_numbers[[0, -1]] if len(stack) else ():
        _check_number(f"{me}: lumisection", ls_number)
    if stack.error_mode not in _ERROR_MODES:
        modes = ", ".join(map(repr, _ERROR_MODES))
        raise ValueError(f"{me}: error mode {stack.error_mode!r}, want one of {modes}")
    dtype = np.dtype(KINDS[stack.kind][1])
    if stack.contents.dtype != dtype and not np.can_cast(stack.contents.dtype, dtype):
        with np.errstate(all="ignore"):
            back = stack.contents.astype(dtype).astype(stack.contents.dtype)
        wrong = (back != stack.contents) & (stack.contents == stack.contents)
        if wrong.any():
            value = stack.contents[wrong][0]
            raise ValueError(f"{me}: {value} in a {stack.kind}, want values exact in {dtype}")
    return stack


@dataclass(frozen=True)
class _Scalar:
    me: str
    kind: str
    run_number: int
    ls_number: int
    value: Any
    flags: int


def _columns(frame: pd.DataFrame, what: str, wanted: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    missing = [name for name in wanted if name not in frame.columns]
    if missing:
        raise ValueError(f"{what}: no column {', '.join(missing)}; want {', '.join(wanted)}")
    return zip(*(frame[name].tolist() for name in wanted), strict=True)


def _scalar_rows(frame: pd.DataFrame) -> Iterator[_Scalar]:
    flags = frame["flags"].tolist() if "flags" in frame.columns else [0] * len(frame)
    rows = _columns(frame, "scalars", _SCALAR_COLUMNS)
    for (run_number, ls_number, me, kind, value), flag in zip(rows, flags, strict=True):
        _check_name(me)
        yield _Scalar(
            me,
            kind,
            _check_number(f"{me}: run number", run_number),
            _check_number(f"{me}: lumisection", ls_number),
            _scalar_value(me, kind, value),
            _check_number(f"{me}: flags", flag),
        )


def _scalar_value(me: str, kind: str, value: Any) -> Any:
    if kind not in _SCALARS:
        raise ValueError(f"{me}: kind {kind!r}, want one of {', '.join(_SCALARS)}")
    if kind == "String":
        if not isinstance(value, str):
            raise ValueError(f"{me}: {value!r} as a String, want a text")
        return value
    if isinstance(value, str):
        raise ValueError(f"{me}: {value!r} as {kind}, want a number")
    if kind == "Int" and (value != value or int(value) != value or not -(2**63) <= value < 2**63):
        raise ValueError(f"{me}: {value} as an Int, want a whole number of 64 bits")
    return int(value) if kind == "Int" else float(value)


def _time_rows(frame: pd.DataFrame) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    seen = set()
    for run_number, ls_number, begin, end in _columns(frame, "lumisections", _LS_COLUMNS):
        key = (
            _check_number("lumisections: run number", run_number),
            _check_number("lumisections: lumisection", ls_number),
        )
        if key in seen:
            raise ValueError(f"lumisections: run {key[0]}, lumisection {key[1]} twice, want once")
        seen.add(key)
        yield key, (_timestamp(begin), _timestamp(end))


def _timestamp(when: Any) -> int:
    """A time as edm::Timestamp: seconds in the high 32 bits, microseconds in the low."""
    import pandas as pd

    if pd.isna(when):
        return 0
    moment = pd.Timestamp(when)
    moment = moment.tz_localize("UTC") if moment.tz is None else moment.tz_convert("UTC")
    microseconds = moment.as_unit("ns").value // 1000
    seconds, rest = divmod(microseconds, 1_000_000)
    if not 0 <= seconds <= _UINT32:
        raise ValueError(f"lumisections: time {when}, want 1970 to 2106")
    return int(seconds << 32 | rest)


# -- bytes of histograms ---------------------------------------------------------------------------


@dataclass(frozen=True)
class _Template:
    """What the histograms of one element share: pieces of bytes, and where the rest goes."""

    size: int
    pieces: tuple[tuple[int, Bytes], ...]
    slots: dict[str, tuple[int, Slot]]
    references: NDArray[np.int64]


_STYLE = {
    "fLineColor": 602,
    "fLineStyle": 1,
    "fLineWidth": 1,
    "fFillStyle": 1001,
    "fMarkerColor": 1,
    "fMarkerStyle": 1,
    "fMarkerSize": 1.0,
}
_AXIS_STYLE = {
    "fNdivisions": 510,
    "fAxisColor": 1,
    "fLabelColor": 1,
    "fLabelFont": 42,
    "fLabelOffset": 0.005,
    "fLabelSize": 0.035,
    "fTickLength": 0.03,
    "fTitleOffset": 1.0,
    "fTitleSize": 0.035,
    "fTitleColor": 1,
    "fTitleFont": 42,
}
_NO_AXIS = Axis.regular(1, 0, 1)


def _axis_values(axis: Axis, letter: str) -> dict[str, Any]:
    name = f"{letter}axis" if axis.name == "xaxis" else axis.name
    labels = [
        Instance("TObjString", {"fUniqueID": number, "fString": label})
        for number, label in enumerate(axis.labels, start=1)
        if label
    ]
    return {
        **_AXIS_STYLE,
        "fName": name,
        "fTitle": axis.title,
        "fNbins": axis.n_bins,
        "fXmin": axis.edges[0],
        "fXmax": axis.edges[-1],
        "fXbins": axis.edges if axis.variable else (),
        "fLabels": Instance("THashList", items=labels) if labels else None,
    }


def _histogram_values(stack: HistogramStack) -> dict[str, Any]:
    kind, n_cells = stack.kind, int(np.prod([axis.n_bins + 2 for axis in stack.axes]))
    axes = (*stack.axes, *[_NO_AXIS] * (3 - len(stack.axes)))

    def array(name: str) -> Slot | tuple[()]:
        return () if getattr(stack, name) is None else Slot(name, "f8", n_cells)

    values: dict[str, Any] = {
        **_STYLE,
        "fBits": 0x03000008,
        "fName": stack.me.rsplit("/", 1)[-1],
        "fTitle": stack.title,
        "fNcells": n_cells,
        "fBarWidth": 1000,
        "fEntries": Slot("entries", "f8"),
        "fMaximum": -1111.0,
        "fMinimum": -1111.0,
        "fScalefactor": 1.0,
        "fSumw2": array("sumw2"),
        "fStatOverflows": 2,  # as ROOT's own setting says
        "fArray": Slot("contents", KINDS[kind][1], n_cells),
    }
    values |= {
        f"f{x}axis": _axis_values(axis, x.lower()) for x, axis in zip("XYZ", axes, strict=True)
    }
    values |= {f"fT{name}": Slot(f"fT{name}", "f8") for name in statistics_names(kind)}
    if is_profile(kind):
        value_axis = "YZ"[len(stack.axes) - 1]
        values |= {
            "fBinEntries": array("sum_of_weights"),
            "fErrorMode": _ERROR_MODES[stack.error_mode],
            f"f{value_axis}min": stack.value_range[0],
            f"f{value_axis}max": stack.value_range[1],
            "fBinSumw2": array("sum_of_weights_squared"),
        }
    return values


def _template(stack: HistogramStack) -> _Template:
    encoder = Encoder()
    if stack.kind in _BARE:
        encoder.bare(stack.kind, _histogram_values(stack))
    else:
        name = stack.kind.encode()
        encoder.data += bytes([len(name)]) + name + b"\0"
        encoder.record(stack.kind, _histogram_values(stack))
    whole = np.frombuffer(bytes(encoder.data), dtype=np.uint8)
    pieces, begin = [], 0
    slots = sorted((position, slot) for slot, position in encoder.slots.items())
    for position, slot in slots:
        if position > begin:
            pieces.append((begin, whole[begin:position].copy()))
        begin = position + slot.count * np.dtype(slot.dtype).itemsize
    if begin < len(whole):
        pieces.append((begin, whole[begin:].copy()))
    return _Template(
        len(whole),
        tuple(pieces),
        {slot.name: (position, slot) for position, slot in slots},
        np.array(encoder.tags, dtype=np.int64).reshape(-1, 2),
    )


def _encode(template: _Template, stack: HistogramStack, rows: Any, out: Bytes) -> None:
    """Bytes of the histograms ``rows`` of ``stack`` into ``out``, ``(n, template.size)``."""
    for position, piece in template.pieces:
        out[:, position : position + len(piece)] = piece
    sums = {f"fT{name}": i for i, name in enumerate(statistics_names(stack.kind))}
    for name, (position, slot) in template.slots.items():
        source = stack.statistics[:, sums[name]] if name in sums else getattr(stack, name)
        values = source[rows]
        # ROOT's cells run along x first.
        cells = values.transpose(0, *range(values.ndim - 1, 0, -1))
        plain = np.ascontiguousarray(cells, dtype=f">{slot.dtype}").reshape(len(out), slot.count)
        raw = plain.view(np.uint8)
        out[:, position : position + raw.shape[1]] = raw


# -- the writer ------------------------------------------------------------------------------------


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
        self._templates: dict[Any, _Template] = {}
        self._part = self.path.with_name(f".{self.path.name[:200]}.{secrets.token_hex(4)}.part")
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
        self._append(_Batch(list(stacks), scalars, lumisections))

    def _append(self, batch: _Batch) -> None:
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
                if kind in _SCALARS
                else self._fill_stacks(tree, kind, batch)
            )
            for key, count in counts.items():
                ranges[key].append((_TYPES[kind], before, before + count - 1))
                before += count
        self._fill_indices(batch, ranges)

    def _fill_indices(
        self, batch: _Batch, ranges: dict[tuple[int, int], list[tuple[int, int, int]]]
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

    def _fill_scalars(self, tree: Tree, kind: str, batch: _Batch) -> dict[tuple[int, int], int]:
        rows = [row for row in batch.scalars if row.kind == kind]
        rows.sort(key=lambda row: _run_order((row.run_number, row.ls_number)))
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

    def _fill_stacks(self, tree: Tree, kind: str, batch: _Batch) -> dict[tuple[int, int], int]:
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

    def _template_of(self, stack: HistogramStack) -> _Template:
        key = (
            *(stack.kind, stack.me, stack.title, stack.axes, stack.error_mode, stack.value_range),
            *(stack.sumw2 is None, stack.sum_of_weights_squared is None),
        )
        found = self._templates.get(key)
        if found is None:
            if len(self._templates) >= _MAX_TEMPLATES:
                self._templates.clear()
            found = self._templates[key] = _template(stack)
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
    tree: Tree, stacks: Sequence[HistogramStack], templates: Sequence[_Template], some: Ints
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
        _scatter(template, stack, rows, data, positions)
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


def _scatter(
    template: _Template, stack: HistogramStack, rows: Ints, data: Bytes, positions: Ints
) -> None:
    strides = np.diff(positions)
    if len(rows) and (strides == strides[:1]).all():
        # The lumisections lie at equal distances: write them in place.
        stride = int(strides[0]) if len(strides) else template.size
        out = np.lib.stride_tricks.as_strided(
            data[int(positions[0]) :], (len(rows), template.size), (stride, 1)
        )
        _encode(template, stack, rows, out)
        return
    out = np.empty((len(rows), template.size), dtype=np.uint8)
    _encode(template, stack, rows, out)
    for position, row in zip(positions.tolist(), out, strict=True):
        data[position : position + template.size] = row


# -- trees -----------------------------------------------------------------------------------------

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
    if kind not in _SCALARS:
        framed = kind not in _BARE
        tree.objects("Value", kind, framed=framed, basket_size=_VALUE_BASKET)
    elif _SCALARS[kind]:
        tree.number("Value", _SCALARS[kind])
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
