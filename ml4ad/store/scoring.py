"""Tables of models, of the scores they give, of incidents, and of what people say to them.

Arrays over lumisections are little-endian bytes: read straight into numpy, without a Python object
per number.
"""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from sqlalchemy import BigInteger, Column, Double, ForeignKey, Integer, LargeBinary, Text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TIMESTAMP

from ml4ad.store.schema import MAX_NAME, metadata

#: Where a model stands; one that is being trained, or whose training was killed, is "training".
MODEL_STATES = ("training", "candidate", "active", "retired")
#: What a person can say of lumisections; "seen" judges nothing.
VERDICTS = ("good", "bad", "known", "not assessed", "seen")
#: Where PostgreSQL tells of new files, incidents and verdicts, in JSON, to those who LISTEN.
CHANNEL = "ml4ad"


# Held from the number of an event to its commit.
_EVENT_LOCK = 0x6D6C3465
# PostgreSQL takes less than 8,000 bytes.
_LONGEST_NOTE = 7900


def notify(connection: sa.Connection, *, what: str, **said: Any) -> None:
    """Keep an event, and tell whoever listens when this transaction is committed.

    The last thing in a transaction: events are numbered in the order of their commits, so that
    who has seen one number has seen all before. Lists are kept, but not told.
    """
    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_EVENT_LOCK)))
    row = sa.insert(event).values(what=what, details=said).returning(event.c.event_id)
    known = {"what": what, "event_id": connection.scalar(row)}
    plain = {name: value for name, value in said.items() if not isinstance(value, list)}
    note = json.dumps(known | plain)
    if len(note) > _LONGEST_NOTE:
        note = json.dumps(known)
    connection.execute(sa.select(sa.func.pg_notify(CHANNEL, note)))


def _listed(values: tuple[str, ...]) -> str:
    return ", ".join(f"'{value}'" for value in values)


def _id(name: str) -> Column[int]:
    return Column(name, Integer, sa.Identity(always=True), primary_key=True)


def _text(name: str, comment: str | None = None) -> Column[str]:
    return Column(name, Text, nullable=False, server_default="", comment=comment)


def _json(name: str, comment: str | None = None) -> Column[object]:
    return Column(name, JSONB, nullable=False, server_default="{}", comment=comment)


def _time(name: str) -> Column[object]:
    return Column(name, TIMESTAMP(timezone=True), nullable=False, server_default=sa.func.now())


def _of_model(*, key: bool = False) -> Column[int]:
    return Column(
        "model_id",
        ForeignKey("model.model_id", ondelete="CASCADE"),
        nullable=False,
        primary_key=key,
    )


model = sa.Table(
    "model",
    metadata,
    _id("model_id"),
    Column("name", Text, nullable=False),
    Column("version", Integer, nullable=False, comment="from 1, by name"),
    Column("patterns", ARRAY(Text), nullable=False, comment="of the elements that it is for"),
    Column("datasets", ARRAY(Text), nullable=False, comment="patterns of what it scores"),
    Column("detector", Text, nullable=False, comment="class"),
    _json("parameters"),
    Column("seed", BigInteger, nullable=False),
    Column("code_version", Text, nullable=False),
    _json("selection", "what it learned from: dataset, expressions, lumisections"),
    Column("false_alarms", Double, nullable=False, comment="nominal, of all elements in a shift"),
    _json("metrics"),
    Column("state", Text, nullable=False),
    Column("created_by", Text, nullable=False),
    _time("created_at"),
    sa.UniqueConstraint("name", "version"),
    sa.CheckConstraint(f"length(name) BETWEEN 1 AND {MAX_NAME}", name="name"),
    sa.CheckConstraint(f"state IN ({_listed(MODEL_STATES)})", name="state"),
    sa.CheckConstraint("false_alarms > 0", name="false_alarms"),
)

#: History of a model's states.
model_change = sa.Table(
    "model_change",
    metadata,
    _id("change_id"),
    _of_model(),
    Column("state", Text, nullable=False),
    Column("changed_by", Text, nullable=False),
    _time("changed_at"),
    _text("why"),
)
sa.Index(None, model_change.c.model_id)

