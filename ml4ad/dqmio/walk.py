"""A walk through many histograms at once: a cursor for each, every field read by one gather."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml4ad.dqmio.baskets import Ints, Piece
from ml4ad.dqmio.inflate import Bytes
from ml4ad.stack import KINDS, is_profile, statistics_names

Floats = NDArray[np.float64]
_COUNTED = 0x40000000
_REFERENCED = 1 << 4

#: Frames around the members of TH1, from the outermost; a bare entry lacks the first.
FRAMES: Mapping[str, tuple[str, ...]] = {
    kind: (kind, f"TH{n_axes}D", *(["TH2"] if n_axes == 2 else []), "TH1")
    if is_profile(kind)
    else (kind, *([f"TH{n_axes}"] if n_axes > 1 else []), "TH1")
    for kind, (n_axes, _) in KINDS.items()
}


class MisfitError(ValueError):
    """Entries, told by ``mask``, that do not hold what their kind wants."""

    def __init__(self, reason: str, mask: NDArray[np.bool_]) -> None:
        super().__init__(reason)
        self.mask = mask


def rows(data: Bytes, starts: Ints, dtype: str | np.dtype[Any]) -> NDArray[Any]:
    """Item of ``dtype`` at every position in ``starts``; the caller knows that they lie within."""
    item = np.dtype(dtype)
    if item.itemsize > len(data):
        return np.empty(0, dtype=item)
    windows: NDArray[Any] = np.ndarray(
        len(data) - item.itemsize + 1, dtype=item, buffer=data, strides=(1,)
    )
    return windows[starts]


class Cursors:
    """One cursor per entry, each with the position behind the last byte that it may read."""

    def __init__(self, data: Bytes, at: Ints, stops: Ints) -> None:
        self.data, self.at, self.stops = data, at, stops

    def refuse(self, bad: NDArray[np.bool_], reason: str) -> None:
        """Raise if any entry is bad."""
        if bad.any():
            raise MisfitError(reason, bad)

    def take(self, dtype: str, what: str) -> NDArray[Any]:
        """The next field of every entry, in native byte order."""
        item = np.dtype(dtype)
        self.refuse(self.at + item.itemsize > self.stops, f"ends within {what}")
        out = rows(self.data, self.at, item).astype(item.newbyteorder("="))
        self.at = self.at + item.itemsize
        return out

    def skip(self, n_bytes: int | Ints, what: str) -> Ints:
        """Move on; where the cursors were."""
        before = self.at
        after = before + n_bytes
        self.refuse((after > self.stops) | (after < before), f"ends within {what}")
        self.at = after
        return before

    def frame(self, what: str) -> tuple[NDArray[Any], Ints]:
        """Version and end of a framed object; the cursors stand at its first member."""
        count = self.take(">u4", f"the frame of {what}").astype(np.int64)
        self.refuse(count & _COUNTED == 0, f"no frame of {what}")
        ends = self.at + (count & ~_COUNTED)
        self.refuse((ends > self.stops) | (ends < self.at + 2), f"{what} is longer than its entry")
        return self.take(">u2", what), ends

    def skip_frame(self, what: str) -> tuple[Ints, Ints]:
        """Where a framed object starts and ends; the cursors stand behind it."""
        start = self.at
        _, ends = self.frame(what)
        self.at = ends
        return start, ends

    def array(self, item_size: int, what: str) -> tuple[Ints, Ints]:
        """Position and length of an array with its length in front."""
        length = self.take(">i4", what).astype(np.int64)
        self.refuse(length < 0, f"{what} of negative length")
        return self.skip(length * item_size, what), length

    def text(self, what: str) -> None:
        """Skip a TString."""
        length = self.take("u1", what).astype(np.int64)
        if (length == 255).any():
            self.refuse((length == 255) & (self.at + 4 > self.stops), f"ends within {what}")
            long = length == 255
            length[long] = 4 + rows(self.data, self.at[long], ">i4")
            self.refuse(long & (length < 4), f"{what} of negative length")
        self.skip(length, what)


@dataclass(frozen=True)
class Columns:
    """Where the parts of every entry lie, and its numbers; all ``(n,)`` unless told.

    Of an array that may be absent, the length is 0 there. ``statistics`` is ``(n, n_sums)``.
    """

    titles: Ints
    titles_stop: Ints
    axes: Ints
    axes_stop: Ints
    n_cells: Ints
    entries: Floats
    statistics: Floats
    contents: Ints
    sumw2: Ints
    n_sumw2: Ints
    buffer: Ints
    n_buffer: Ints
    versions: Ints
    bin_entries: Ints
    error_mode: Ints
    value_range: Floats
    bin_sumw2: Ints
    n_bin_sumw2: Ints


def walk(kind: str, piece: Piece, *, framed: bool) -> Columns:
    """Walk through entries of one kind.

    ``framed`` says that each starts with its class name and own frame. Raises MisfitError for the
    first thing that is wrong, with all entries where it is.
    """
    item_size = np.dtype(KINDS[kind][1]).itemsize
    cursors = Cursors(piece.data, piece.starts, piece.stops)
    frames = list(FRAMES[kind])
    if framed:
        cursors.skip(cursors.take("u1", "the class name").astype(np.int64) + 1, "the class name")
    else:
        frames.pop(0)
    ends = {}
    versions: Ints = np.zeros(len(piece), dtype=np.int64)
    for name in frames:
        version, ends[name] = cursors.frame(name)
        versions = version.astype(np.int64)
    found, sums = _th1(cursors, versions, ends["TH1"], KINDS[kind][0])
    cursors.at = ends["TH1"]
    if KINDS[kind][0] == 2:
        cursors.skip(8, "fScalefactor")
        sums += [cursors.take(">f8", name) for name in ("fTsumwy", "fTsumwy2", "fTsumwxy")]
        cursors.at = ends.get("TH2", cursors.at)
    elif KINDS[kind][0] == 3:
        cursors.skip_frame("TAtt3D")
        sums += [cursors.take(">f8", name) for name in statistics_names(kind)[4:]]
        cursors.at = ends.get("TH3", cursors.at)
    contents, length = cursors.array(item_size, "the contents")
    n_cells = found["n_cells"]
    cursors.refuse(length != n_cells, "contents of another length than fNcells")
    other = found["n_sumw2"]
    cursors.refuse((other != 0) & (other != n_cells), "fSumw2 of another length than fNcells")
    found["contents"] = contents
    inner = f"TH{KINDS[kind][0]}D"
    if is_profile(kind):
        cursors.at = ends[inner]
        sums += _profile(cursors, found, n_cells)
    else:
        none = np.zeros(len(piece), dtype=np.int64)
        found |= {"bin_entries": none, "error_mode": none, "bin_sumw2": none, "n_bin_sumw2": none}
        found["value_range"] = np.zeros((len(piece), 2))
    return Columns(statistics=np.stack(sums, axis=1), versions=versions, **found)


def _th1(
    cursors: Cursors, versions: Ints, ends: Ints, n_axes: int
) -> tuple[dict[str, Any], list[NDArray[Any]]]:
    outer, cursors.stops = cursors.stops, ends
    # Before version 3 the members were others; no file with DQMIO trees is that old.
    cursors.refuse(versions < 3, "a TH1 of a version before 3")
    found: dict[str, Any] = {}
    _, named_end = cursors.frame("TNamed")
    # TObject: version, fUniqueID, fBits, and two bytes more if it is referenced.
    cursors.skip(6, "TObject")
    bits = cursors.take(">u4", "TObject")
    cursors.skip(np.where(bits & _REFERENCED, 2, 0), "TObject")
    found["titles"] = cursors.at
    cursors.refuse(cursors.at > named_end, "TNamed is shorter than its members")
    found["titles_stop"] = cursors.at = named_end
    for name in ("TAttLine", "TAttFill", "TAttMarker"):
        cursors.skip_frame(name)
    found["n_cells"] = cursors.take(">i4", "fNcells").astype(np.int64)
    found["axes"] = cursors.at
    for n_read, name in enumerate(("fXaxis", "fYaxis", "fZaxis"), start=1):
        cursors.skip_frame(name)
        if n_read == n_axes:
            found["axes_stop"] = cursors.at
    cursors.skip(4, "fBarOffset")
    found["entries"] = cursors.take(">f8", "fEntries")
    sums = [cursors.take(">f8", name) for name in statistics_names("TH1D")]
    cursors.skip(24, "fMaximum")
    cursors.array(8, "fContour")
    position, length = cursors.array(8, "fSumw2")
    cursors.text("fOption")
    # A list that always exists, so its frame stands alone; an absent one would be a zero.
    at = cursors.at
    count = cursors.take(">u4", "fFunctions").astype(np.int64)
    cursors.at = at
    cursors.skip(np.where(count & _COUNTED, count & ~_COUNTED, 0) + 4, "fFunctions")
    size = cursors.take(">i4", "fBufferSize").astype(np.int64)
    cursors.refuse(size < 0, "fBufferSize is negative")
    present = cursors.take("u1", "fBuffer") != 0
    found["n_buffer"] = np.where(present, size, 0)
    found["buffer"] = cursors.skip(found["n_buffer"] * 8, "fBuffer")
    cursors.stops = outer
    found |= {"sumw2": position, "n_sumw2": length}
    return found, sums


def _profile(cursors: Cursors, found: dict[str, Any], n_cells: Ints) -> list[Floats]:
    position, length = cursors.array(8, "fBinEntries")
    cursors.refuse(length != n_cells, "fBinEntries of another length than fNcells")
    cursors.refuse(found["n_sumw2"] != n_cells, "fSumw2 of another length than fNcells")
    found["bin_entries"] = position
    found["error_mode"] = cursors.take(">i4", "fErrorMode").astype(np.int64)
    limits = [cursors.take(">f8", name) for name in ("fYmin", "fYmax")]
    found["value_range"] = np.stack(limits, axis=1)
    sums = [cursors.take(">f8", name) for name in ("fTsumwy", "fTsumwy2")]
    # ROOT before 5.26 wrote no fBinSumw2.
    none = np.zeros_like(n_cells)
    found["bin_sumw2"], found["n_bin_sumw2"] = none, none
    if len(n_cells) and (cursors.at + 4 <= cursors.stops).all():
        found["bin_sumw2"], found["n_bin_sumw2"] = cursors.array(8, "fBinSumw2")
    other = found["n_bin_sumw2"]
    cursors.refuse((other != 0) & (other != n_cells), "fBinSumw2 of another length than fNcells")
    return sums
