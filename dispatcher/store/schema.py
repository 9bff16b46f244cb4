"""Bringing the schema up to date, and refusing to work on one of another release."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from peewee import Database, OperationalError, Select, SqliteDatabase, fn
from playhouse.migrations import (  # type: ignore[import-untyped]  # peewee-stubs leave it out
    MigrationError,
    Runner,
)

from dispatcher.store.database import describe, errors_translated, transaction
from flow.errors import SchemaError

MIGRATIONS = Path(__file__).with_name("migrations")
#: Of ``pg_advisory_lock``: "flow" in ASCII, so that no other program takes it by chance.
LOCK_KEY = 0x666C6F77
#: How long one migration of an SQLite file waits for another, in seconds.
_SQLITE_PATIENCE = 60.0


def migrate(database: Database) -> list[str]:
    """Apply what is missing and return its names; two at once are safe, the second finds nothing.

    Raises :class:`SchemaError` when the database holds migrations of a newer release, and
    :class:`~flow.errors.StoreError` when it cannot be used.
    """
    _make_folder(database)
    with errors_translated(database), _alone(database):
        runner = Runner(database, str(MIGRATIONS))
        _refuse_newer(database, runner)
        try:
            applied: list[str] = runner.up()
        except MigrationError as error:
            raise SchemaError(
                f"{describe(database)}: expected to migrate, got '{error}'"
            ) from error
    return applied


def check_schema(database: Database) -> None:
    """Raise :class:`SchemaError`, with the remedy, unless the schema is exactly this release's."""
    if isinstance(database, SqliteDatabase) and not Path(database.database).exists():
        # Connecting would leave an empty file behind.
        raise SchemaError(f"{describe(database)}: expected a file, got none; run `flow db migrate`")
    with errors_translated(database):
        runner = Runner(database, str(MIGRATIONS))
        _refuse_newer(database, runner)
        missing = [migration.name for migration in runner.status() if not migration.applied]
    if missing:
        raise SchemaError(
            f"{describe(database)}: expected migration {missing[-1]!r}, "
            f"got a schema without {', '.join(missing)}; run `flow db migrate`"
        )


def _refuse_newer(database: Database, runner: Runner) -> None:
    unknown = [migration.name for migration in runner.status() if migration.path is None]
    if unknown:
        known = runner.migrations()[-1].name
        raise SchemaError(
            f"{describe(database)}: expected a schema up to {known!r}, got {unknown[-1]!r} "
            "of a newer release; upgrade flow on this machine"
        )


def _make_folder(database: Database) -> None:
    if isinstance(database, SqliteDatabase):
        try:
            Path(database.database).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SchemaError(
                f"{describe(database)}: expected a folder that can be made, "
                f"got '{error.strerror}'; correct database.url"
            ) from error


@contextmanager
def _alone(database: Database) -> Iterator[None]:
    """Hold off every other migration of this database."""
    try:
        if isinstance(database, SqliteDatabase):
            database.pragma("busy_timeout", int(_SQLITE_PATIENCE * 1000))
            _use_write_ahead_log(database)
            # A migration that builds a table anew must not cascade, and within a transaction this
            # setting cannot change any more.
            database.pragma("foreign_keys", 0)
            with transaction(database):
                yield
        else:
            Select(columns=[fn.pg_advisory_lock(LOCK_KEY)]).execute(database)
            yield
    finally:
        # Ends those settings, or the lock, with the connection that they belong to.
        database.close()


def _use_write_ahead_log(database: SqliteDatabase) -> None:
    """Switch the file over, for good. For this one lock SQLite does not wait: of two processes
    that switch at the same moment both may be told "database is locked"."""
    end = time.monotonic() + _SQLITE_PATIENCE
    while True:
        try:
            database.pragma("journal_mode", "wal")
        except OperationalError:
            if time.monotonic() > end:
                raise
            time.sleep(random.uniform(0.005, 0.05))  # noqa: S311 - only keeps them out of step
        else:
            return
