"""The tables, as they are after the newest migration.

Everything hangs on `file`: one file is one transaction, and what it brought can be deleted by its
``file_id``. Nothing here is a running count. A lumisection of a dataset belongs to one file, and
its primary key says so.
"""

from __future__ import annotations

import enum

import sqlalchemy as sa
from sqlalchemy import BigInteger, Column, Double, ForeignKey, Integer, LargeBinary, Text
from sqlalchemy.dialects.postgresql import ARRAY, TIMESTAMP, UUID

#: Longest name of a monitoring element, dataset; longest reason that is kept.
MAX_NAME = 255
MAX_REASON = 5000

metadata = sa.MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "fk": "%(table_name)s_%(column_0_name)s_fkey",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
        "ck": "%(table_name)s_%(constraint_name)s_check",
    }
)


class State(enum.StrEnum):
    """Where a file stands on its way into the archive."""

    INDEXED = "INDEXED"  # found, dataset known
    PENDING = "PENDING"  # asked for, to be taken in
    RUNNING = "RUNNING"  # a worker is at it
    PROCESSED = "PROCESSED"  # all of it is stored, but for what `reason` tells
    FAILED = "FAILED"  # something passing was in the way: worth another attempt
    BAD = "BAD"  # the file itself is damaged, or not DQMIO


def _time(name: str) -> Column[object]:
    return Column(name, TIMESTAMP(timezone=True))


def _id(name: str) -> Column[int]:
    return Column(name, Integer, sa.Identity(always=True), primary_key=True)


dataset = sa.Table(
    "dataset",
    metadata,
    _id("dataset_id"),
    Column("dataset", Text, nullable=False, unique=True),
    sa.CheckConstraint(f"length(dataset) BETWEEN 1 AND {MAX_NAME}", name="name"),
)

file = sa.Table(
    "file",
    metadata,
    _id("file_id"),
    # Unknown for a file that could not be opened and whose path does not tell.
    Column("dataset_id", ForeignKey("dataset.dataset_id")),
    Column("path", Text, nullable=False, unique=True),
    Column("uuid", UUID(as_uuid=False), comment="of the ROOT file; moves and copies keep it"),
    Column("guid", Text, comment="cms::edm::GUID, where the file holds one"),
    Column("size", BigInteger, nullable=False),
    Column("mtime", Double, nullable=False, comment="Unix seconds, as the file system tells"),
    Column("vanished", sa.Boolean, nullable=False, server_default=sa.false()),
    Column("state", Text, nullable=False),
    Column("reason", Text, nullable=False, server_default=""),
    Column("era", Text, nullable=False, server_default=""),
    Column("release", Text, nullable=False, server_default=""),
    # What the last successful ingestion stored, set in its transaction.
    Column("n_ls", Integer, comment="lumisections that this file owns"),
    Column("n_refused", Integer, comment="lumisections that another file already held"),
    Column("n_histograms", BigInteger),
    Column("n_blocks", Integer),
    Column("packed_bytes", BigInteger),
    Column("wanted", ARRAY(Text), comment="globs of the elements to store; null is all"),
    Column("selection", ARRAY(Text), comment="globs of the elements that are stored; null is all"),
    _time("indexed_at"),
    _time("started_at"),
    _time("finished_at"),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("worker", Text, comment="host and process that has it, or had it last"),
    _time("heartbeat_at"),
    sa.CheckConstraint(f"state IN ({', '.join(repr(s.value) for s in State)})", name="state"),
    sa.CheckConstraint(f"length(reason) <= {MAX_REASON}", name="reason"),
)
sa.Index(None, file.c.uuid)
sa.Index(None, file.c.dataset_id)
sa.Index(
    "file_waiting_idx",
    file.c.file_id,
    postgresql_where=file.c.state.in_(
        [sa.literal_column("'PENDING'"), sa.literal_column("'RUNNING'")]
    ),
)

