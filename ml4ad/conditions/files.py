"""READ conditions and certification from the JSON and CSV files that analysts have."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from ml4ad.conditions import names, ranges, record
from ml4ad.conditions.record import CERTIFICATION_KINDS, Certification, Conditions

#: What a file may be said to be; without it, the file itself says.
Kind = Literal["table", "brilcalc", "runregistry", "golden", "muon", "dcs", "bad"]
KINDS: tuple[Kind, ...] = get_args(Kind)

# In this order: "Cert_..._Muon.json" is no golden JSON, "DCSOnly" none of both.
_KIND_IN_NAME = (
    ("dcs", re.compile(r"dcs", re.IGNORECASE)),
    ("muon", re.compile(r"muon", re.IGNORECASE)),
    ("bad", re.compile(r"(^|[_-])bad", re.IGNORECASE)),
    ("golden", re.compile(r"golden|^cert_", re.IGNORECASE)),
)


def read(
    path: str | Path, *, kind: str | None = None, name: str | None = None, lumi_unit: str = "/pb"
) -> Conditions:
    """Conditions in a file.

    JSON: a certification ``{run: [[first, last]]}``; a table as lists by column (OMS as saved by
    pixelae, or the simulator's), as objects, or as OMS's API answers; Run Registry entries. CSV: a
    table with a header, or what ``brilcalc lumi [--byls] --output-style csv`` prints.
    ``kind`` is one of ``KINDS``; a certification whose file name does not tell needs it. ``name``
    is that of the certification, else the file's without its ending. ``lumi_unit`` is that of a
    table's luminosities.
    Raises OSError, or ValueError naming the file and what is wrong in it.
    """
    return parse(Path(path).read_bytes(), path, kind=kind, name=name, lumi_unit=lumi_unit)


def parse(
    content: bytes,
    path: str | Path,
    *,
    kind: str | None = None,
    name: str | None = None,
    lumi_unit: str = "/pb",
) -> Conditions:
    """Conditions in what a file of this path holds, or would; see `read`."""
    path = Path(path)
    if kind is not None and kind not in KINDS:
        raise ValueError(f"kind {kind!r}: want one of {', '.join(KINDS)}")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not text ({error})") from error
    if text.lstrip()[:1] in ("{", "["):
        return _of_json(text, path, kind, name, lumi_unit)
    if kind in CERTIFICATION_KINDS or kind == "runregistry":
        raise ValueError(f"{path}: want JSON of kind {kind}, starting with {{ or [")
    if kind == "brilcalc" or (kind is None and re.search(r"^#\s*run:fill", text, re.MULTILINE)):
        return brilcalc(text, str(path))
    return record.of_table(_csv(text, path), str(path), lumi_unit=lumi_unit)


def _of_json(
    text: str, path: Path, kind: str | None, name: str | None, lumi_unit: str
) -> Conditions:
    source = str(path)
    if kind in CERTIFICATION_KINDS:
        return _certified(str(kind), name or path.stem, text, source)
    try:
        loaded = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{source}: not JSON ({error})") from error
    if kind is None and _is_certification(loaded):
        return _certified(kind_in_name(path.name), name or path.stem, text, source)
    entries = records(loaded, source)
    registered = "ranges" in entries or "dataset_attributes" in entries
    if kind == "runregistry" or (kind is None and registered):
        return record.registry(entries.to_dict("records"), source)  # type: ignore[arg-type]
    return record.of_table(entries, source, lumi_unit=lumi_unit)


def _certified(kind: str, name: str, text: str, source: str) -> Conditions:
    certified = Certification(kind, name, ranges.parse(text, source))
    return Conditions(source, certifications=(certified,))


def _is_certification(loaded: Any) -> bool:
    return isinstance(loaded, dict) and all(key.isdigit() for key in loaded)


def kind_in_name(file_name: str) -> str:
    """Kind of certification that the name of a file tells, as those of CMS do.

    Raises ValueError if it tells none.

    >>> kind_in_name("Cert_Collisions2023_366442_370790_Golden.json")
    'golden'
    >>> kind_in_name("Collisions24_13p6TeV_378981_386951_DCSOnly_TkPx.json")
    'dcs'
    """
    for kind, pattern in _KIND_IN_NAME:
        if pattern.search(file_name):
            return kind
    raise ValueError(
        f"{file_name}: a certification, but of which kind? Say {', '.join(CERTIFICATION_KINDS)}"
    )


def records(loaded: Any, source: str) -> pd.DataFrame:
    """Table of decoded JSON: lists by column, a list of objects, or an answer of OMS's API.

    Raises ValueError if it is none of these or the columns have different lengths.

    >>> records({"data": [{"type": "runs", "attributes": {"run_number": 7}}]}, "OMS")
       run_number
    0           7
    """
    if isinstance(loaded, Mapping) and isinstance(loaded.get("data"), list):
        loaded = loaded["data"]
    if isinstance(loaded, Sequence) and not isinstance(loaded, str):
        return _of_objects(loaded, source)
    if isinstance(loaded, Mapping) and all(isinstance(own, list) for own in loaded.values()):
        lengths = {name: len(own) for name, own in loaded.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"{source}: columns of different length: {lengths}")
        return pd.DataFrame(
            {name: pd.Series(own, dtype=_dtype(own)) for name, own in loaded.items()}
        )
    raise ValueError(
        f"{source}: want lists of equal length by column, a list of objects, or OMS's "
        f"{{'data': [...]}}; got {_shape(loaded)}"
    )


def _of_objects(entries: Sequence[Any], source: str) -> pd.DataFrame:
    rows = []
    for at, entry in enumerate(entries):
        row = entry.get("attributes", entry) if isinstance(entry, Mapping) else entry
        if not isinstance(row, Mapping):
            raise ValueError(f"{source}: entry {at}: want an object, got {entry!r:.80}")
        rows.append(row if row is entry else _in_one_unit(entry, row, f"{source}: entry {at}"))
    found = {name: None for row in rows for name in row}
    columns = {name: [row.get(name) for row in rows] for name in found}
    return pd.DataFrame({name: pd.Series(own, dtype=_dtype(own)) for name, own in columns.items()})


_LUMINOSITIES = ("delivered_lumi", "recorded_lumi", *names.LS_ALIASES)


def _in_one_unit(entry: Mapping[str, Any], row: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    # OMS chooses the unit row by row (lead runs have 1/ub) and says so in {"meta": {"row": ...}}.
    meta = entry.get("meta")
    units = meta.get("row") if isinstance(meta, Mapping) else None
    if not isinstance(units, Mapping):
        return row
    changed = {}
    for name in _LUMINOSITIES:
        said = units.get(name)
        unit = said.get("units") if isinstance(said, Mapping) else None
        if unit and isinstance(row.get(name), int | float):
            letters = re.sub(r"[\\{}^\s]", "", str(unit)).replace("mu", "u").replace("µ", "u")
            plain = f"/{letters.removesuffix('-1')}"
            if plain not in names.UNITS:
                raise ValueError(f"{where}: {name} in {unit!r}: want one of {list(names.UNITS)}")
            changed[name] = row[name] * (names.UNITS[plain] / names.UB_PER_PB)
    return {**row, **changed}


def _dtype(values: Sequence[Any]) -> Any:
    # Whole numbers beside None would become floats, and text another dtype, if pandas chose.
    kinds = {type(value) for value in values}
    if kinds == {bool}:
        return np.bool_
    if kinds and kinds <= {int, float}:
        large = any(isinstance(value, int) and abs(value) > 2**53 for value in values)
        return object if large else np.float64 if float in kinds else np.int64
    return object


def _shape(loaded: Any) -> str:
    if isinstance(loaded, Mapping):
        return f"an object with {', '.join(map(str, list(loaded)[:8])) or 'nothing'}"
    return type(loaded).__name__


def _csv(text: str, path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(io.StringIO(text), skipinitialspace=True)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ValueError(f"{path}: neither JSON nor CSV ({error})") from error


def brilcalc(text: str, source: str) -> Conditions:
    """Conditions of what ``brilcalc lumi --output-style csv`` prints, by lumisection or by run.

    The header names the unit of luminosity; energies are of one beam.
    Raises ValueError if there is no header, or a line does not fit it.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    heads = [at for at, line in enumerate(lines) if re.match(r"#\s*run:fill", line)]
    if len(heads) != 1:
        raise ValueError(f"{source}: {len(heads)} headers '#run:fill,...': want one")
    header = [name.strip() for name in lines[heads[0]].lstrip("# ").split(",")]
    rows = []
    for line in lines[heads[0] + 1 :]:
        if line.startswith("#"):
            break
        values = [value.strip() for value in line.split(",")]
        if len(values) != len(header):
            raise ValueError(f"{source}: {line!r}: want {len(header)} values: {','.join(header)}")
        rows.append(values)
    table = pd.DataFrame(rows, columns=header, dtype=object)
    unit = {match[1] for name in header if (match := re.search(r"\((/[a-z]+)\)$", name))}
    if len(unit) != 1 or not unit <= set(names.UNITS):
        raise ValueError(f"{source}: units {unit or 'nowhere'}: want one of {list(names.UNITS)}")
    return record.of_table(_brilcalc_table(table, source), source, lumi_unit=unit.pop())


_BRILCALC = {"avgpu": "pileup", "E(GeV)": "energy", "source": "luminometer", "time": "start_time"}


def _brilcalc_table(table: pd.DataFrame, source: str) -> pd.DataFrame:
    plain = table.rename(columns=lambda name: re.sub(r"\(/[a-z]+\)$", "", name))
    plain = plain.rename(
        columns={"delivered": "delivered_lumi", "recorded": "recorded_lumi", **_BRILCALC}
    )
    run_and_fill = plain.pop("run:fill").str.split(":")
    found = plain.assign(run_number=run_and_fill.str[0], fill_number=run_and_fill.str[1])
    if "ls" in found:
        # "12:12" is the luminosity system's and CMS's number; the second is 0 where CMS was off.
        found["ls_number"] = found.pop("ls").str.split(":").str[0]
    if "start_time" in found:
        found["start_time"] = [_brilcalc_time(value, source) for value in found["start_time"]]
    if "beamstatus" in found:
        found["beams_stable"] = found["beamstatus"] == "STABLE BEAMS"
    return found


def _brilcalc_time(value: str, source: str) -> Any:
    if value.isdigit():
        return int(value)
    try:
        return pd.to_datetime(value, format="%m/%d/%y %H:%M:%S", utc=True)
    except ValueError as error:
        raise ValueError(f"{source}: time {value!r}: want MM/DD/YY hh:mm:ss") from error
