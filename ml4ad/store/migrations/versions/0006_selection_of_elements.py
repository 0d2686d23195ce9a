"""Which elements are wanted of a file, and which are stored."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; files that are here already are stored whole."""
    for name, comment in (
        ("wanted", "globs of the elements to store; null is all"),
        ("selection", "globs of the elements that are stored; null is all"),
    ):
        op.add_column("file", sa.Column(name, ARRAY(sa.Text), comment=comment))
