"""Stacks out of walked entries: which histograms belong together, and their arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml4ad.dqmio.axes import Cursor, RawAxis, read_axes, read_title
from ml4ad.dqmio.baskets import Ints, Loss, Piece
from ml4ad.dqmio.flush import Filled, flush
from ml4ad.dqmio.walk import Columns, MisfitError, rows, walk
from ml4ad.stack import KINDS, HistogramStack, is_profile

_ERROR_MODES = ("", "s", "i", "g")
_CACHED_AXES = 4096


@dataclass(frozen=True)
class Origin:
    """Where the entries of a tree come from; arrays are over the entries of the tree."""

    tree: str
    kind: str
    framed: bool
    names: list[str]
    codes: Ints
    runs: Ints
    ls_numbers: Ints
    flags: Ints
    dataset: str
    run_ls_numbers: Mapping[int, Ints]


class Assembler:
    """Makes stacks of the pieces of one tree; what cannot be read goes to ``lose``."""

    def __init__(self, origin: Origin, lose: Callable[[Loss], None]) -> None:
        self._origin = origin
        self._lose = lose
        self._n_axes, code = KINDS[origin.kind]
        self._dtype = np.dtype(code).newbyteorder(">")
        self._axes: dict[bytes, tuple[RawAxis, ...]] = {}

    def stacks(self, piece: Piece) -> Iterator[HistogramStack]:
        """A stack per element, run and layout, by element in the order of the file."""
        piece, columns = self._walk(piece)
        if not len(piece):
            return
        origin, numbers = self._origin, piece.numbers
        codes, runs = origin.codes[numbers], origin.runs[numbers]
        ls_numbers = origin.ls_numbers[numbers]
        order = np.lexsort((ls_numbers, runs, codes))
        if not np.array_equal(order, np.arange(len(order))):
            piece = piece.select(order)
            columns = _permuted(columns, order)
            codes, runs, ls_numbers = codes[order], runs[order], ls_numbers[order]
        same = (codes[1:] == codes[:-1]) & (runs[1:] == runs[:-1])
        twice = np.flatnonzero(same & (ls_numbers[1:] == ls_numbers[:-1])) + 1
        if len(twice):
            self._lose_entries(
                piece.numbers[twice], "a lumisection of an element for a second time"
            )
            kept = np.ones(len(piece), dtype=bool)
            kept[twice] = False
            yield from self.stacks(piece.select(kept))
            return
        # What was filled for the whole run is a stack of its own.
        same &= (ls_numbers[1:] == 0) == (ls_numbers[:-1] == 0)
        flags = origin.flags[piece.numbers]
        group = _Group(piece, columns, ls_numbers, flags, _facts(columns, flags))
        differs = same & ~_alike(group, same)
        firsts = np.concatenate([[0], np.flatnonzero(~same) + 1])
        lasts = np.append(firsts[1:], len(piece))
        mixed = np.add.reduceat(np.append(0, differs), firsts) > 0
        bounds = zip(firsts.tolist(), lasts.tolist(), mixed.tolist(), strict=True)
        for first, last, is_mixed in bounds:
            key = int(codes[first]), int(runs[first])
            if is_mixed:
                for chosen in self._split(group, first, last):
                    yield from self._made(group, chosen, *key)
            else:
                yield from self._made(group, slice(first, last), *key)

    def _walk(self, piece: Piece) -> tuple[Piece, Columns]:
        while True:
            try:
                return piece, walk(self._origin.kind, piece, framed=self._origin.framed)
            except MisfitError as error:
                self._lose_entries(piece.numbers[error.mask], str(error))
                piece = piece.select(~error.mask)

    def _lose_entries(self, numbers: Ints, reason: str) -> None:
        for run in np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1):
            if len(run):
                self._lose(Loss(self._origin.tree, int(run[0]), int(run[-1]), reason))

    def _made(
        self, group: _Group, chosen: slice | Ints, code: int, run: int
    ) -> Iterator[HistogramStack]:
        try:
            stack = self._stack(group, chosen, code, run)
        except ValueError as error:
            self._lose_entries(group.piece.numbers[chosen], str(error))
        else:
            yield stack

    def _split(self, group: _Group, first: int, last: int) -> Iterator[Ints]:
        """Entries of one element and run by what they have in common, each in order."""
        found: dict[tuple[Any, ...], list[Ints]] = {}
        waiting = np.arange(first, last)
        while len(waiting):
            try:
                axes, title, like = self._like(group, waiting)
            except ValueError as error:
                self._lose_entries(group.piece.numbers[waiting[:1]], str(error))
                waiting = waiting[1:]
                continue
            key = (axes, title, *group.signature(int(waiting[0])))
            found.setdefault(key, []).append(waiting[like])
            waiting = waiting[~like]
        for parts in found.values():
            yield np.sort(np.concatenate(parts))

    def _like(
        self, group: _Group, waiting: Ints
    ) -> tuple[tuple[RawAxis, ...], str, NDArray[np.bool_]]:
        """Axes and title of the first that waits, and which of all have the same bytes.

        The references to classes are positions: they are compared from the start of each entry.
        """
        i = int(waiting[0])
        cursor = self._cursor(group, i)
        axes = read_axes(cursor, self._n_axes, int(group.columns.n_cells[i]))
        title = self._title(group, i)
        columns, piece = group.columns, group.piece
        length = int(columns.axes_stop[i] - columns.axes[i])
        named = int(columns.titles_stop[i] - columns.titles[i])
        like = np.ones(len(waiting), dtype=bool)
        for fact in group.facts:
            like &= fact[waiting] == fact[i]
        near = waiting[like]
        texts = rows(piece.data, columns.titles[near], f"V{named}").view(np.uint8)
        bytes_ = rows(piece.data, columns.axes[near], f"V{length}").view(np.uint8)
        bytes_ = bytes_.reshape(len(near), length)
        origins = piece.origins[near].astype(np.uint32)
        for at in cursor.references:
            place = slice(at - int(columns.axes[i]), at - int(columns.axes[i]) + 4)
            tags = np.ascontiguousarray(bytes_[:, place]).view(">u4")[:, 0] - origins
            bytes_[:, place] = tags.astype(">u4").view(np.uint8).reshape(-1, 4)
        equal = (bytes_ == bytes_[0]).all(axis=1)
        equal &= (texts.reshape(len(near), named) == texts.reshape(len(near), named)[0]).all(axis=1)
        like[like] = equal
        return axes, title, like

    def _cursor(self, group: _Group, i: int) -> Cursor:
        piece, columns = group.piece, group.columns
        shift = int(piece.origins[i] - piece.starts[i])
        data = piece.data.data
        return Cursor(data, int(columns.axes[i]), int(columns.axes_stop[i]), shift)

    def _title(self, group: _Group, i: int) -> str:
        columns = group.columns
        return read_title(group.piece.data.data[columns.titles[i] : columns.titles_stop[i]])

    def _axes_of(self, group: _Group, i: int) -> tuple[RawAxis, ...]:
        columns = group.columns
        n_cells = int(columns.n_cells[i])
        key = group.piece.data[columns.axes[i] : columns.axes_stop[i]].tobytes()
        known = self._axes.get(key)
        if known is not None:
            return known
        cursor = self._cursor(group, i)
        axes = read_axes(cursor, self._n_axes, n_cells)
        # Equal bytes with references of other entries would mean other classes.
        if not cursor.references:
            if len(self._axes) >= _CACHED_AXES:
                self._axes.clear()
            self._axes[key] = axes
        return axes

    def _stack(self, group: _Group, chosen: slice | Ints, code: int, run: int) -> HistogramStack:
        origin, columns = self._origin, group.columns
        first = chosen.start if isinstance(chosen, slice) else int(chosen[0])
        raw = self._axes_of(group, first)
        shape = (-1, *(axis.n_bins + 2 for axis in reversed(raw)))
        turned = (0, *range(len(raw), 0, -1))

        def cells(starts: Ints, dtype: np.dtype[Any]) -> NDArray[Any]:
            packed = rows(group.piece.data, starts[chosen], f"V{n_cells * dtype.itemsize}")
            values = packed.view(dtype).astype(dtype.newbyteorder("="))
            return values.reshape(shape).transpose(turned)

        n_cells = int(columns.n_cells[first])
        double = np.dtype(">f8")
        filled = Filled(
            contents=cells(columns.contents, self._dtype),
            entries=columns.entries[chosen],
            statistics=columns.statistics[chosen],
            sumw2=cells(columns.sumw2, double) if columns.n_sumw2[first] else None,
        )
        if is_profile(origin.kind):
            filled.sum_of_weights = cells(columns.bin_entries, double)
            if columns.n_bin_sumw2[first]:
                filled.sum_of_weights_squared = cells(columns.bin_sumw2, double)
        buffered = columns.n_buffer[chosen] > 0
        low_high = columns.value_range[first].tolist()
        if buffered.any():
            starts, sizes = columns.buffer[chosen], columns.n_buffer[chosen]
            buffers = {
                int(i): rows(group.piece.data, starts[i] + 8 * np.arange(sizes[i]), ">f8").astype(
                    "f8"
                )
                for i in np.flatnonzero(buffered)
            }
            axes = flush(origin.kind, raw, filled, buffers, low_high, int(columns.versions[first]))
        else:
            axes = tuple(axis.axis() for axis in raw)
        mode = int(columns.error_mode[first])
        if not 0 <= mode < len(_ERROR_MODES):
            raise ValueError(f"fErrorMode {mode}, want 0 to {len(_ERROR_MODES) - 1}")
        return HistogramStack(
            me=origin.names[code],
            kind=origin.kind,
            run_number=run,
            ls_numbers=group.ls_numbers[chosen],
            axes=axes,
            contents=filled.contents,
            entries=filled.entries,
            sumw2=filled.sumw2,
            sum_of_weights=filled.sum_of_weights,
            sum_of_weights_squared=filled.sum_of_weights_squared,
            statistics=filled.statistics,
            dataset=origin.dataset,
            title=self._title(group, first),
            flags=int(group.flags[first]),
            error_mode=_ERROR_MODES[mode],
            value_range=(low_high[0], low_high[1]),
            run_ls_numbers=origin.run_ls_numbers.get(run),
        )


@dataclass(frozen=True)
class _Group:
    """Sorted entries with what is known of each."""

    piece: Piece
    columns: Columns
    ls_numbers: Ints
    flags: Ints

    facts: list[Ints]

    def signature(self, i: int) -> tuple[int, ...]:
        """What entry ``i`` must have in common with its stack, beside axes and title."""
        return tuple(int(fact[i]) for fact in self.facts[_N_LENGTHS:])


# The lengths of texts and axes lead the facts: they differ with the bytes, not with the meaning.
_N_LENGTHS = 2


def _facts(columns: Columns, flags: Ints) -> list[Ints]:
    limits = np.ascontiguousarray(columns.value_range).view(np.int64)
    return [
        columns.titles_stop - columns.titles,
        columns.axes_stop - columns.axes,
        columns.n_cells,
        columns.n_sumw2,
        columns.n_bin_sumw2,
        columns.error_mode,
        limits[:, 0],
        limits[:, 1],
        flags,
    ]


def _permuted(columns: Columns, order: Ints) -> Columns:
    values = {
        field.name: getattr(columns, field.name)[order] for field in dataclasses.fields(columns)
    }
    return Columns(**values)


def _alike(group: _Group, asked: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Where asked: whether entry ``i + 1`` has the layout, title and axes of ``i``, to the byte."""
    columns, data = group.columns, group.piece.data
    alike = asked.copy()
    for fact in group.facts:
        alike &= fact[1:] == fact[:-1]
    for starts, lengths in zip((columns.titles, columns.axes), group.facts, strict=False):
        at = np.flatnonzero(alike)
        for length in np.unique(lengths[at]).tolist():
            pairs = at[lengths[at] == length]
            if length:
                one = rows(data, starts[pairs], f"V{length}")
                alike[pairs] = one == rows(data, starts[pairs + 1], f"V{length}")
    return alike
