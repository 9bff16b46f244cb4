"""How a database server stands: for ``flow doctor``, which explains it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from peewee import Database, PostgresqlDatabase, Select, Table, fn

from dispatcher.store.database import describe, errors_translated
from dispatcher.store.models import Leader
from dispatcher.store.views import LeaderView

_SSL = Table("pg_stat_ssl")
#: With one of these off, a commit that was confirmed may be lost with the machine.
_DURABLE = ("fsync", "synchronous_commit", "full_page_writes")


@dataclass(frozen=True, slots=True)
class Health:
    """One look at it."""

    where: str
    """Which database, without its password."""
    server: str
    """Product and version."""
    host: str
    """Where it is, as the URL says; empty for the local socket."""
    encrypted: bool | None
    """The connection; None where the server does not tell."""
    ahead: float
    """Seconds by which its clock is ahead of this machine's."""
    doubt: float
    """By how many seconds that may be wrong: half the time that the answer took."""
    not_durable: tuple[str, ...]
    """Settings that are off."""


def look(database: Database) -> Health:
    """Connect and ask. Raises :class:`~flow.errors.StoreError`."""
    assert isinstance(database, PostgresqlDatabase), "SQLite has neither clock nor server"
    with errors_translated(database):
        database.connect(reuse_if_open=True)
        ahead, doubt = _clock(database)
        settings = {name: _value(database, fn.current_setting(name)) for name in _DURABLE}
        return Health(
            describe(database),
            f"PostgreSQL {_value(database, fn.current_setting('server_version'))}",
            str(database.connect_params.get("host", "")),
            _encrypted(database),
            ahead,
            doubt,
            tuple(name for name, value in settings.items() if value == "off"),
        )


def leader(database: Database) -> LeaderView | None:
    """Who has led last, and when that was heard; ``None`` where nobody ever has. Raises
    :class:`~flow.errors.StoreError`."""
    heard = Leader.select().where(Leader.heard_at.is_null(is_null=False))
    with errors_translated(database):
        for row in heard.execute(database):
            return LeaderView(dispatcher=row.dispatcher, epoch=row.epoch, heard_at=row.heard_at)
    return None


def _value(database: Database, expression: Any) -> Any:
    return Select(columns=[expression]).tuples().execute(database)[0][0]


def _clock(database: PostgresqlDatabase) -> tuple[float, float]:
    """The shortest of a few exchanges says most (as in NTP, RFC 5905)."""
    looks = []
    for _ in range(3):
        begun, wall = time.monotonic(), datetime.now(UTC)
        theirs: datetime = _value(database, fn.clock_timestamp())
        took = time.monotonic() - begun
        looks.append((took / 2, (theirs - wall).total_seconds() - took / 2))
    doubt, ahead = min(looks)
    return ahead, doubt


def _encrypted(database: PostgresqlDatabase) -> bool | None:
    own = Select((_SSL,), (_SSL.c.ssl,)).where(_SSL.c.pid == fn.pg_backend_pid())
    for (encrypted,) in own.tuples().execute(database):
        return bool(encrypted)
    return None
