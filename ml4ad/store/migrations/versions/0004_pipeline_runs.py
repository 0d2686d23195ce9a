"""Runs of notebooks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_STATES = (
    *("running", "done", "failed", "died", "overtime"),
    *("stopped", "lost", "missed", "refused"),
)


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "pipeline_run",
        sa.Column("pipeline_run_id", sa.Integer, sa.Identity(always=True), nullable=False),
        _text("notebook", "name without folder and .ipynb"),
        _text("path"),
        _text("digest", "SHA-256 of the notebook's cells"),
        sa.Column("given", JSONB, nullable=False, comment="parameters that were given"),
        sa.Column("parameters", JSONB, nullable=False, comment="all, with the defaults"),
        _text("state"),
        sa.Column("reason", sa.Text, nullable=False, server_default=""),
        _text("who"),
        _text("host"),
        sa.Column("pid", sa.Integer, nullable=False),
        _text("cwd", "folder that relative paths start from"),
        _text("cluster", "empty: workers on the host"),
        _text("code_version"),
        sa.Column("job", sa.Text, comment="of the schedule"),
        _time("planned_at", nullable=True),
        sa.Column("rerun_of", sa.Integer),
        sa.Column("chain_id", sa.Integer, comment="first run of the chain that it is part of"),
        _time("started_at"),
        _time("heartbeat_at"),
        _time("finished_at", nullable=True),
        sa.Column("n_cells", sa.Integer, nullable=False, comment="code cells"),
        sa.Column(
            "cell",
            sa.Integer,
            nullable=False,
            comment="code cell it is at, or ended at: In [cell]",
        ),
        sa.Column("error_name", sa.Text),
        sa.Column("error_message", sa.Text),
        sa.Column("output", sa.Text, comment="path of the executed notebook"),
        sa.Column("page", sa.Text, comment="path of the same as HTML"),
        sa.PrimaryKeyConstraint("pipeline_run_id", name="pipeline_run_pkey"),
        sa.ForeignKeyConstraint(
            ["rerun_of"],
            ["pipeline_run.pipeline_run_id"],
            ondelete="SET NULL",
            name="pipeline_run_rerun_of_fkey",
        ),
        sa.UniqueConstraint("job", "planned_at", name="pipeline_run_job_planned_at_key"),
        sa.CheckConstraint(
            f"state IN ({', '.join(repr(state) for state in _STATES)})",
            name="pipeline_run_state_check",
        ),
    )
    op.create_index("pipeline_run_started_at_idx", "pipeline_run", ["started_at"])
    op.create_index(
        "pipeline_run_running_idx",
        "pipeline_run",
        ["heartbeat_at"],
        postgresql_where=sa.text("state = 'running'"),
    )


def _text(name: str, comment: str | None = None) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False, comment=comment)


def _time(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, TIMESTAMP(timezone=True), nullable=nullable)
