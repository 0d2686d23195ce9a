"""What happened in the archive, in order, for those who come late."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table; nothing is known of what happened before."""
    op.create_table(
        "event",
        sa.Column("event_id", sa.BigInteger, sa.Identity(always=True), nullable=False),
        sa.Column("at", TIMESTAMP(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("what", sa.Text, nullable=False, comment="file, incidents or verdict"),
        sa.Column("details", JSONB, nullable=False, server_default="{}"),
        sa.PrimaryKeyConstraint("event_id", name="event_pkey"),
    )
