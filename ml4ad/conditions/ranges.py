"""Sets of lumisections, as certification JSON has them: ``{run: [[first, last], ...]}``.

Both ends are included. A set is a dict from run number to sorted, separate pairs; a run
without lumisections is not in it.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: Run number -> sorted pairs (first, last) with at least one lumisection between two of them.
Ranges = dict[int, list[tuple[int, int]]]

# CMSSW counts both in 32 bits without sign.
LARGEST_RUN = 2**32 - 1
LARGEST_LS = 2**32 - 1


def parse(text: str | bytes, source: str = "certification JSON") -> Ranges:
    """Set that a certification JSON holds.

    Raises ValueError, naming ``source``, if it is no JSON, a run occurs twice, or ``of_mapping``
    refuses it.

    >>> parse('{"355862": [[6, 9], [1, 4], [5, 5]]}')
    {355862: [(1, 9)]}
    """
    try:
        loaded = json.loads(text, object_pairs_hook=lambda pairs: _once(pairs, source))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{source}: not JSON ({error})") from error
    if not isinstance(loaded, dict):
        raise ValueError(f"{source}: want an object of runs, not {type(loaded).__name__}")
    return of_mapping(loaded, source)


def _once(pairs: list[tuple[str, Any]], source: str) -> dict[str, Any]:
    # json.loads would silently keep the last of two equal keys.
    read = dict(pairs)
    if len(read) < len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"{source}: {', '.join(twice)} occurs twice")
    return read


def of_mapping(runs: Mapping[Any, Any], source: str = "ranges", *, strict: bool = False) -> Ranges:
    """Set of a mapping from run number (or its text) to pairs of lumisections.

    Pairs may come in any order, touch and overlap: they are sorted and joined, unless ``strict``.
    Raises ValueError, naming run and pair, for a run or lumisection that is no whole number from 1
    on, a pair that falls, a run given twice, and if ``strict`` for pairs that do not rise apart.

    >>> of_mapping({"297050": [[12, 137], [193, 776]]})
    {297050: [(12, 137), (193, 776)]}
    """
    parsed: Ranges = {}
    for key, pairs in runs.items():
        run_number = _run_number(key, source)
        if run_number in parsed:
            raise ValueError(f"{source}: run {run_number} occurs twice")
        if isinstance(pairs, str | bytes | Mapping) or not isinstance(pairs, Iterable):
            raise ValueError(f"{source}: run {run_number}: want a list of pairs, not {pairs!r}")
        checked = [_pair(pair, run_number, source) for pair in pairs]
        if strict:
            for before, after in pairwise(checked):
                if after[0] <= before[1]:
                    raise ValueError(
                        f"{source}: run {run_number}: {list(after)} after {list(before)}: "
                        "want pairs that rise and do not overlap"
                    )
        parsed[run_number] = joined(checked)
    return {run: parsed[run] for run in sorted(parsed) if parsed[run]}


def _run_number(key: Any, source: str) -> int:
    text = str(key)
    # int() would also take "1_000", " 7" and digits of other scripts.
    whole = text.isascii() and text.isdigit() and not isinstance(key, bool)
    if not whole or not 1 <= int(text) <= LARGEST_RUN:
        raise ValueError(f"{source}: {key!r} is no run number: want 1 to {LARGEST_RUN}")
    return int(text)


def _pair(pair: Any, run_number: int, source: str) -> tuple[int, int]:
    try:
        first, last = pair
    except (TypeError, ValueError):
        first = last = None
    for number in (first, last):
        if isinstance(number, bool) or not isinstance(number, int | np.integer):
            raise ValueError(
                f"{source}: run {run_number}: {pair!r}: want a pair [first, last] of lumisections"
            )
    if not 1 <= first <= last <= LARGEST_LS:
        raise ValueError(f"{source}: run {run_number}: {pair!r}: want 1 <= first <= last")
    return int(first), int(last)


def read(path: str | Path) -> Ranges:
    """Set in a certification JSON file; raises OSError, or ValueError as ``parse``."""
    return parse(Path(path).read_bytes(), str(path))


def dumps(ranges: Ranges) -> str:
    """CMS's certification JSON of a set: text keys, one run per line.

    >>> print(dumps({355862: [(1, 4), (6, 9)]}))
    {"355862": [[1, 4], [6, 9]]}
    """
    lines = [
        f'"{run_number}": {json.dumps([list(pair) for pair in ranges[run_number]])}'
        for run_number in sorted(ranges)
    ]
    return "{" + ",\n ".join(lines) + "}"


def write(ranges: Ranges, path: str | Path) -> None:
    """Write a set as a certification JSON file."""
    Path(path).write_text(dumps(ranges) + "\n", encoding="utf-8")


def joined(pairs: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same lumisections as sorted pairs that neither overlap nor touch.

    >>> joined([(6, 9), (1, 4), (3, 5)])
    [(1, 9)]
    """
    whole: list[tuple[int, int]] = []
    for first, last in sorted(pairs):
        if whole and first <= whole[-1][1] + 1:
            whole[-1] = whole[-1][0], max(last, whole[-1][1])
        else:
            whole.append((first, last))
    return whole