#: What a model learned of one element, or why it could not.
model_element = sa.Table(
    "model_element",
    metadata,
    _of_model(key=True),
    Column("me_id", ForeignKey("me.me_id"), primary_key=True),
    _text("reason", "empty, or why nothing was learned"),
    Column("artefact", LargeBinary, comment="npz with a JSON header"),
    _json("calibration"),
    _json("metrics"),
    sa.CheckConstraint("(artefact IS NULL) = (reason <> '')", name="reason"),
)

#: Every lumisection of a run, as one model sees one element: a score, or the code of a reason.
score = sa.Table(
    "score",
    metadata,
    _of_model(key=True),
    Column("dataset_id", ForeignKey("dataset.dataset_id", ondelete="CASCADE"), primary_key=True),
    Column("run_number", BigInteger, primary_key=True),
    Column("me_id", ForeignKey("me.me_id"), primary_key=True),
    Column("n_ls", Integer, nullable=False),
    Column("n_scored", Integer, nullable=False),
    Column("least_log_p", Double, comment="of all lumisections; none where none is scored"),
    _text("detail", "in words, where a reason concerns the whole run"),
    Column("ls_numbers", LargeBinary, nullable=False, comment="int32"),
    Column("scores", LargeBinary, nullable=False, comment="float64, NaN where there is none"),
    Column("log_p", LargeBinary, nullable=False, comment="float64, natural logarithm"),
    Column("codes", LargeBinary, nullable=False, comment="uint8, see ml4ad.detect.reasons"),
    Column("sources", LargeBinary, nullable=False, comment="int64, of what each was made from"),
    _time("scored_at"),
)
sa.Index(None, score.c.dataset_id, score.c.run_number)
sa.Index(None, score.c.me_id)

incident = sa.Table(
    "incident",
    metadata,
    _id("incident_id"),
    _of_model(),
    Column("dataset_id", ForeignKey("dataset.dataset_id", ondelete="CASCADE"), nullable=False),
    Column("run_number", BigInteger, nullable=False),
    Column("first_ls", BigInteger, nullable=False),
    Column("last_ls", BigInteger, nullable=False),
    Column("open", sa.Boolean, nullable=False, comment="not over at the run's last lumisection"),
    Column("n_flagged", Integer, nullable=False, comment="pairs of element and lumisection"),
    Column("me_id", ForeignKey("me.me_id"), nullable=False, comment="that shows it most clearly"),
    Column("me_ids", ARRAY(Integer), nullable=False, comment="that show it, clearest first"),
    Column("peak_ls", BigInteger, nullable=False),
    Column("score", Double, nullable=False),
    Column("log_p", Double, nullable=False),
    _text("direction"),
    Column("strength", Double),
    Column("observed", Double),
    Column("expected", Double),
    _json("place", "bins, ranges and titles per axis; empty where there is none"),
    Column("reference", JSONB, nullable=False, server_default="[]", comment="[[run, ls], ...]"),
    Column("sentence", Text, nullable=False),
    _time("found_at"),
)
sa.Index(None, incident.c.dataset_id, incident.c.run_number)
sa.Index(None, incident.c.model_id)

#: What people say. Rows are only ever added: the database refuses to change or delete one. Names,
#: not numbers: a verdict outlives the dataset in the archive.
verdict = sa.Table(
    "verdict",
    metadata,
    _id("verdict_id"),
    Column("run_number", BigInteger, nullable=False),
    Column("first_ls", BigInteger, nullable=False),
    Column("last_ls", BigInteger, nullable=False),
    Column("verdict", Text, nullable=False),
    _text("why"),
    _text("dataset", "empty: any"),
    _text("workspace", "empty: all"),
    _text("me", "empty: all"),
    Column("incident_id", Integer, comment="that it answers to"),
    Column("said_by", Text, nullable=False),
    _time("said_at"),
    sa.CheckConstraint(f"verdict IN ({_listed(VERDICTS)})", name="verdict"),
    sa.CheckConstraint("first_ls BETWEEN 1 AND last_ls", name="range"),
)
sa.Index(None, verdict.c.run_number)

#: What happened in the archive, in order: files taken in, runs scored, verdicts.
event = sa.Table(
    "event",
    metadata,
    Column("event_id", BigInteger, sa.Identity(always=True), primary_key=True),
    _time("at"),
    Column("what", Text, nullable=False, comment="file, incidents or verdict"),
    _json("details"),
)
