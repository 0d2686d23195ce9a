"""What is in a DQMIO file: its index, its elements, and its histograms as stacks."""

from __future__ import annotations

import lzma
import os
import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ml4ad.dqmio.assemble import Assembler, Origin
from ml4ad.dqmio.axes import decoded
from ml4ad.dqmio.baskets import Branch, Ints, Loss, Piece
from ml4ad.dqmio.names import Pattern, dataset_from_path, literal, matcher, near, spelled
from ml4ad.dqmio.source import CorruptFileError, NotDQMIOError, Source
from ml4ad.stack import KINDS, HistogramStack, LsSelection, as_ls_mask, concatenate

if TYPE_CHECKING:
    import pandas as pd

#: Kinds of monitoring elements, in the order of the numbers that ``Indices`` gives them.
TYPES = (
    *("Int", "Float", "String", "TH1F", "TH1S", "TH1D", "TH2F", "TH2S", "TH2D", "TH3F"),
    *("TProfile", "TProfile2D", "TH1I", "TH2I"),
)
#: The type that says: this lumisection was processed, and held nothing.
NOTHING = 1000
_SCALARS = {"Int": ">i8", "Float": ">f8", "String": ""}
_INDEX = {
    "Run": ">u4",
    "Lumi": ">u4",
    "Type": ">u4",
    "BeginTime": ">u8",
    "EndTime": ">u8",
    "FirstIndex": ">u8",
    "LastIndex": ">u8",
}
_NAME_BYTES = 1 << 24
_T = TypeVar("_T")
_SMALLEST = 64
# No tree packs more entries into a byte of its file than this.
_DENSEST = 16


@contextmanager
def _door(path: str, what: str) -> Iterator[None]:
    """Whatever the parsing of a corrupt file brings up leaves here as CorruptFileError."""
    import uproot

    try:
        yield
    except CorruptFileError:
        raise
    except OSError as error:
        # An error of the system has a number; uproot raises OSError also where bytes are missing.
        if error.errno is not None:
            raise
        raise CorruptFileError(f"{path}: {what}: {_one_line(error)}") from error
    except (
        ArithmeticError,
        AssertionError,
        AttributeError,
        EOFError,
        LookupError,
        MemoryError,
        NotImplementedError,
        RecursionError,
        SyntaxError,
        TypeError,
        ValueError,
        lzma.LZMAError,
        struct.error,
        uproot.deserialization.DeserializationError,
        zlib.error,
    ) as error:
        raise CorruptFileError(f"{path}: {what}: {_one_line(error)}") from error


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__


