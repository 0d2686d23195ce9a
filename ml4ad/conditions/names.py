"""The words of conditions: which columns are known, of what type, and what OMS calls them.

Luminosity is in 1/ub everywhere here (OMS gives 1/pb), times are UTC, energy is of one beam in GeV,
the field in T, a duration in s. What is not listed is kept too, under its own name, as an extra.
"""

from __future__ import annotations

from typing import Literal

from sqlalchemy import BigInteger, Boolean, Double, Table, Text
from sqlalchemy.dialects.postgresql import TIMESTAMP

from ml4ad.store.context import ls_condition, run_condition

ColumnType = Literal["integer", "number", "flag", "text", "time"]

#: OMS gives luminosity in 1/pb.
UB_PER_PB = 1e6
#: Unit as brilcalc writes it in its header -> 1/ub.
UNITS = {"/mb": 1e-3, "/ub": 1.0, "/nb": 1e3, "/pb": UB_PER_PB, "/fb": 1e9, "/ab": 1e12}
Unit = Literal["/mb", "/ub", "/nb", "/pb", "/fb", "/ab"]

_SQL_TYPES: dict[type, ColumnType] = {
    BigInteger: "integer",
    Double: "number",
    Boolean: "flag",
    Text: "text",
    TIMESTAMP: "time",
}


def _columns(table: Table) -> dict[str, ColumnType]:
    typed = {column.name: _SQL_TYPES.get(type(column.type)) for column in table.columns}
    keys = {column.name for column in table.primary_key}
    return {name: kind for name, kind in typed.items() if kind and name not in keys}


LS_COLUMNS = _columns(ls_condition)
RUN_COLUMNS = _columns(run_condition)

#: Other names of the key columns, in every kind of table.
KEY_ALIASES = {
    "run": "run_number",
    "runnumber": "run_number",
    "ls": "ls_number",
    "lumisection": "ls_number",
    "lumisection_number": "ls_number",
    "first_lumisection_number": "ls_number",
}
LS_ALIASES = {
    "delivered_lumi_per_lumisection": "delivered_lumi",
    "recorded_lumi_per_lumisection": "recorded_lumi",
}
RUN_ALIASES = {
    "last_lumisection_number": "last_ls_number",
    "stable_beam": "beams_stable",
    "beams_present_and_stable": "beams_stable",
    "fill_type_runtime": "fill_type",
    "l1_hlt_mode_stripped": "trigger_mode",
}
RATE_ALIASES = {"path_name": "path", "hlt_path": "path"}
REFERENCE_ALIASES = {
    "reference_run": "reference_run_number",
    "ref_run": "reference_run_number",
    "ref_run_number": "reference_run_number",
    "reconstruction_type": "reco",
    "reco_type": "reco",
    "ref_reco": "reference_reco",
    "ref_reco_type": "reference_reco",
    "reference_reco_type": "reference_reco",
}
