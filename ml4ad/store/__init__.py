"""PostgreSQL: where histograms are kept, packed, so that one element of one run is one read."""

from ml4ad.store import access, context, execution, scoring  # noqa: F401 (tables: the schema)
from ml4ad.store.connection import DatabaseError, SchemaError, engine
from ml4ad.store.schema import State

__all__ = ["DatabaseError", "SchemaError", "State", "engine"]
