"""The words of conditions: which columns are known, of what type, and what OMS calls them.

Luminosity is in 1/ub everywhere here (OMS gives 1/pb), times are UTC, energy is of one beam in GeV,
the field in T, a duration in s. What is not listed is kept too, under its own name, as an extra.
"""

from __future__ import annotations

from typing import Literal

ColumnType = Literal["integer", "number", "flag", "text", "time"]

#: OMS gives luminosity in 1/pb.
UB_PER_PB = 1e6
#: Unit as brilcalc writes it in its header -> 1/ub.
UNITS = {"/mb": 1e-3, "/ub": 1.0, "/nb": 1e3, "/pb": UB_PER_PB, "/fb": 1e9, "/ab": 1e12}

_DETECTORS = (
    *("bpix", "fpix", "tibtid", "tob", "tecp", "tecm"),
    *("ebp", "ebm", "eep", "eem", "esp", "esm"),
    *("hbhea", "hbheb", "hbhec", "hf", "ho"),
    *("dt0", "dtp", "dtm", "cscp", "cscm", "rpc", "gemp", "gemm"),
    *("castor", "zdc"),
)

LS_COLUMNS: dict[str, ColumnType] = {
    "fill_number": "integer",
    "start_time": "time",
    "end_time": "time",
    "delivered_lumi": "number",
    "recorded_lumi": "number",
    "pileup": "number",
    "prescale_index": "integer",
    "prescale_name": "text",
    "physics_flag": "flag",
    "beams_stable": "flag",
    "beam1_present": "flag",
    "beam2_present": "flag",
    "beam1_stable": "flag",
    "beam2_stable": "flag",
    "cms_active": "flag",
    **dict.fromkeys((f"{detector}_ready" for detector in _DETECTORS), "flag"),
}

RUN_COLUMNS: dict[str, ColumnType] = {
    "fill_number": "integer",
    "era": "text",
    "start_time": "time",
    "end_time": "time",
    "duration": "number",
    "last_ls_number": "integer",
    "delivered_lumi": "number",
    "recorded_lumi": "number",
    "energy": "number",
    "b_field": "number",
    "beams_stable": "flag",
    "fill_type": "text",
    "sequence": "text",
    "clock_type": "text",
    "trigger_mode": "text",
    "hlt_key": "text",
    "l1_key": "text",
    "l1_menu": "text",
    "initial_prescale_index": "integer",
}

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
