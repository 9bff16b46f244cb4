"""Everything that is kept: Postgres in production, SQLite for the embedded default."""

from __future__ import annotations

from dispatcher.store.database import open_database
from dispatcher.store.schema import check_schema, migrate
from dispatcher.store.store import Store

__all__ = ["Store", "check_schema", "migrate", "open_database"]
