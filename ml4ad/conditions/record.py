"""What a provider of conditions hands over: tables keyed by run and lumisection, checked."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from ml4ad.conditions import names
from ml4ad.conditions.names import ColumnType
from ml4ad.conditions.ranges import LARGEST_LS, LARGEST_RUN, Ranges

#: What a list of lumisections says: certified good (for all, for muons), detector on, known bad.
CERTIFICATION_KINDS = ("golden", "muon", "dcs", "bad")
#: What Run Registry says of a component in a lumisection.
FLAGS = ("GOOD", "BAD", "STANDBY", "EXCLUDED", "NOTSET", "EMPTY")

_TRUE = {"true", "t", "yes", "1", "1.0"}
_FALSE = {"false", "f", "no", "0", "0.0"}
_EMPTY = {"", "none", "null", "nan", "na", "n/a"}

RATE_COLUMNS = ("run_number", "ls_number", "path", "rate")
REFERENCE_COLUMNS = (
    *("run_number", "reco", "dataset"),
    *("reference_run_number", "reference_reco", "reference_dataset"),
)
FLAG_COLUMNS = ("dataset", "run_number", "component", "first_ls", "last_ls", "flag", "cause")
STATE_COLUMNS = ("dataset", "run_number", "workspace", "state")


@dataclass(frozen=True)
class Certification:
    """A named set of lumisections; ``kind`` is one of ``CERTIFICATION_KINDS``."""

    kind: str
    name: str
    ranges: Ranges

    def __post_init__(self) -> None:
        if self.kind not in CERTIFICATION_KINDS:
            raise ValueError(
                f"{self.name}: kind {self.kind!r}: want one of {', '.join(CERTIFICATION_KINDS)}"
            )


def _no_rows(columns: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame({column: [] for column in columns})


def no_runs() -> pd.DataFrame:
    """Table of run conditions without rows."""
    return pd.DataFrame(index=pd.Index([], name="run_number", dtype=np.int64))


def no_lumisections() -> pd.DataFrame:
    """Table of lumisection conditions without rows."""
    keys = pd.MultiIndex.from_arrays(
        [np.empty(0, dtype=np.int64)] * 2, names=["run_number", "ls_number"]
    )
    return pd.DataFrame(index=keys)


def no_rates() -> pd.DataFrame:
    """Table of trigger rates without rows."""
    return _no_rows(RATE_COLUMNS)


@dataclass(frozen=True)
class Conditions:
    """What one source knows.

    ``runs`` is indexed by run_number, ``lumisections`` by (run_number, ls_number), each key once;
    columns that ``names`` lists have its types, others are extras. Missing is NA.
    """

    source: str
    runs: pd.DataFrame = field(default_factory=no_runs)
    lumisections: pd.DataFrame = field(default_factory=no_lumisections)
    rates: pd.DataFrame = field(default_factory=no_rates)
    certifications: tuple[Certification, ...] = ()
    flags: pd.DataFrame = field(default_factory=lambda: _no_rows(FLAG_COLUMNS))
    states: pd.DataFrame = field(default_factory=lambda: _no_rows(STATE_COLUMNS))
    references: pd.DataFrame = field(default_factory=lambda: _no_rows(REFERENCE_COLUMNS))


def of_table(table: pd.DataFrame, source: str, *, lumi_unit: str = "/pb") -> Conditions:
    """Conditions that a table holds; its columns say which: references, rates, lumisections, runs.

    Names may be those of OMS. Luminosities are in ``lumi_unit`` (OMS: 1/pb) and become 1/ub.
    Raises ValueError, naming source, column, row and value, for a table without run numbers, a
    value of another type, a key that is missing or occurs twice with different values.
    """
    if lumi_unit not in names.UNITS:
        raise ValueError(f"lumi_unit {lumi_unit!r}: want one of {', '.join(names.UNITS)}")
    table = with_keys(table)
    scale = names.UNITS[lumi_unit]
    if "run_number" not in table:
        raise ValueError(f"{source}: no column run_number, only {', '.join(table.columns)}")
    if set(names.REFERENCE_ALIASES) & set(table) or "reference_run_number" in table:
        return Conditions(source, references=references(table, source))
    if {"path", "path_name", "hlt_path"} & set(table) and "rate" in table:
        return Conditions(source, rates=rates(table, source))
    if "ls_number" in table:
        return Conditions(source, lumisections=lumisections(table, source, scale=scale))
    return Conditions(source, runs=runs(table, source, scale=scale))


def with_keys(table: pd.DataFrame) -> pd.DataFrame:
    """The table with its key columns named run_number and ls_number."""
    return _renamed(table.rename(columns=lambda name: str(name).strip()), names.KEY_ALIASES)


def runs(table: pd.DataFrame, source: str, *, scale: float = names.UB_PER_PB) -> pd.DataFrame:
    """Run conditions of a table that has run_number, indexed by it; see ``of_table``."""
    table = _renamed(table, names.RUN_ALIASES)
    return _keyed(_typed(table, names.RUN_COLUMNS, source, scale), ["run_number"], source)


def lumisections(
    table: pd.DataFrame, source: str, *, scale: float = names.UB_PER_PB
) -> pd.DataFrame:
    """Lumisection conditions of a table that has run_number and ls_number, indexed by them."""
    for full, short in names.LS_ALIASES.items():
        if full in table and short in table:
            # Beside the value per lumisection, OMS's plain name is the sum since the run began.
            table = table.rename(columns={short: f"{short}_since_start"})
    table = _renamed(table, names.LS_ALIASES)
    typed = _typed(table, names.LS_COLUMNS, source, scale)
    if "prescale_index" in typed:
        # OMS writes -1 where no column of the prescale table was set.
        typed["prescale_index"] = typed["prescale_index"].mask(typed["prescale_index"] < 0)
    if "beams_stable" not in typed and {"beam1_stable", "beam2_stable"} <= set(typed):
        typed["beams_stable"] = typed["beam1_stable"] & typed["beam2_stable"]
    return _keyed(typed, ["run_number", "ls_number"], source)


def rates(table: pd.DataFrame, source: str) -> pd.DataFrame:
    """Trigger rates in Hz of a table with run_number, ls_number, path and rate."""
    table = _renamed(_renamed(table, names.KEY_ALIASES), names.RATE_ALIASES)
    _need(table, RATE_COLUMNS, source)
    typed = _typed(
        table.loc[:, list(RATE_COLUMNS)], {"path": "text", "rate": "number"}, source, 1.0
    )
    empty = typed["path"].isna()
    if empty.any():
        raise ValueError(f"{source}: row {typed.index[empty][0]}: no trigger path")
    return _keyed(typed, ["run_number", "ls_number", "path"], source).reset_index()


def references(table: pd.DataFrame, source: str) -> pd.DataFrame:
    """Reference runs of a table with run_number and reference_run_number; see REFERENCE_COLUMNS."""
    table = _renamed(_renamed(table, names.KEY_ALIASES), names.REFERENCE_ALIASES)
    _need(table, ("run_number", "reference_run_number"), source)
    table = table.assign(
        **{column: None for column in REFERENCE_COLUMNS if column not in table.columns}
    ).loc[:, list(REFERENCE_COLUMNS)]
    text: dict[str, ColumnType] = dict.fromkeys(
        ("reco", "dataset", "reference_reco", "reference_dataset"), "text"
    )
    typed = _typed(table, text, source, 1.0).fillna(dict.fromkeys(text, ""))
    typed["reference_run_number"] = _keys(typed, "reference_run_number", LARGEST_RUN, source)
    keyed = _keyed(typed, ["run_number", "reco", "dataset"], source)
    return keyed.reset_index().loc[:, list(REFERENCE_COLUMNS)]


def registry(entries: Sequence[Mapping[str, Any]], source: str) -> Conditions:
    """Run Registry's flags and states, from what its API says of each dataset of each run.

    An entry has ``run_number``, ``name`` (of the dataset), ``dataset_attributes`` with
    ``<workspace>_state``, and ``ranges``: objects with ``start``, ``end`` and components such as
    ``tracker-pixel`` with their ``status`` and ``cause``.
    Raises ValueError for an entry of another shape or an unknown flag.
    """
    flags: list[dict[str, Any]] = []
    states: list[dict[str, Any]] = []
    for entry in entries:
        try:
            key = {"dataset": str(entry["name"]), "run_number": int(entry["run_number"])}
            attributes = dict(entry.get("dataset_attributes") or {})
            spans = list(entry.get("ranges") or [])
            for span in spans:
                flags.extend(_flags_of(key, dict(span), source))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{source}: Run Registry entry {entry!r:.200}: {error!r}") from error
        for name, value in attributes.items():
            if name.endswith("_state"):
                states.append({**key, "workspace": name.removesuffix("_state"), "state": value})
    return Conditions(
        source,
        flags=pd.DataFrame(flags, columns=list(FLAG_COLUMNS)),
        states=pd.DataFrame(states, columns=list(STATE_COLUMNS)),
    )


def _flags_of(key: Mapping[str, Any], span: dict[str, Any], source: str) -> list[dict[str, Any]]:
    first, last = int(span["start"]), int(span["end"] if "end" in span else span["stop"])
    if not 1 <= first <= last <= LARGEST_LS:
        raise ValueError(f"{source}: lumisections {first} to {last}")
    found = []
    for component, said in span.items():
        if not isinstance(said, Mapping) or "status" not in said:
            continue
        if said["status"] not in FLAGS:
            raise ValueError(f"{component} is {said['status']!r}: want {', '.join(FLAGS)}")
        found.append(
            {
                **key,
                "component": component,
                "first_ls": first,
                "last_ls": last,
                "flag": said["status"],
                "cause": said.get("cause") or "",
            }
        )
    return found


def _renamed(table: pd.DataFrame, aliases: Mapping[str, str]) -> pd.DataFrame:
    # A table that has both names keeps the alias as an extra.
    taken = set(table.columns)
    renamed = {}
    for old, new in aliases.items():
        if old in taken and new not in taken:
            renamed[old] = new
            taken.add(new)
    return table.rename(columns=renamed)


def _need(table: pd.DataFrame, columns: Sequence[str], source: str) -> None:
    lacking = [column for column in columns if column not in table]
    if lacking:
        raise ValueError(
            f"{source}: no column {', '.join(lacking)}, only {', '.join(map(str, table.columns))}"
        )


def _typed(
    table: pd.DataFrame, columns: Mapping[str, ColumnType], source: str, scale: float
) -> pd.DataFrame:
    if table.columns.has_duplicates:
        twice = table.columns[table.columns.duplicated()][0]
        raise ValueError(f"{source}: column {twice} occurs twice")
    typed = {}
    for name in table.columns:
        where = f"{source}: {name}"
        if name == "run_number":
            typed[name] = _keys(table, name, LARGEST_RUN, source)
        elif name == "ls_number":
            typed[name] = _keys(table, name, LARGEST_LS, source)
        elif name in columns:
            typed[name] = _CONVERT[columns[name]](table[name], where)
            if name in ("delivered_lumi", "recorded_lumi"):
                typed[name] = typed[name] * scale
        else:
            typed[name] = table[name].astype(object)
    return pd.DataFrame(typed, index=table.index)


def _keys(table: pd.DataFrame, name: str, largest: int, source: str) -> pd.Series[Any]:
    whole = _integers(table[name], f"{source}: {name}")
    wrong = whole.isna() | (whole < 1) | (whole > largest)
    if wrong.any():
        row = wrong.index[wrong][0]
        raise ValueError(
            f"{source}: row {row}: {name} is {_said(table[name].loc[row])}: want 1 to {largest}"
        )
    return whole.astype(np.int64)


def _keyed(typed: pd.DataFrame, keys: list[str], source: str) -> pd.DataFrame:
    repeated = typed.duplicated(keys, keep=False)
    if repeated.any():
        first_of = typed[repeated].astype(str).drop_duplicates()
        differs = first_of.duplicated(keys, keep=False)
        if differs.any():
            row = typed.loc[first_of.index[differs][0]]
            said = ", ".join(f"{key} {row[key]}" for key in keys)
            raise ValueError(f"{source}: {said} occurs twice, with different values")
        typed = typed.drop_duplicates(keys)
    return typed.set_index(keys).sort_index()


def _is_missing(value: Any) -> bool:
    if value is None or value is pd.NA or value is pd.NaT:
        return True
    if isinstance(value, float):
        return math.isnan(value)
    return isinstance(value, str) and value.strip().lower() in _EMPTY


def _refuse(where: str, row: Any, value: Any, wanted: str) -> ValueError:
    return ValueError(f"{where}, row {row}: {_said(value)}: want {wanted}")


def _said(value: Any) -> str:
    return repr(value.item() if isinstance(value, np.generic) else value)


def _numbers(column: pd.Series[Any], where: str) -> pd.Series[Any]:
    if column.dtype.kind in "iuf":
        numbers = column.astype("float64")
        infinite = numbers.abs() == math.inf
        if infinite.any():
            row = infinite.index[infinite][0]
            raise _refuse(where, row, column.loc[row], "a finite number")
        return numbers
    found = []
    for row, value in column.items():
        if _is_missing(value):
            found.append(math.nan)
            continue
        try:
            number = math.nan if isinstance(value, bool | np.bool_) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise _refuse(where, row, value, "a finite number")
        found.append(number)
    return pd.Series(found, index=column.index, dtype="float64")


def _integers(column: pd.Series[Any], where: str) -> pd.Series[Any]:
    numbers = _numbers(column, where)
    broken = numbers.notna() & (numbers != np.trunc(numbers))
    if broken.any():
        row = broken.index[broken][0]
        raise _refuse(where, row, column.loc[row], "a whole number")
    return numbers.astype("Int64")


def _flags(column: pd.Series[Any], where: str) -> pd.Series[Any]:
    if column.dtype.kind == "b":
        return column.astype("boolean")
    found: list[bool | None] = []
    for row, value in column.items():
        text = str(value).strip().lower()
        if _is_missing(value):
            found.append(None)
        elif text in _TRUE or text in _FALSE:
            found.append(text in _TRUE)
        else:
            raise _refuse(where, row, value, "true or false")
    return pd.Series(found, index=column.index, dtype="boolean")


def _texts(column: pd.Series[Any], where: str) -> pd.Series[Any]:
    for row, value in column.items():
        if isinstance(value, str) and re.search("[\0\ud800-\udfff]", value):
            raise _refuse(where, row, value, "text without NUL and halves of characters")
    # "None" or "NA" may be somebody's name.
    found = [None if pd.isna(value) else str(value).strip() or None for value in column]
    return pd.Series(found, index=column.index, dtype=object)


_BARE_NUMBER = re.compile(r"[-+]?\d+(\.\d*)?")


def _times(column: pd.Series[Any], where: str) -> pd.Series[Any]:
    found: list[Any] = []
    for row, value in column.items():
        if _is_missing(value):
            found.append(pd.NaT)
            continue
        try:
            if isinstance(value, int | float) or _BARE_NUMBER.fullmatch(str(value).strip()):
                stamp = pd.Timestamp(float(value), unit="s", tz="UTC")
            else:
                stamp = pd.Timestamp(value)
                stamp = stamp.tz_localize("UTC") if stamp.tz is None else stamp.tz_convert("UTC")
        except (TypeError, ValueError, OverflowError) as error:
            raise _refuse(where, row, value, "a time") from error
        found.append(stamp.as_unit("us"))
    return pd.Series(found, index=column.index, dtype="datetime64[us, UTC]")


_CONVERT = {
    "integer": _integers,
    "number": _numbers,
    "flag": _flags,
    "text": _texts,
    "time": _times,
}
