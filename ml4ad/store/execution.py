"""The table of notebook runs: who ran what, when, with which parameters, and what came of it."""

from __future__ import annotations

import enum

import sqlalchemy as sa
from sqlalchemy import Column, Integer, Text
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP

from ml4ad.store.schema import metadata


class RunState(enum.StrEnum):
    """Where a run of a notebook stands."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"  # a cell raised, or the notebook could not be started
    DIED = "died"  # the kernel ended in the middle: out of memory, a crash
    OVERTIME = "overtime"  # it took longer than it may
    STOPPED = "stopped"  # interrupted or terminated from outside
    LOST = "lost"  # its process is gone and could not say so
    MISSED = "missed"  # planned, but nothing kept the schedule
    REFUSED = "refused"  # planned, but the run before it was still at it


def _time(name: str, *, nullable: bool = True) -> Column[object]:
    return Column(name, TIMESTAMP(timezone=True), nullable=nullable)


#: Times are the server's. A run that is missed or refused has a row too, and never started.
pipeline_run = sa.Table(
    "pipeline_run",
    metadata,
    Column("pipeline_run_id", Integer, sa.Identity(always=True), primary_key=True),
    Column("notebook", Text, nullable=False, comment="name without folder and .ipynb"),
    Column("path", Text, nullable=False),
    Column("digest", Text, nullable=False, comment="SHA-256 of the notebook's cells"),
    Column("given", JSONB, nullable=False, comment="parameters that were given"),
    Column("parameters", JSONB, nullable=False, comment="all, with the defaults"),
    Column("state", Text, nullable=False),
    Column("reason", Text, nullable=False, server_default=""),
    Column("who", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("cwd", Text, nullable=False, comment="folder that relative paths start from"),
    Column("cluster", Text, nullable=False, comment="empty: workers on the host"),
    Column("code_version", Text, nullable=False),
    Column("job", Text, comment="of the schedule"),
    _time("planned_at"),
    Column("rerun_of", sa.ForeignKey("pipeline_run.pipeline_run_id", ondelete="SET NULL")),
    Column("chain_id", Integer, comment="first run of the chain that it is part of"),
    _time("started_at", nullable=False),
    _time("heartbeat_at", nullable=False),
    _time("finished_at"),
    Column("n_cells", Integer, nullable=False, comment="code cells"),
    Column("cell", Integer, nullable=False, comment="code cell it is at, or ended at: In [cell]"),
    Column("error_name", Text),
    Column("error_message", Text),
    Column("output", Text, comment="path of the executed notebook"),
    Column("page", Text, comment="path of the same as HTML"),
    sa.CheckConstraint(f"state IN ({', '.join(repr(s.value) for s in RunState)})", name="state"),
    sa.UniqueConstraint("job", "planned_at"),
)
sa.Index(None, pipeline_run.c.started_at)
sa.Index(
    "pipeline_run_running_idx",
    pipeline_run.c.heartbeat_at,
    postgresql_where=pipeline_run.c.state == sa.literal_column("'running'"),
)
