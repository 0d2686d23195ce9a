"""Tables of those who may come in through the network, and of what they changed."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import Column, Integer, LargeBinary, Text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TIMESTAMP

from ml4ad.store.schema import MAX_NAME, metadata

#: What a key allows; each allows what stands before it.
SCOPES = ("read", "write", "admin")


def _time(name: str, *, nullable: bool = True) -> Column[object]:
    return Column(name, TIMESTAMP(timezone=True), nullable=nullable)


api_key = sa.Table(
    "api_key",
    metadata,
    Column("key_id", Integer, sa.Identity(always=True), primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("digest", LargeBinary, nullable=False, unique=True, comment="SHA-256 of the key"),
    Column("scope", Text, nullable=False),
    Column("workspaces", ARRAY(Text), nullable=False, comment="empty: all"),
    Column("created_at", TIMESTAMP(timezone=True), nullable=False, server_default=sa.func.now()),
    Column("created_by", Text, nullable=False),
    _time("expires_at"),
    _time("revoked_at"),
    _time("used_at"),
    sa.CheckConstraint(f"length(name) BETWEEN 1 AND {MAX_NAME}", name="name"),
    sa.CheckConstraint(f"scope IN ({', '.join(repr(one) for one in SCOPES)})", name="scope"),
)

#: Every change that was asked for over the network.
api_audit = sa.Table(
    "api_audit",
    metadata,
    Column("audit_id", Integer, sa.Identity(always=True), primary_key=True),
    Column("at", TIMESTAMP(timezone=True), nullable=False, server_default=sa.func.now()),
    Column("who", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("details", JSONB, nullable=False, server_default="{}"),
    Column("status", Integer, nullable=False, comment="of the answer"),
)
sa.Index(None, api_audit.c.at)
