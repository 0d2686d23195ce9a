"""What is to be written into a DQMIO file, checked before a byte of it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ml4ad.dqmio.layouts import FRAME
from ml4ad.stack import KINDS, HistogramStack

if TYPE_CHECKING:
    import pandas as pd

#: Kinds of single values, with ROOT's letter for their type ("" for a text).
SCALARS = {"Int": "L", "Float": "D", "String": ""}
#: ROOT's numbers of the error options of a profile.
ERROR_MODES = {"": 0, "s": 1, "i": 2, "g": 3}

_MAX_NAME = 255
_UINT32 = 2**32 - 1
# A byte count has 30 bits; names, labels and edges need room too.
_MAX_HISTOGRAM = FRAME - 16 * 1024**2
_SCALAR_COLUMNS = ("run_number", "ls_number", "me", "kind", "value")
_LS_COLUMNS = ("run_number", "ls_number", "begin_time", "end_time")


class Batch:
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
        self.keys = sorted(keys, key=run_order)


def run_order(key: tuple[int, int]) -> tuple[int, bool, int]:
    """Key to sort (run, lumisection) by, the whole run (0) behind its lumisections."""
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
    if stack.error_mode not in ERROR_MODES:
        modes = ", ".join(map(repr, ERROR_MODES))
        raise ValueError(f"{me}: error mode {stack.error_mode!r}, want one of {modes}")
    dtype = np.dtype(KINDS[stack.kind][1])
    arrays = (stack.sumw2, stack.sum_of_weights, stack.sum_of_weights_squared)
    n_cells = int(np.prod(stack.contents.shape[1:], dtype=np.int64))
    n_bytes = n_cells * (dtype.itemsize + 8 * sum(array is not None for array in arrays))
    if n_bytes > _MAX_HISTOGRAM:
        raise ValueError(f"{me}: {n_bytes} bytes of cells, want up to {_MAX_HISTOGRAM}")
    if stack.contents.dtype != dtype:
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
    if kind not in SCALARS:
        raise ValueError(f"{me}: kind {kind!r}, want one of {', '.join(SCALARS)}")
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