class DQMIOFile:
    """An open DQMIO file. Use as a context, or `close` it.

    ``losses`` lists what ``on_error="skip"`` left out. Raises NotDQMIOError if it is something
    else, CorruptFileError if it is broken, OSError if it cannot be opened.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        dataset: str | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = os.fspath(path)
        self.dataset = dataset_from_path(self.path) if dataset is None else dataset
        self.losses: list[Loss] = []
        self._branches: dict[str, Branch] = {}
        self._named: dict[str, tuple[list[str], Ints]] = {}
        self._root: Any = None
        self._source = Source(path, storage_options)
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        size = self._source.size
        head = self._source.read_at([(0, _SMALLEST)])[0] if size else b""
        if head[:4] != b"root":
            raise NotDQMIOError(f"{self.path}: not a ROOT file ({size} bytes)")
        if len(head) < _SMALLEST:
            raise NotDQMIOError(f"{self.path}: a ROOT file of {size} bytes holds nothing")
        version = int.from_bytes(head[4:8], "big")
        wide = version >= 1_000_000
        end = int.from_bytes(head[12:20] if wide else head[12:16], "big")
        if end > size:
            raise CorruptFileError(f"{self.path}: truncated: {size} bytes of {end}")
        with _door(self.path, "the directory of the file"):
            import uproot

            self._root = uproot.open(self._source, use_threads=False)
            found = set(self._root.keys(recursive=False, cycle=False))
            self.uuid = str(self._root.file.uuid)
        if "Indices" not in found:
            names = ", ".join(sorted(found)[:5]) or "nothing"
            raise NotDQMIOError(f"{self.path}: no tree 'Indices', only {names}")
        self._found = found
        self._index = self._read_index()

    def close(self) -> None:
        """Close it; a second time does nothing."""
        if self._root is not None:
            self._root.close()
        self._source.close()

    def __enter__(self) -> DQMIOFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"DQMIOFile({self.path!r}, dataset={self.dataset!r})"

    # -- trees ------------------------------------------------------------------------------------

    def _raise(self, loss: Loss) -> None:
        raise CorruptFileError(f"{self.path}: {loss}")

    def _lose(self, on_error: str) -> Any:
        if on_error not in ("raise", "skip"):
            raise ValueError(f"on_error {on_error!r}, want 'raise' or 'skip'")
        return self._raise if on_error == "raise" else self._remember

    def _remember(self, loss: Loss) -> None:
        if loss not in self.losses:
            self.losses.append(loss)

    def _branch(self, tree: str, name: str) -> Branch:
        key = f"{tree}/{name}"
        if key not in self._branches:
            with _door(self.path, f"tree {tree}"):
                for branch in self._root[tree].branches:
                    made = Branch(self._source, tree, branch)
                    if made.n_entries > _DENSEST * self._source.size:
                        raise CorruptFileError(f"{made.where}: {made.n_entries} entries")
                    self._branches[f"{tree}/{made.name}"] = made
        if key not in self._branches:
            raise CorruptFileError(f"{self.path}: tree {tree} has no branch {name}")
        return self._branches[key]

    def _read_index(self) -> dict[str, NDArray[Any]]:
        columns = {
            name: self._branch("Indices", name).column(dtype, self._raise)
            for name, dtype in _INDEX.items()
        }
        lengths = {name: len(values) for name, values in columns.items()}
        if len(set(lengths.values())) != 1:
            raise CorruptFileError(f"{self.path}: Indices has branches of lengths {lengths}")
        first, last = columns["FirstIndex"], columns["LastIndex"]
        limit = np.uint64(_DENSEST * self._source.size)
        filled = columns["Type"] != NOTHING
        bad = filled & ((first > limit) | (last > limit) | (last < first))
        bad |= filled & (columns["Type"] >= len(TYPES))
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            told = {name: int(values[row]) for name, values in columns.items()}
            raise CorruptFileError(f"{self.path}: Indices, entry {row} makes no sense: {told}")
        return {
            name: values if name.endswith("Time") else values.astype(np.int64)
            for name, values in columns.items()
        }

    def _rows_of(self, kind: str) -> Ints:
        return np.flatnonzero(self._index["Type"] == TYPES.index(kind))

    def _names_of(self, kind: str) -> tuple[list[str], Ints]:
        """Names of a tree's elements, and which of them each entry is (-1: its name is lost)."""
        if kind not in self._named:
            tree = f"{kind}s"
            if tree not in self._found:
                self._named[kind] = [], np.empty(0, dtype=np.int64)
            else:
                branch = self._branch(tree, "FullName")
                lost: list[Loss] = []
                texts, codes = _coded(branch, lost.append)
                for loss in lost:
                    self._remember(loss)
                self._named[kind] = [decoded(text) for text in texts], codes
        return self._named[kind]

    def _places(self, kind: str) -> tuple[Ints, Ints, Ints]:
        """Name, run and lumisection of every entry of a tree; -1 where nothing tells them."""
        _, codes = self._names_of(kind)
        rows = self._rows_of(kind)
        first, last = self._index["FirstIndex"][rows], self._index["LastIndex"][rows]
        n_entries = int(last.max()) + 1 if len(rows) else 0
        tree = f"{kind}s"
        held = self._branch(tree, "Value").n_entries if tree in self._found else 0
        if n_entries > held:
            raise CorruptFileError(f"{self.path}: {tree} has {held} entries, Indices {n_entries}")
        row_of = np.full(held, -1, dtype=np.int64)
        for row, start, stop in zip(
            rows.tolist(), first.tolist(), (last + 1).tolist(), strict=True
        ):
            row_of[start:stop] = row
        if int((last + 1 - first).sum()) != int((row_of >= 0).sum()):
            raise CorruptFileError(f"{self.path}: Indices tells entries of {tree} more than once")
        known = row_of >= 0
        runs = np.where(known, self._index["Run"][row_of], -1)
        ls_numbers = np.where(known, self._index["Lumi"][row_of], -1)
        padded = np.full(held, -1, dtype=np.int64)
        padded[: min(held, len(codes))] = codes[:held]
        return np.where(known, padded, -1), runs, ls_numbers

    # -- what is in it ----------------------------------------------------------------------------

    @cached_property
    def index(self) -> pd.DataFrame:
        """A row per run, lumisection (0: whole run) and kind ("" where there was nothing).

        ``first`` and ``last`` are entries of the tree of that kind, the last included.
        """
        import pandas as pd

        kinds = np.array([*TYPES, ""], dtype=object)
        types = self._index["Type"]
        return pd.DataFrame(
            {
                "run_number": self._index["Run"],
                "ls_number": self._index["Lumi"],
                "kind": kinds[np.where(types == NOTHING, len(TYPES), types)],
                "begin_time": _times(self._index["BeginTime"]),
                "end_time": _times(self._index["EndTime"]),
                "first": self._index["FirstIndex"],
                "last": self._index["LastIndex"],
            }
        )

    @cached_property
    def lumisections(self) -> pd.DataFrame:
        """Every lumisection that was processed, with times and its number of elements, ``n_mes``.

        Begin and end are NaT where the file does not know them.
        """
        index = self.index[self.index.ls_number > 0]
        n_mes = (index["last"] - index["first"] + 1).where(index.kind != "", 0)
        table = index.assign(n_mes=n_mes).groupby(["run_number", "ls_number"], as_index=False)
        return table.agg(
            begin_time=("begin_time", "min"), end_time=("end_time", "max"), n_mes=("n_mes", "sum")
        )

    @cached_property
    def elements(self) -> pd.DataFrame:
        """Every element and kind: in how many lumisections (``n_ls``), and if also per run."""
        import pandas as pd

        rows = []
        for kind in TYPES:
            names, _ = self._names_of(kind)
            codes, _, ls_numbers = self._places(kind)
            per_run = np.bincount(codes[(codes >= 0) & (ls_numbers == 0)], minlength=len(names)) > 0
            n_ls = np.bincount(codes[(codes >= 0) & (ls_numbers > 0)], minlength=len(names))
            told = zip(names, n_ls.tolist(), per_run.tolist(), strict=True)
            rows += [(name, kind, n, whole) for name, n, whole in told if n or whole]
        return pd.DataFrame(rows, columns=["me", "kind", "n_ls", "per_run"])

    @cached_property
    def release(self) -> str:
        """CMSSW release of the last process that made the file, or "" if it is not told."""
        with _door(self.path, "MetaData"):
            if "MetaData" not in self._found:
                return ""
            folder = self._root["MetaData"]
            if "ProcessHistories" not in folder.keys(recursive=False, cycle=False):
                return ""
            for branch in folder["ProcessHistories"].branches:
                if branch.name == "ReleaseVersion":
                    made = Branch(self._source, "MetaData/ProcessHistories", branch)
                    texts, codes = _coded(made, self._raise)
                    told = [decoded(texts[code]) for code in codes if texts[code]]
                    return told[-1] if told else ""
        return ""

    @cached_property
    def guid(self) -> str:
        """The GUID that CMSSW gave the file, or "" if it has none."""
        if "cms::edm::GUID" not in self._found:
            return ""
        with _door(self.path, "cms::edm::GUID"):
            found = re.search(r"[0-9A-Za-z-]{36}", str(self._root["cms::edm::GUID"]))
        return found[0] if found else ""

    @cached_property
    def sizes(self) -> pd.DataFrame:
        """Entries of every tree, and compressed bytes of its contents and names in the file."""
        import pandas as pd

        rows = []
        for kind in TYPES:
            if f"{kind}s" in self._found:
                value = self._branch(f"{kind}s", "Value")
                names = self._branch(f"{kind}s", "FullName")
                rows.append((kind, value.n_entries, value.stored_bytes, names.stored_bytes))
        return pd.DataFrame(rows, columns=["kind", "n_entries", "contents_bytes", "names_bytes"])

    @property
    def file_bytes(self) -> int:
        """Size of the file."""
        return self._source.size

    @cached_property
    def _run_ls_numbers(self) -> dict[int, Ints]:
        runs, ls_numbers = self._index["Run"], self._index["Lumi"]
        return {
            int(run): np.unique(ls_numbers[(runs == run) & (ls_numbers > 0)])
            for run in np.unique(runs)
        }

    # -- contents ---------------------------------------------------------------------------------

    def stack(
        self,
        me: Pattern,
        run_number: int | None = None,
        ls_numbers: LsSelection | None = None,
    ) -> HistogramStack:
        """All lumisections of one element of one run, or those wanted, as `Archive.stack` gives it.

        The run need not be named where the file has one of it. Raises KeyError, naming what is
        near, if no element is meant or the run has none of it; ValueError if several are meant, or
        its binning changes (then `stacks` gives each).
        """
        histograms = self.elements[self.elements["kind"].isin(KINDS)]["me"].unique().tolist()
        meant = [name for name in histograms if matcher(me)(name)]
        if not meant:
            raise KeyError(f"no element matches {spelled(me)!r}; {near(me, histograms)}")
        if len(meant) > 1:
            told = ", ".join(meant[:3]) + (", ..." if len(meant) > 3 else "")
            raise ValueError(f"{spelled(me)!r} means {len(meant)} elements, want one of {told}")
        found = list(self.stacks(literal(meant[0]), run_number, ls_numbers))
        # What was filled per run is no lumisection, unless it is all that there is.
        found = [own for own in found if own.ls_numbers[0]] or found
        runs = sorted({own.run_number for own in found})
        if not found:
            of = f" of lumisections {ls_numbers}" if ls_numbers is not None else ""
            there = ", ".join(map(str, sorted(set(self.lumisections["run_number"]))))
            raise KeyError(
                f"{meant[0]}: nothing{of} of run {run_number or there}; runs there: {there}"
            )
        if len(runs) > 1:
            raise ValueError(f"{meant[0]}: of {len(runs)} runs, want one of {runs}")
        return concatenate(found)

    def stacks(
        self,
        me: Pattern = "*",
        run_number: int | Iterable[int] | None = None,
        ls_numbers: LsSelection | None = None,
        kinds: str | Iterable[str] | None = None,
        on_error: str = "raise",
        memory_mb: int = 256,
        threads: int | None = None,
    ) -> Iterator[HistogramStack]:
        """Histograms of the elements that ``me`` means, a stack per element and run.

        What was filled per run is a stack with the one lumisection 0. An element of a run comes as
        several stacks of disjoint lumisections where its title, binning or layout changes, and
        where all would take more than about ``memory_mb`` at once. ``on_error="skip"`` leaves out
        what is corrupt and tells it in `losses`. Arrays of more than one axis are views with x
        first upon the order of the file. ``threads`` decompress, by default as many as there are
        cores and at most 4; with 1 nothing is read ahead either.

        Raises CorruptFileError with tree, entries and reason; ValueError for an unknown kind.
        """
        lose = self._lose(on_error)
        wanted = [kinds] if isinstance(kinds, str) else list(KINDS if kinds is None else kinds)
        unknown = [kind for kind in wanted if kind not in KINDS]
        if unknown:
            raise ValueError(f"kind {unknown[0]!r}, want one of {', '.join(KINDS)}")
        if memory_mb < 1:
            raise ValueError(f"memory_mb {memory_mb}, want at least 1")
        is_meant = matcher(me)
        n_threads = threads or min(4, os.cpu_count() or 1)
        return self._stacks(
            is_meant, run_number, ls_numbers, wanted, lose, memory_mb << 20, n_threads
        )

    def _stacks(
        self,
        is_meant: Any,
        run_number: int | Iterable[int] | None,
        ls_numbers: LsSelection | None,
        kinds: list[str],
        lose: Any,
        n_bytes: int,
        n_threads: int,
    ) -> Iterator[HistogramStack]:
        # Two pieces exist at a time, beside the arrays that are made of one.
        n_piece = n_bytes // 3

        def pieces() -> Iterator[tuple[Assembler, Piece]]:
            for kind in kinds:
                chosen = self._chosen(kind, is_meant, run_number, ls_numbers, lose)
                if chosen is None:
                    continue
                branch = self._branch(f"{kind}s", "Value")
                assembler = Assembler(self._origin(kind, branch, lose), lose)
                for piece in branch.pieces(chosen, n_piece, pool, lose):
                    yield assembler, piece

        with ExitStack() as held:
            pool = held.enter_context(ThreadPoolExecutor(n_threads)) if n_threads > 1 else None
            for assembler, piece in _ahead(pieces()) if pool else pieces():
                yield from assembler.stacks(piece)
                # The next one is ready and the one after it begun: three would be alive.
                del piece

    def _chosen(
        self,
        kind: str,
        is_meant: Any,
        run_number: int | Iterable[int] | None,
        ls_numbers: LsSelection | None,
        lose: Any,
    ) -> NDArray[np.bool_] | None:
        """Which entries of a tree are wanted; None if there are none."""
        if not len(self._rows_of(kind)):
            return None
        names, _ = self._names_of(kind)
        codes, runs, found = self._places(kind)
        self._tell_lost_names(kind, lose)
        meant = np.array([is_meant(name) for name in names], dtype=bool)
        chosen = codes >= 0
        chosen[chosen] = meant[codes[chosen]]
        self._lose_repeated(kind, chosen, (codes, runs, found), lose)
        if run_number is not None:
            chosen &= np.isin(runs, np.atleast_1d(np.asarray(_listed(run_number), dtype=np.int64)))
        if ls_numbers is not None:
            chosen &= as_ls_mask(found, ls_numbers)
        return chosen if chosen.any() else None

    def _lose_repeated(
        self, kind: str, chosen: NDArray[np.bool_], places: tuple[Ints, Ints, Ints], lose: Any
    ) -> None:
        """Leave of every element, run and lumisection only the first entry."""
        rows = self._rows_of(kind)
        index = np.stack([self._index["Run"][rows], self._index["Lumi"][rows]])
        # Without a second row of a lumisection, an element could only repeat within one row.
        if np.unique(index, axis=1).shape[1] == len(rows):
            return
        at = np.flatnonzero(chosen)
        told = np.stack([place[at] for place in places])
        _, first = np.unique(told, axis=1, return_index=True)
        for i in np.setdiff1d(np.arange(len(at)), first).tolist():
            number = int(at[i])
            lose(Loss(f"{kind}s", number, number, "a lumisection of an element for a second time"))
            chosen[number] = False

    def _tell_lost_names(self, kind: str, lose: Any) -> None:
        """Report entries that Indices tells and that have no readable name."""
        for loss in self.losses:
            if loss.tree == f"{kind}s" and loss.reason.startswith("FullName"):
                lose(loss)

    def _origin(self, kind: str, branch: Branch, lose: Any) -> Origin:
        names, _ = self._names_of(kind)
        codes, runs, ls_numbers = self._places(kind)
        told = self._branch(f"{kind}s", "Flags").column(">u4", lose).astype(np.int64)
        flags = np.zeros(len(codes), dtype=np.int64)
        flags[: min(len(codes), len(told))] = told[: len(codes)]
        return Origin(
            tree=f"{kind}s",
            kind=kind,
            framed=branch.is_object,
            names=names,
            codes=codes,
            runs=runs,
            ls_numbers=ls_numbers,
            flags=flags,
            dataset=self.dataset,
            run_ls_numbers=self._run_ls_numbers,
        )

    def scalars(
        self,
        me: Pattern = "*",
        run_number: int | Iterable[int] | None = None,
        ls_numbers: LsSelection | None = None,
        on_error: str = "raise",
    ) -> pd.DataFrame:
        """Elements that are one number or text: run, lumisection, me, kind, value and flags.

        ``kind`` is Int, Float or String. Raises CorruptFileError as `stacks`.
        """
        import pandas as pd

        lose = self._lose(on_error)
        is_meant = matcher(me)
        tables = []
        for kind, dtype in _SCALARS.items():
            chosen = self._chosen(kind, is_meant, run_number, ls_numbers, lose)
            if chosen is None:
                continue
            branch = self._branch(f"{kind}s", "Value")
            origin = self._origin(kind, branch, lose)
            lost: list[Loss] = []
            values = (
                _texts(branch, lost.append)
                if kind == "String"
                else branch.column(dtype, lost.append).tolist()
            )
            for loss in lost:
                lose(loss)
                chosen[loss.first : loss.last + 1] = False
            at = np.flatnonzero(chosen)
            table = {
                "run_number": origin.runs[at],
                "ls_number": origin.ls_numbers[at],
                "me": [origin.names[code] for code in origin.codes[at].tolist()],
                "kind": kind,
                "value": pd.Series([values[i] for i in at.tolist()], dtype=object),
                "flags": origin.flags[at],
            }
            tables.append(pd.DataFrame(table))
        if not tables:
            columns = ["run_number", "ls_number", "me", "kind", "value", "flags"]
            return pd.DataFrame({name: [] for name in columns})
        return pd.concat(tables, ignore_index=True)


