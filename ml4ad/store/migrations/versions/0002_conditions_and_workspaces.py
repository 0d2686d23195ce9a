"""Conditions of runs and lumisections, certification, reference runs, workspaces."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TIMESTAMP

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_DEFAULT_WORKSPACES = Path(__file__).parents[3] / "workspaces.toml"

_RUN_CONDITIONS: dict[str, type[Any]] = {
    "fill_number": sa.BigInteger,
    "era": sa.Text,
    "start_time": TIMESTAMP,
    "end_time": TIMESTAMP,
    "duration": sa.Double,
    "last_ls_number": sa.BigInteger,
    "delivered_lumi": sa.Double,
    "recorded_lumi": sa.Double,
    "energy": sa.Double,
    "b_field": sa.Double,
    "beams_stable": sa.Boolean,
    "fill_type": sa.Text,
    "sequence": sa.Text,
    "clock_type": sa.Text,
    "trigger_mode": sa.Text,
    "hlt_key": sa.Text,
    "l1_key": sa.Text,
    "l1_menu": sa.Text,
    "initial_prescale_index": sa.BigInteger,
}
_LS_CONDITIONS: dict[str, type[Any]] = {
    "fill_number": sa.BigInteger,
    "start_time": TIMESTAMP,
    "end_time": TIMESTAMP,
    "delivered_lumi": sa.Double,
    "recorded_lumi": sa.Double,
    "pileup": sa.Double,
    "prescale_index": sa.BigInteger,
    "prescale_name": sa.Text,
    "physics_flag": sa.Boolean,
    "beams_stable": sa.Boolean,
    "beam1_present": sa.Boolean,
    "beam2_present": sa.Boolean,
    "beam1_stable": sa.Boolean,
    "beam2_stable": sa.Boolean,
    "cms_active": sa.Boolean,
}
_DETECTORS = [
    "bpix",
    "fpix",
    "tibtid",
    "tob",
    "tecp",
    "tecm",
    "ebp",
    "ebm",
    "eep",
    "eem",
    "esp",
    "esm",
    "hbhea",
    "hbheb",
    "hbhec",
    "hf",
    "ho",
    "dt0",
    "dtp",
    "dtm",
    "cscp",
    "cscm",
    "rpc",
    "gemp",
    "gemm",
    "castor",
    "zdc",
]


def upgrade() -> None:
    """Make the tables; fill that of the workspaces with the defaults of this release."""
    op.create_table(
        "condition_source",
        sa.Column("source_id", sa.Integer, sa.Identity(always=True), nullable=False),
        sa.Column("source", sa.Text, nullable=False, comment="a file, or a service and its URL"),
        _time("loaded_at", nullable=False),
        sa.PrimaryKeyConstraint("source_id", name="condition_source_pkey"),
        sa.UniqueConstraint("source", name="condition_source_source_key"),
    )
    flags = {f"{detector}_ready": sa.Boolean for detector in _DETECTORS}
    _conditions("run_condition", ["run_number"], _RUN_CONDITIONS)
    _conditions("ls_condition", ["run_number", "ls_number"], {**_LS_CONDITIONS, **flags})
    op.create_table(
        "trigger_rate",
        _number("run_number"),
        _text("path"),
        _number("ls_number"),
        sa.Column("rate", sa.Double, comment="Hz"),
        sa.PrimaryKeyConstraint("run_number", "path", "ls_number", name="trigger_rate_pkey"),
    )
    _certification()
    _registry()
    _workspaces()


def _conditions(name: str, keys: list[str], columns: dict[str, type[Any]]) -> None:
    op.create_table(
        name,
        *(_number(key) for key in keys),
        *(
            _time(column) if kind is TIMESTAMP else sa.Column(column, kind)
            for column, kind in columns.items()
        ),
        sa.Column("extra", JSONB, nullable=False, server_default="{}"),
        *_source(name),
        sa.PrimaryKeyConstraint(*keys, name=f"{name}_pkey"),
    )


def _certification() -> None:
    op.create_table(
        "certification",
        sa.Column("certification_id", sa.Integer, sa.Identity(always=True), nullable=False),
        sa.Column("kind", sa.Text, nullable=False, comment="golden, muon, dcs or bad"),
        _text("name"),
        _text("source"),
        _time("loaded_at", nullable=False),
        sa.PrimaryKeyConstraint("certification_id", name="certification_pkey"),
        sa.UniqueConstraint("kind", "name", name="certification_kind_name_key"),
    )
    op.create_table(
        "certification_range",
        sa.Column("certification_id", sa.Integer, nullable=False),
        _number("run_number"),
        _number("first_ls"),
        _number("last_ls"),
        sa.PrimaryKeyConstraint(
            "certification_id", "run_number", "first_ls", name="certification_range_pkey"
        ),
        sa.ForeignKeyConstraint(
            ["certification_id"],
            ["certification.certification_id"],
            ondelete="CASCADE",
            name="certification_range_certification_id_fkey",
        ),
        sa.CheckConstraint(
            "first_ls BETWEEN 1 AND last_ls", name="certification_range_range_check"
        ),
    )


def _registry() -> None:
    op.create_table(
        "registry_flag",
        _number("run_number"),
        _text("dataset"),
        _text("component"),
        _number("first_ls"),
        _number("last_ls"),
        _text("flag"),
        sa.Column("cause", sa.Text, nullable=False, server_default=""),
        sa.PrimaryKeyConstraint(
            "run_number", "dataset", "component", "first_ls", name="registry_flag_pkey"
        ),
    )
    op.create_table(
        "registry_state",
        _number("run_number"),
        _text("dataset"),
        _text("workspace"),
        sa.Column("state", sa.Text),
        *_source("registry_state"),
        sa.PrimaryKeyConstraint("run_number", "dataset", "workspace", name="registry_state_pkey"),
    )
    op.create_table(
        "reference_run",
        _number("run_number"),
        _text("reco"),
        _text("dataset"),
        _number("reference_run_number"),
        sa.Column("reference_reco", sa.Text, nullable=False, server_default=""),
        sa.Column("reference_dataset", sa.Text, nullable=False, server_default=""),
        sa.PrimaryKeyConstraint("run_number", "reco", "dataset", name="reference_run_pkey"),
    )


def _workspaces() -> None:
    table = op.create_table(
        "workspace",
        _text("workspace"),
        sa.Column("description", sa.Text, nullable=False, server_default=""),
        sa.Column("datasets", ARRAY(sa.Text), nullable=False),
        sa.Column("elements", ARRAY(sa.Text), nullable=False, comment="that are ingested"),
        sa.Column("shown", ARRAY(sa.Text), nullable=False, comment="empty: all that are ingested"),
        sa.Column(
            "trained", ARRAY(sa.Text), nullable=False, comment="empty: all that are ingested"
        ),
        sa.PrimaryKeyConstraint("workspace", name="workspace_pkey"),
    )
    with _DEFAULT_WORKSPACES.open("rb") as opened:
        defaults = tomllib.load(opened)["workspaces"]
    op.bulk_insert(
        table,
        [
            {
                "workspace": name,
                "description": own.get("description", ""),
                "datasets": own["datasets"],
                "elements": own["elements"],
                "shown": own.get("shown", []),
                "trained": own.get("trained", []),
            }
            for name, own in defaults.items()
        ],
    )


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False)


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False)


def _time(name: str, *, nullable: bool = True) -> sa.Column[object]:
    return sa.Column(name, TIMESTAMP(timezone=True), nullable=nullable)


def _source(table: str) -> tuple[sa.Column[int], sa.ForeignKeyConstraint]:
    return (
        sa.Column("source_id", sa.Integer, nullable=False),
        sa.ForeignKeyConstraint(
            ["source_id"], ["condition_source.source_id"], name=f"{table}_source_id_fkey"
        ),
    )