def union(*sets: Ranges) -> Ranges:
    """Lumisections in any of the sets.

    >>> union({1: [(1, 3)]}, {1: [(4, 5)], 2: [(7, 7)]})
    {1: [(1, 5)], 2: [(7, 7)]}
    """
    runs = sorted(set[int]().union(*sets))
    return {run: joined(pair for one in sets for pair in one.get(run, [])) for run in runs}


def intersection(first: Ranges, *others: Ranges) -> Ranges:
    """Lumisections in all of the sets.

    >>> intersection({1: [(1, 9)], 2: [(1, 1)]}, {1: [(3, 4), (8, 12)]})
    {1: [(3, 4), (8, 9)]}
    """
    for other in others:
        first = _combined(first, other, lambda here, there: here and there)
    return first


def difference(first: Ranges, *others: Ranges) -> Ranges:
    """Lumisections in the first set and in none of the others.

    >>> difference({1: [(1, 9)]}, {1: [(3, 4)]})
    {1: [(1, 2), (5, 9)]}
    """
    for other in others:
        first = _combined(first, other, lambda here, there: here and not there)
    return first


def _combined(left: Ranges, right: Ranges, wanted: Callable[[bool, bool], bool]) -> Ranges:
    found: Ranges = {}
    for run_number in sorted(left):
        ours, theirs = left[run_number], right.get(run_number, [])
        edges = sorted({edge for one, last in (*ours, *theirs) for edge in (one, last + 1)})
        pairs = joined(
            (low, high - 1)
            for low, high in pairwise(edges)
            if wanted(_covers(ours, low), _covers(theirs, low))
        )
        if pairs:
            found[run_number] = pairs
    return found


def _covers(pairs: list[tuple[int, int]], ls_number: int) -> bool:
    at = bisect_right(pairs, ls_number, key=itemgetter(0)) - 1
    return at >= 0 and ls_number <= pairs[at][1]


def of_lumisections(run_numbers: ArrayLike, ls_numbers: ArrayLike) -> Ranges:
    """Set of single lumisections; the arrays are ``(n,)``, in any order, repetitions allowed.

    >>> of_lumisections([7, 7, 5, 7], [2, 1, 9, 4])
    {5: [(9, 9)], 7: [(1, 2), (4, 4)]}
    """
    runs, numbers = _key_arrays(run_numbers, ls_numbers)
    found: Ranges = {}
    for run_number in np.unique(runs):
        own = np.unique(numbers[runs == run_number])
        breaks = np.flatnonzero(np.diff(own) > 1) + 1
        found[int(run_number)] = [
            (int(part[0]), int(part[-1])) for part in np.split(own, breaks) if part.size
        ]
    return found


def mask(ranges: Ranges, run_numbers: ArrayLike, ls_numbers: ArrayLike) -> NDArray[np.bool_]:
    """Which of the lumisections, both arrays ``(n,)``, are in the set, ``(n,)``.

    >>> mask({5: [(1, 3), (7, 9)]}, [5, 5, 6], [3, 4, 3])
    array([ True, False, False])
    """
    runs, numbers = _key_arrays(run_numbers, ls_numbers)
    inside = np.zeros(runs.shape, dtype=np.bool_)
    for run_number in np.unique(runs):
        pairs = ranges.get(int(run_number))
        if not pairs:
            continue
        rows = np.flatnonzero(runs == run_number)
        bounds = np.asarray(pairs, dtype=np.int64)
        at = np.searchsorted(bounds[:, 0], numbers[rows], side="right") - 1
        inside[rows] = (at >= 0) & (numbers[rows] <= bounds[np.maximum(at, 0), 1])
    return inside


def _key_arrays(
    run_numbers: ArrayLike, ls_numbers: ArrayLike
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    runs = np.asarray(run_numbers, dtype=np.int64)
    numbers = np.asarray(ls_numbers, dtype=np.int64)
    if runs.ndim != 1 or runs.shape != numbers.shape:
        raise ValueError(f"{runs.shape} run numbers for {numbers.shape} lumisections")
    return runs, numbers


def count(ranges: Ranges) -> int:
    """Number of lumisections in the set.

    >>> count({5: [(1, 3), (7, 7)]})
    4
    """
    return sum(last - first + 1 for pairs in ranges.values() for first, last in pairs)
