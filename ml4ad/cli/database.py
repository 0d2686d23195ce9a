"""The database of the settings, for as long as a command runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy import Engine


@contextmanager
def opened() -> Iterator[Engine]:
    """Engine on the database of the settings; its connections are closed afterwards."""
    from ml4ad import store

    engine = store.engine()
    try:
        yield engine
    finally:
        engine.dispose()
