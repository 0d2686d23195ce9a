"""Title and axes of one histogram, taken from its bytes one by one."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ml4ad.stack import Axis

_COUNTED = 0x40000000
_CLASS = 0x80000000
_NEW_CLASS = 0xFFFFFFFF
_REFERENCED = 1 << 4
# ROOT numbers the classes in a basket by position plus this, as 0 is the null pointer.
_OFFSET = 2
_WORD = struct.Struct(">I")
_FRAME = struct.Struct(">IH")
_OBJECT = struct.Struct(">HII")
# fNbins, fXmin, fXmax, and the length of fXbins.
_BINNING = struct.Struct(">iddi")


@dataclass
class Cursor:
    """A place in the bytes of one entry, which may not be left.

    ``origin`` is what to add to a position for the one that ROOT counts class references from.
    ``references`` are the positions of class references, which differ between equal entries.
    """

    data: memoryview
    at: int
    stop: int
    origin: int
    classes: dict[int, str] = field(default_factory=dict)
    references: list[int] = field(default_factory=list)

    def skip(self, n_bytes: int) -> int:
        """Move on; where it was. Raises ValueError beyond the end."""
        before = self.at
        if n_bytes < 0 or before + n_bytes > self.stop:
            raise ValueError("title or axes end within their entry")
        self.at = before + n_bytes
        return before

    def take(self, form: struct.Struct) -> tuple[Any, ...]:
        """The next fields."""
        return form.unpack_from(self.data, self.skip(form.size))

    def integer(self) -> int:
        """The next field as an unsigned number of four bytes."""
        return self.take(_WORD)[0]

    def frame(self) -> int:
        """End of the framed object that starts here; now at its first member."""
        count, _ = self.take(_FRAME)
        end = self.at - 2 + (count & ~_COUNTED)
        if not count & _COUNTED or end > self.stop or end < self.at:
            raise ValueError("an axis has no frame or is longer than its entry")
        return end

    def text(self) -> str:
        """The next TString."""
        length = self.data[self.skip(1)]
        if length == 255:
            length = self.integer()
        at = self.skip(length)
        return decoded(bytes(self.data[at : at + length]))

    def object_bits(self) -> tuple[int, int]:
        """Unique number and bits of the TObject here."""
        _, unique, bits = self.take(_OBJECT)
        self.skip(2 if bits & _REFERENCED else 0)
        return unique, bits

    def pointed(self) -> tuple[str, int] | None:
        """Class and end of the object that is pointed to, or None; now at its first byte."""
        at = self.at
        count = self.integer()
        if count == 0:
            return None
        if not count & _COUNTED:
            raise ValueError("an object that was stored before, where labels are wanted")
        end = self.at + (count & ~_COUNTED)
        if end > self.stop:
            raise ValueError("labels are longer than their entry")
        tag_at = self.at
        tag = self.integer()
        if tag == _NEW_CLASS:
            name = self._c_string()
            self.classes[tag_at + self.origin + _OFFSET] = name
        elif tag & _CLASS:
            self.references.append(tag_at)
            name = self.classes.get(tag & ~_CLASS, "")
        else:
            name = ""
        if not name:
            raise ValueError(f"an object of unknown class at {at}, where labels are wanted")
        return name, end

    def _c_string(self) -> str:
        for length in range(min(80, self.stop - self.at)):
            if self.data[self.at + length] == 0:
                at = self.skip(length + 1)
                return decoded(bytes(self.data[at : at + length]))
        raise ValueError("a class name without end")


def decoded(text: bytes) -> str:
    r"""Text of the file's bytes; what is no UTF-8, and NUL, which nothing can store, as ``\x..``.

    >>> decoded(b"caf\xe9 \x00")
    'caf\\xe9 \\x00'
    """
    return text.decode("utf-8", "backslashreplace").replace("\0", "\\x00")


def read_title(data: memoryview) -> str:
    """Title from the bytes of name and title."""
    cursor = Cursor(data, 0, len(data), 0)
    cursor.text()
    return cursor.text()


@dataclass(frozen=True)
class RawAxis:
    """An axis as the file tells it; its limits may be any numbers."""

    n_bins: int
    low: float
    high: float
    edges: tuple[float, ...]
    title: str
    name: str
    labels: tuple[str, ...]

    @property
    def is_open(self) -> bool:
        """Whether its limits say nothing, so that ROOT sets them when it fills the histogram."""
        return not self.edges and not self.low < self.high

    def axis(self, low: float | None = None, high: float | None = None) -> Axis:
        """The axis, with these limits if it is open (bins of width 1 from its low end if None)."""
        if self.edges:
            edges = np.array(self.edges)
            return Axis(edges, self.title, self.name, self.labels, variable=True)
        if self.is_open:
            start = self.low if np.isfinite(self.low) else 0.0
            low = start if low is None else low
            high = low + self.n_bins if high is None else high
        else:
            low, high = self.low, self.high
        return Axis.regular(
            self.n_bins, low, high, title=self.title, name=self.name, labels=self.labels
        )


def read_axes(cursor: Cursor, n_axes: int, n_cells: int) -> tuple[RawAxis, ...]:
    """The first axes of a histogram of ``n_cells``, from a cursor at fXaxis.

    Raises ValueError if one is corrupt or they do not span that many cells.
    """
    axes = tuple(_axis(cursor, n_cells) for _ in range(n_axes))
    spanned = math.prod(axis.n_bins + 2 for axis in axes)
    if spanned != n_cells:
        raise ValueError(f"axes of {spanned} cells for {n_cells} contents")
    return axes


def _axis(cursor: Cursor, n_cells: int) -> RawAxis:
    end = cursor.frame()
    named_end = cursor.frame()
    cursor.object_bits()
    name, title = cursor.text(), cursor.text()
    cursor.at = named_end
    cursor.at = cursor.frame()
    n_bins, low, high, n_edges = cursor.take(_BINNING)
    if not 1 <= n_bins <= n_cells or n_edges not in (0, n_bins + 1):
        raise ValueError(f"an axis of {n_bins} bins with {n_edges} edges")
    edges = cursor.take(struct.Struct(f">{n_edges}d")) if n_edges else ()
    cursor.skip(4 + 4 + 2 + 1)
    cursor.text()
    labels: dict[int, str] = {}
    pointed = cursor.pointed()
    if pointed is not None:
        labels = _labels(cursor)
    cursor.at = end
    named = {n: text for n, text in labels.items() if 1 <= n <= n_bins}
    texts = tuple(named.get(n, "") for n in range(1, n_bins + 1)) if named else ()
    return RawAxis(n_bins, low, high, edges, title, name, texts)


def _labels(cursor: Cursor) -> dict[int, str]:
    """Text of every label by the number of its bin, from a cursor at the THashList."""
    cursor.frame()
    cursor.object_bits()
    cursor.text()
    labels = {}
    for _ in range(cursor.integer()):
        pointed = cursor.pointed()
        if pointed is not None:
            name, end = pointed
            if name == "TObjString":
                cursor.frame()
                n_bin, _ = cursor.object_bits()
                labels[n_bin] = cursor.text()
            cursor.at = end
        # The option with which the object was added.
        cursor.text()
    return labels