#: Other places where a known file lies, byte for byte.
copy = sa.Table(
    "copy",
    metadata,
    Column("path", Text, primary_key=True),
    Column("file_id", ForeignKey("file.file_id", ondelete="CASCADE"), nullable=False, index=True),
    Column("size", BigInteger, nullable=False),
    Column("mtime", Double, nullable=False),
)

me = sa.Table(
    "me",
    metadata,
    _id("me_id"),
    Column("me", Text, nullable=False, unique=True),
    Column("kind", Text, nullable=False, comment="kind of histogram or scalar, as seen last"),
    Column("subsystem", Text, nullable=False),
    Column("dim", sa.SmallInteger, nullable=False, comment="number of axes; 0 of scalars"),
    sa.CheckConstraint(f"length(me) BETWEEN 1 AND {MAX_NAME}", name="name"),
)

#: What all lumisections of a block share; the same description is stored once.
binning = sa.Table(
    "binning",
    metadata,
    _id("binning_id"),
    Column("digest", LargeBinary, nullable=False, unique=True, comment="BLAKE2b-128 of it"),
    Column("description", Text, nullable=False, comment="ASCII JSON: kind, axes, title, ..."),
)

#: What a file holds of a run; of a run there may be many files.
run = sa.Table(
    "run",
    metadata,
    Column("dataset_id", ForeignKey("dataset.dataset_id"), primary_key=True),
    Column("run_number", BigInteger, primary_key=True),
    Column("file_id", ForeignKey("file.file_id"), primary_key=True, index=True),
    _time("begin_time"),
    _time("end_time"),
)

lumisection = sa.Table(
    "lumisection",
    metadata,
    Column("dataset_id", ForeignKey("dataset.dataset_id"), primary_key=True),
    Column("run_number", BigInteger, primary_key=True),
    Column("ls_number", BigInteger, primary_key=True),
    Column("file_id", ForeignKey("file.file_id"), nullable=False, index=True),
    _time("begin_time"),
    _time("end_time"),
    Column("n_mes", Integer, nullable=False, comment="elements in it; 0 is known to be empty"),
)

#: Histograms: one element, one run, one file, a range of lumisections; see `ml4ad.store.packing`.
#: Lumisection 0 is the whole run, and has a block of its own in each file. A block with file_id 0
#: holds lumisections of several files; see `ml4ad.ingest.compact`. No foreign keys: they would cost
#: a look-up per row, and a partition that is attached would lock what it refers to.
block = sa.Table(
    "block",
    metadata,
    Column("me_id", Integer, primary_key=True, autoincrement=False),
    Column("run_number", BigInteger, primary_key=True, autoincrement=False),
    Column("first_ls", BigInteger, primary_key=True, autoincrement=False),
    Column("file_id", Integer, primary_key=True, autoincrement=False, index=True),
    Column("dataset_id", Integer, primary_key=True, autoincrement=False),
    Column("binning_id", Integer, nullable=False),
    Column("last_ls", BigInteger, nullable=False),
    Column("n_ls", Integer, nullable=False),
    Column("packed", LargeBinary, nullable=False),
    postgresql_partition_by="LIST (dataset_id)",
)

#: Int, Float and String elements; one of the three values is set.
scalar = sa.Table(
    "scalar",
    metadata,
    Column("dataset_id", Integer, primary_key=True, autoincrement=False),
    Column("me_id", Integer, primary_key=True, autoincrement=False),
    Column("run_number", BigInteger, primary_key=True, autoincrement=False),
    Column("ls_number", BigInteger, primary_key=True, autoincrement=False),
    Column("file_id", Integer, primary_key=True, autoincrement=False, index=True),
    Column("int_value", BigInteger),
    Column("float_value", Double),
    Column("string_value", LargeBinary, comment="UTF-8 as in the file, damaged or not"),
    sa.CheckConstraint("num_nonnulls(int_value, float_value, string_value) = 1", name="one"),
)
