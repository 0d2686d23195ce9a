"""Models, scores of every lumisection, incidents, and people's verdicts."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TIMESTAMP

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    _models()
    _scores()
    _incidents()
    _verdicts()


def _models() -> None:
    op.create_table(
        "model",
        _id("model_id"),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False, comment="from 1, by name"),
        sa.Column(
            "patterns",
            ARRAY(sa.Text),
            nullable=False,
            comment="of the elements that it is for",
        ),
        sa.Column("datasets", ARRAY(sa.Text), nullable=False, comment="patterns of what it scores"),
        sa.Column("detector", sa.Text, nullable=False, comment="class"),
        _json("parameters"),
        sa.Column("seed", sa.BigInteger, nullable=False),
        sa.Column("code_version", sa.Text, nullable=False),
        _json("selection", "what it learned from: dataset, expressions, lumisections"),
        sa.Column(
            "false_alarms",
            sa.Double,
            nullable=False,
            comment="nominal, of all elements in a shift",
        ),
        _json("metrics"),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
        _time("created_at"),
        sa.PrimaryKeyConstraint("model_id", name="model_pkey"),
        sa.UniqueConstraint("name", "version", name="model_name_version_key"),
        sa.CheckConstraint("length(name) BETWEEN 1 AND 255", name="model_name_check"),
        sa.CheckConstraint(
            "state IN ('training', 'candidate', 'active', 'retired')", name="model_state_check"
        ),
        sa.CheckConstraint("false_alarms > 0", name="model_false_alarms_check"),
    )
    op.create_table(
        "model_change",
        _id("change_id"),
        *_of_model("model_change"),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("changed_by", sa.Text, nullable=False),
        _time("changed_at"),
        _text("why"),
        sa.PrimaryKeyConstraint("change_id", name="model_change_pkey"),
    )
    op.create_index("model_change_model_id_idx", "model_change", ["model_id"])
    op.create_table(
        "model_element",
        *_of_model("model_element"),
        *_of_me("model_element"),
        _text("reason", "empty, or why nothing was learned"),
        sa.Column("artefact", sa.LargeBinary, comment="npz with a JSON header"),
        _json("calibration"),
        _json("metrics"),
        sa.PrimaryKeyConstraint("model_id", "me_id", name="model_element_pkey"),
        sa.CheckConstraint(
            "(artefact IS NULL) = (reason <> '')", name="model_element_reason_check"
        ),
    )
    # It is compressed already.
    op.execute("ALTER TABLE model_element ALTER COLUMN artefact SET STORAGE EXTERNAL")


def _scores() -> None:
    op.create_table(
        "score",
        *_of_model("score"),
        *_of_dataset("score"),
        sa.Column("run_number", sa.BigInteger, nullable=False),
        *_of_me("score"),
        sa.Column("n_ls", sa.Integer, nullable=False),
        sa.Column("n_scored", sa.Integer, nullable=False),
        sa.Column(
            "least_log_p", sa.Double, comment="of all lumisections; none where none is scored"
        ),
        _text("detail", "in words, where a reason concerns the whole run"),
        *(
            sa.Column(name, sa.LargeBinary, nullable=False, comment=comment)
            for name, comment in (
                ("ls_numbers", "int32"),
                ("scores", "float64, NaN where there is none"),
                ("log_p", "float64, natural logarithm"),
                ("codes", "uint8, see ml4ad.detect.reasons"),
                ("sources", "int64, of what each was made from"),
            )
        ),
        _time("scored_at"),
        sa.PrimaryKeyConstraint(
            *("model_id", "dataset_id", "run_number", "me_id"), name="score_pkey"
        ),
    )
    op.create_index("score_dataset_id_run_number_idx", "score", ["dataset_id", "run_number"])
    op.create_index("score_me_id_idx", "score", ["me_id"])


def _incidents() -> None:
    op.create_table(
        "incident",
        _id("incident_id"),
        *_of_model("incident"),
        *_of_dataset("incident"),
        *(
            sa.Column(name, sa.BigInteger, nullable=False)
            for name in ("run_number", "first_ls", "last_ls")
        ),
        sa.Column(
            "open", sa.Boolean, nullable=False, comment="not over at the run's last lumisection"
        ),
        sa.Column(
            "n_flagged", sa.Integer, nullable=False, comment="pairs of element and lumisection"
        ),
        *_of_me("incident", "that shows it most clearly"),
        sa.Column(
            "me_ids", ARRAY(sa.Integer), nullable=False, comment="that show it, clearest first"
        ),
        sa.Column("peak_ls", sa.BigInteger, nullable=False),
        sa.Column("score", sa.Double, nullable=False),
        sa.Column("log_p", sa.Double, nullable=False),
        _text("direction"),
        *(sa.Column(name, sa.Double) for name in ("strength", "observed", "expected")),
        _json("place", "bins, ranges and titles per axis; empty where there is none"),
        sa.Column(
            "reference", JSONB, nullable=False, server_default="[]", comment="[[run, ls], ...]"
        ),
        sa.Column("sentence", sa.Text, nullable=False),
        _time("found_at"),
        sa.PrimaryKeyConstraint("incident_id", name="incident_pkey"),
    )
    op.create_index("incident_dataset_id_run_number_idx", "incident", ["dataset_id", "run_number"])
    op.create_index("incident_model_id_idx", "incident", ["model_id"])


def _verdicts() -> None:
    op.create_table(
        "verdict",
        _id("verdict_id"),
        *(
            sa.Column(name, sa.BigInteger, nullable=False)
            for name in ("run_number", "first_ls", "last_ls")
        ),
        sa.Column("verdict", sa.Text, nullable=False),
        _text("why"),
        _text("dataset", "empty: any"),
        _text("workspace", "empty: all"),
        _text("me", "empty: all"),
        sa.Column("incident_id", sa.Integer, comment="that it answers to"),
        sa.Column("said_by", sa.Text, nullable=False),
        _time("said_at"),
        sa.PrimaryKeyConstraint("verdict_id", name="verdict_pkey"),
        sa.CheckConstraint(
            "verdict IN ('good', 'bad', 'known', 'not assessed', 'seen')",
            name="verdict_verdict_check",
        ),
        sa.CheckConstraint("first_ls BETWEEN 1 AND last_ls", name="verdict_range_check"),
    )
    op.create_index("verdict_run_number_idx", "verdict", ["run_number"])
    op.execute(
        """
        CREATE FUNCTION verdict_is_kept() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION 'a verdict is never changed or deleted: add a later one'
                USING ERRCODE = 'check_violation';
        END $$
        """
    )
    op.execute(
        "CREATE TRIGGER verdict_is_kept BEFORE UPDATE OR DELETE ON verdict "
        "FOR EACH ROW EXECUTE FUNCTION verdict_is_kept()"
    )


def _id(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer, sa.Identity(always=True), nullable=False)


def _text(name: str, comment: str | None = None) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False, server_default="", comment=comment)


def _json(name: str, comment: str | None = None) -> sa.Column[object]:
    return sa.Column(name, JSONB, nullable=False, server_default="{}", comment=comment)


def _time(name: str) -> sa.Column[object]:
    return sa.Column(name, TIMESTAMP(timezone=True), nullable=False, server_default=sa.func.now())


def _of_model(table: str) -> tuple[Any, ...]:
    return (
        sa.Column("model_id", sa.Integer, nullable=False),
        sa.ForeignKeyConstraint(
            ["model_id"], ["model.model_id"], ondelete="CASCADE", name=f"{table}_model_id_fkey"
        ),
    )


def _of_dataset(table: str) -> tuple[Any, ...]:
    return (
        sa.Column("dataset_id", sa.Integer, nullable=False),
        sa.ForeignKeyConstraint(
            ["dataset_id"],
            ["dataset.dataset_id"],
            ondelete="CASCADE",
            name=f"{table}_dataset_id_fkey",
        ),
    )


def _of_me(table: str, comment: str | None = None) -> tuple[Any, ...]:
    return (
        sa.Column("me_id", sa.Integer, nullable=False, comment=comment),
        sa.ForeignKeyConstraint(["me_id"], ["me.me_id"], name=f"{table}_me_id_fkey"),
    )
