"""Steps from one schema to the next, run by Alembic through its API; there is no ini file.

A step is a module ``versions/NNNN_what_it_brings.py`` with ``revision = "NNNN"``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy import Connection

VERSION_TABLE = "ml4ad_version"


def revisions() -> list[str]:
    """All schema versions that this code knows, oldest first."""
    found = (Path(__file__).parent / "versions").glob("[0-9]*_*.py")
    return sorted(path.name.split("_")[0] for path in found)


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Bring the schema to ``revision``, within the transaction of ``connection``."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)
