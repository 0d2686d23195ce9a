"""Tables of what surrounds the histograms: conditions, certification, reference runs, workspaces.

They stand on run and lumisection numbers alone: conditions come before, after or without files.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import BigInteger, Boolean, Column, Double, ForeignKey, Integer, Text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TIMESTAMP

from ml4ad.store.schema import metadata

_DETECTORS = (
    *("bpix", "fpix", "tibtid", "tob", "tecp", "tecm"),
    *("ebp", "ebm", "eep", "eem", "esp", "esm"),
    *("hbhea", "hbheb", "hbhec", "hf", "ho"),
    *("dt0", "dtp", "dtm", "cscp", "cscm", "rpc", "gemp", "gemm"),
    *("castor", "zdc"),
)


def _key(name: str) -> Column[int]:
    return Column(name, BigInteger, primary_key=True, autoincrement=False)


def _text_key(name: str) -> Column[str]:
    return Column(name, Text, primary_key=True)


def _time(name: str, *, nullable: bool = True) -> Column[object]:
    return Column(name, TIMESTAMP(timezone=True), nullable=nullable)


def _source() -> Column[int]:
    return Column("source_id", ForeignKey("condition_source.source_id"), nullable=False)


def _extra() -> Column[object]:
    return Column("extra", JSONB, nullable=False, server_default="{}")


#: Where conditions came from; a source that is loaded again keeps its row.
condition_source = sa.Table(
    "condition_source",
    metadata,
    Column("source_id", Integer, sa.Identity(always=True), primary_key=True),
    Column("source", Text, nullable=False, unique=True, comment="a file, or a service and its URL"),
    _time("loaded_at", nullable=False),
)

#: Luminosity in 1/ub, energy of one beam in GeV, field in T, duration in s.
run_condition = sa.Table(
    "run_condition",
    metadata,
    _key("run_number"),
    Column("fill_number", BigInteger),
    Column("era", Text),
    _time("start_time"),
    _time("end_time"),
    Column("duration", Double),
    Column("last_ls_number", BigInteger),
    Column("delivered_lumi", Double),
    Column("recorded_lumi", Double),
    Column("energy", Double),
    Column("b_field", Double),
    Column("beams_stable", Boolean),
    Column("fill_type", Text),
    Column("sequence", Text),
    Column("clock_type", Text),
    Column("trigger_mode", Text),
    Column("hlt_key", Text),
    Column("l1_key", Text),
    Column("l1_menu", Text),
    Column("initial_prescale_index", BigInteger),
    _extra(),
    _source(),
)

ls_condition = sa.Table(
    "ls_condition",
    metadata,
    _key("run_number"),
    _key("ls_number"),
    Column("fill_number", BigInteger),
    _time("start_time"),
    _time("end_time"),
    Column("delivered_lumi", Double),
    Column("recorded_lumi", Double),
    Column("pileup", Double),
    Column("prescale_index", BigInteger),
    Column("prescale_name", Text),
    Column("physics_flag", Boolean),
    Column("beams_stable", Boolean),
    Column("beam1_present", Boolean),
    Column("beam2_present", Boolean),
    Column("beam1_stable", Boolean),
    Column("beam2_stable", Boolean),
    Column("cms_active", Boolean),
    *(Column(f"{detector}_ready", Boolean) for detector in _DETECTORS),
    _extra(),
    _source(),
)

trigger_rate = sa.Table(
    "trigger_rate",
    metadata,
    _key("run_number"),
    _text_key("path"),
    _key("ls_number"),
    Column("rate", Double, comment="Hz"),
)

#: A named list of lumisections, such as a golden JSON, and its ranges.
certification = sa.Table(
    "certification",
    metadata,
    Column("certification_id", Integer, sa.Identity(always=True), primary_key=True),
    Column("kind", Text, nullable=False, comment="golden, muon, dcs or bad"),
    Column("name", Text, nullable=False),
    Column("source", Text, nullable=False),
    _time("loaded_at", nullable=False),
    sa.UniqueConstraint("kind", "name"),
)
certification_range = sa.Table(
    "certification_range",
    metadata,
    Column(
        "certification_id",
        ForeignKey("certification.certification_id", ondelete="CASCADE"),
        primary_key=True,
    ),
    _key("run_number"),
    _key("first_ls"),
    Column("last_ls", BigInteger, nullable=False),
    sa.CheckConstraint("first_ls BETWEEN 1 AND last_ls", name="range"),
)

#: Run Registry's word on a component, by its own dataset names (/PromptReco/Collisions2025/DQM).
registry_flag = sa.Table(
    "registry_flag",
    metadata,
    _key("run_number"),
    _text_key("dataset"),
    _text_key("component"),
    _key("first_ls"),
    Column("last_ls", BigInteger, nullable=False),
    Column("flag", Text, nullable=False),
    Column("cause", Text, nullable=False, server_default=""),
)
registry_state = sa.Table(
    "registry_state",
    metadata,
    _key("run_number"),
    _text_key("dataset"),
    _text_key("workspace"),
    Column("state", Text),
    _source(),
)

#: The run that shifters compare another with; empty texts where it does not matter.
reference_run = sa.Table(
    "reference_run",
    metadata,
    _key("run_number"),
    _text_key("reco"),
    _text_key("dataset"),
    Column("reference_run_number", BigInteger, nullable=False),
    Column("reference_reco", Text, nullable=False, server_default=""),
    Column("reference_dataset", Text, nullable=False, server_default=""),
)

#: Patterns of datasets and elements that belong to a group of people; see `ml4ad.workspaces`.
workspace = sa.Table(
    "workspace",
    metadata,
    _text_key("workspace"),
    Column("description", Text, nullable=False, server_default=""),
    Column("datasets", ARRAY(Text), nullable=False),
    Column("elements", ARRAY(Text), nullable=False, comment="that are ingested"),
    Column("shown", ARRAY(Text), nullable=False, comment="empty: all that are ingested"),
    Column("trained", ARRAY(Text), nullable=False, comment="empty: all that are ingested"),
)
