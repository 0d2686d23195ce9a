"""Datasets, files, lumisections, monitoring elements, and the blocks of their histograms."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import TIMESTAMP, UUID

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_STATES = "'INDEXED', 'PENDING', 'RUNNING', 'PROCESSED', 'FAILED', 'BAD'"


def _time(name: str) -> sa.Column[object]:
    return sa.Column(name, TIMESTAMP(timezone=True))


def _id(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer, sa.Identity(always=True), nullable=False)


def upgrade() -> None:
    """Make the tables."""
    _files()
    _dimensions()
    _contents()


def _files() -> None:
    op.create_table(
        "dataset",
        _id("dataset_id"),
        sa.Column("dataset", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("dataset_id", name="dataset_pkey"),
        sa.UniqueConstraint("dataset", name="dataset_dataset_key"),
        sa.CheckConstraint("length(dataset) BETWEEN 1 AND 255", name="dataset_name_check"),
    )
    op.create_table(
        "file",
        _id("file_id"),
        sa.Column("dataset_id", sa.Integer),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column(
            "uuid", UUID(as_uuid=False), comment="of the ROOT file; moves and copies keep it"
        ),
        sa.Column("guid", sa.Text, comment="cms::edm::GUID, where the file holds one"),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column(
            "mtime", sa.Double, nullable=False, comment="Unix seconds, as the file system tells"
        ),
        sa.Column("vanished", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False, server_default=""),
        sa.Column("era", sa.Text, nullable=False, server_default=""),
        sa.Column("release", sa.Text, nullable=False, server_default=""),
        sa.Column("n_ls", sa.Integer, comment="lumisections that this file owns"),
        sa.Column("n_refused", sa.Integer, comment="lumisections that another file already held"),
        sa.Column("n_histograms", sa.BigInteger),
        sa.Column("n_blocks", sa.Integer),
        sa.Column("packed_bytes", sa.BigInteger),
        _time("indexed_at"),
        _time("started_at"),
        _time("finished_at"),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("worker", sa.Text, comment="host and process that has it, or had it last"),
        _time("heartbeat_at"),
        sa.PrimaryKeyConstraint("file_id", name="file_pkey"),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["dataset.dataset_id"], name="file_dataset_id_fkey"
        ),
        sa.UniqueConstraint("path", name="file_path_key"),
        sa.CheckConstraint(f"state IN ({_STATES})", name="file_state_check"),
        sa.CheckConstraint("length(reason) <= 5000", name="file_reason_check"),
    )
    op.create_index("file_uuid_idx", "file", ["uuid"])
    op.create_index("file_dataset_id_idx", "file", ["dataset_id"])
    op.create_index(
        "file_waiting_idx",
        "file",
        ["file_id"],
        postgresql_where=sa.text("state IN ('PENDING', 'RUNNING')"),
    )
    op.create_table(
        "copy",
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("file_id", sa.Integer, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("mtime", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("path", name="copy_pkey"),
        sa.ForeignKeyConstraint(
            ["file_id"], ["file.file_id"], ondelete="CASCADE", name="copy_file_id_fkey"
        ),
    )
    op.create_index("copy_file_id_idx", "copy", ["file_id"])


def _dimensions() -> None:
    op.create_table(
        "me",
        _id("me_id"),
        sa.Column("me", sa.Text, nullable=False),
        sa.Column(
            "kind", sa.Text, nullable=False, comment="kind of histogram or scalar, as seen last"
        ),
        sa.Column("subsystem", sa.Text, nullable=False),
        sa.Column("dim", sa.SmallInteger, nullable=False, comment="number of axes; 0 of scalars"),
        sa.PrimaryKeyConstraint("me_id", name="me_pkey"),
        sa.UniqueConstraint("me", name="me_me_key"),
        sa.CheckConstraint("length(me) BETWEEN 1 AND 255", name="me_name_check"),
    )
    op.create_table(
        "binning",
        _id("binning_id"),
        sa.Column("digest", sa.LargeBinary, nullable=False, comment="BLAKE2b-128 of it"),
        sa.Column(
            "description", sa.Text, nullable=False, comment="ASCII JSON: kind, axes, title, ..."
        ),
        sa.PrimaryKeyConstraint("binning_id", name="binning_pkey"),
        sa.UniqueConstraint("digest", name="binning_digest_key"),
    )
    _owned("run", ["dataset_id", "run_number", "file_id"])
    n_mes = sa.Column(
        "n_mes", sa.Integer, nullable=False, comment="elements in it; 0 is known to be empty"
    )
    ls_number = sa.Column("ls_number", sa.BigInteger, nullable=False)
    _owned("lumisection", ["dataset_id", "run_number", "ls_number"], ls_number, n_mes)


def _owned(name: str, key: list[str], *more: sa.Column[Any]) -> None:
    """Table of what a file brought."""
    op.create_table(
        name,
        sa.Column("dataset_id", sa.Integer, nullable=False),
        sa.Column("run_number", sa.BigInteger, nullable=False),
        *more[:1],
        sa.Column("file_id", sa.Integer, nullable=False),
        _time("begin_time"),
        _time("end_time"),
        *more[1:],
        sa.PrimaryKeyConstraint(*key, name=f"{name}_pkey"),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["dataset.dataset_id"], name=f"{name}_dataset_id_fkey"
        ),
        sa.ForeignKeyConstraint(["file_id"], ["file.file_id"], name=f"{name}_file_id_fkey"),
    )
    op.create_index(f"{name}_file_id_idx", name, ["file_id"])


def _contents() -> None:
    op.create_table(
        "block",
        sa.Column("me_id", sa.Integer, nullable=False),
        sa.Column("run_number", sa.BigInteger, nullable=False),
        sa.Column("first_ls", sa.BigInteger, nullable=False),
        sa.Column("file_id", sa.Integer, nullable=False),
        sa.Column("dataset_id", sa.Integer, nullable=False),
        sa.Column("binning_id", sa.Integer, nullable=False),
        sa.Column("last_ls", sa.BigInteger, nullable=False),
        sa.Column("n_ls", sa.Integer, nullable=False),
        sa.Column("packed", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint(
            *("me_id", "run_number", "first_ls", "file_id", "dataset_id"), name="block_pkey"
        ),
        postgresql_partition_by="LIST (dataset_id)",
    )
    op.create_index("block_file_id_idx", "block", ["file_id"])
    # It is compressed already.
    op.execute("ALTER TABLE block ALTER COLUMN packed SET STORAGE EXTERNAL")
    op.create_table(
        "scalar",
        sa.Column("dataset_id", sa.Integer, nullable=False),
        sa.Column("me_id", sa.Integer, nullable=False),
        sa.Column("run_number", sa.BigInteger, nullable=False),
        sa.Column("ls_number", sa.BigInteger, nullable=False),
        sa.Column("file_id", sa.Integer, nullable=False),
        sa.Column("int_value", sa.BigInteger),
        sa.Column("float_value", sa.Double),
        sa.Column("string_value", sa.LargeBinary, comment="UTF-8 as in the file, damaged or not"),
        sa.PrimaryKeyConstraint(
            *("dataset_id", "me_id", "run_number", "ls_number", "file_id"), name="scalar_pkey"
        ),
        sa.CheckConstraint(
            "num_nonnulls(int_value, float_value, string_value) = 1", name="scalar_one_check"
        ),
    )
    op.create_index("scalar_file_id_idx", "scalar", ["file_id"])
