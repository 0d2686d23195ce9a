"""Keys of the REST interface, and the record of what was changed through it."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TIMESTAMP

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "api_key",
        sa.Column("key_id", sa.Integer, sa.Identity(always=True), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False, comment="SHA-256 of the key"),
        sa.Column("scope", sa.Text, nullable=False),
        sa.Column("workspaces", ARRAY(sa.Text), nullable=False, comment="empty: all"),
        _time("created_at", nullable=False, server_default=sa.func.now()),
        sa.Column("created_by", sa.Text, nullable=False),
        _time("expires_at"),
        _time("revoked_at"),
        _time("used_at"),
        sa.PrimaryKeyConstraint("key_id", name="api_key_pkey"),
        sa.UniqueConstraint("name", name="api_key_name_key"),
        sa.UniqueConstraint("digest", name="api_key_digest_key"),
        sa.CheckConstraint("length(name) BETWEEN 1 AND 255", name="api_key_name_check"),
        sa.CheckConstraint("scope IN ('read', 'write', 'admin')", name="api_key_scope_check"),
    )
    op.create_table(
        "api_audit",
        sa.Column("audit_id", sa.Integer, sa.Identity(always=True), nullable=False),
        _time("at", nullable=False, server_default=sa.func.now()),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("details", JSONB, nullable=False, server_default="{}"),
        sa.Column("status", sa.Integer, nullable=False, comment="of the answer"),
        sa.PrimaryKeyConstraint("audit_id", name="api_audit_pkey"),
    )
    op.create_index("api_audit_at_idx", "api_audit", ["at"])


def _time(name: str, *, nullable: bool = True, server_default: Any = None) -> sa.Column[object]:
    return sa.Column(
        name, TIMESTAMP(timezone=True), nullable=nullable, server_default=server_default
    )