def open(  # noqa: A001 (ml4ad.dqmio.open is what people read)
    path: str | os.PathLike[str],
    dataset: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> DQMIOFile:
    """The DQMIO file at a local path, or at any URL that fsspec opens, for use as a context.

    ``dataset`` is guessed from the path if not given. Raises NotDQMIOError, CorruptFileError or
    OSError; ImportError if the URL needs a package that is not here.
    """
    return DQMIOFile(path, dataset, storage_options)


def _ahead(items: Iterator[_T]) -> Iterator[_T]:
    """The same items, each made in another thread while the one before is worked on."""
    with ThreadPoolExecutor(1) as maker:
        coming = maker.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = maker.submit(next, items, None)
            ready, item = [item], None
            yield ready.pop()


def _listed(numbers: int | Iterable[int]) -> list[int]:
    return [int(numbers)] if isinstance(numbers, int | np.integer) else [int(n) for n in numbers]


def _times(values: NDArray[Any]) -> Any:
    """UTC times of edm::Timestamp: seconds above, microseconds below; 0 is no time."""
    import pandas as pd

    seconds = (values >> np.uint64(32)).astype(np.int64)
    micros = (values & np.uint64(0xFFFFFFFF)).astype(np.int64)
    times = pd.Series((seconds * 1_000_000 + micros).astype("datetime64[us]")).dt.tz_localize("UTC")
    return times.mask(values == 0)


def _coded(branch: Branch, lose: Any) -> tuple[list[bytes], Ints]:
    """The different texts of a branch of std::string, and which of them each entry is, or -1."""
    table: dict[bytes, int] = {}
    parts: list[tuple[Ints, Ints]] = []
    for piece in branch.pieces(None, _NAME_BYTES, None, lose):
        data = piece.data.tobytes()
        spans = zip(piece.starts.tolist(), piece.stops.tolist(), strict=True)
        stored = [data[a:b] for a, b in spans]
        # A file of 400 MB holds a million names, of which some thousands differ.
        for text in dict.fromkeys(stored):
            table.setdefault(text, len(table))
        codes = np.fromiter(map(table.__getitem__, stored), dtype=np.int64, count=len(stored))
        parts.append((piece.numbers, codes))
    n_room = max((int(numbers[-1]) + 1 for numbers, _ in parts if len(numbers)), default=0)
    out = np.full(n_room, -1, dtype=np.int64)
    for numbers, codes in parts:
        out[numbers] = codes
    texts = []
    for code, found in enumerate(table):
        content = _string(found)
        if content is None:
            for number in np.flatnonzero(out == code).tolist():
                lose(Loss(branch.tree, number, number, f"{branch.name}: a text of wrong length"))
            out[out == code] = -1
        texts.append(content or b"")
    return texts, out


def _string(stored: bytes) -> bytes | None:
    """Content of a stored std::string; None if its length is not that of what is stored."""
    if not stored:
        return None
    if stored[0] < 255:
        text, length = stored[1:], stored[0]
    else:
        text, length = stored[5:], int.from_bytes(stored[1:5], "big")
    return text if len(text) == length else None


def _texts(branch: Branch, lose: Any) -> list[str]:
    texts, codes = _coded(branch, lose)
    known = [decoded(text) for text in texts]
    return [known[code] if code >= 0 else "" for code in codes.tolist()]
