"""Who leads: the epoch that fences every write, and the end of the predecessor's session."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from peewee import Database, PostgresqlDatabase, Select, Table, fn

from dispatcher.store.database import describe, errors_translated, transaction
from dispatcher.store.models import Leader
from flow.errors import EpochLost, StoreError

_ROW = 1
_ACTIVITY = Table("pg_stat_activity")


def begin_reign(database: Database, dispatcher: str, at: datetime) -> int:
    """Bump the epoch and return it; from then on every write under a lower one is refused.

    On Postgres the predecessor's session is ended first: one that stalls inside a transaction
    holds its lock on the epoch, which would keep this call waiting.
    """
    with errors_translated(database):
        before = _leader(database)
        _end_session(database, before)
        with transaction(database):
            # Waits for a commit under way; after that none of the old epoch can begin.
            previous = _leader(database, "FOR UPDATE")
            pid, start = _own_session(database)
            epoch: int = previous.epoch + 1
            Leader.update(
                epoch=epoch,
                dispatcher=dispatcher,
                backend_pid=pid,
                backend_start=start,
                since=at,
                heard_at=at,
            ).where(Leader.id == _ROW).execute(database)
        if previous.epoch != before.epoch:  # another one had begun its reign in between
            _end_session(database, previous)
    return epoch


def hold_epoch(database: Database, epoch: int) -> None:
    """First statement of every write's transaction: nobody can begin a reign until its end.

    Raises :class:`EpochLost` when somebody has. SQLite's writers exclude each other anyway.
    """
    # Spelled out, since this comes with every commit: composing it and wrapping the answer took the
    # library longer than the server.
    lock = " FOR SHARE" if database.for_update else ""
    query = f"SELECT epoch FROM leader WHERE id = {_ROW}{lock}"  # noqa: S608
    row: Any = database.execute_sql(query).fetchone()  # type: ignore[no-untyped-call]
    current = None if row is None else row[0]
    if current != epoch:
        raise EpochLost(
            f"{describe(database)}: expected epoch {epoch}, got {current}; another dispatcher leads"
        )


def _leader(database: Database, lock: str = "") -> Any:
    query: Any = Leader.select().where(Leader.id == _ROW)
    if lock and database.for_update:
        query = query.for_update(lock)
    for row in query.namedtuples().execute(database):
        return row
    raise StoreError(f"{describe(database)}: expected one row in table 'leader', got none")


def _own_session(database: Database) -> tuple[int | None, datetime | None]:
    if not isinstance(database, PostgresqlDatabase):
        return None, None
    query = Select((_ACTIVITY,), (_ACTIVITY.c.pid, _ACTIVITY.c.backend_start))
    own = query.where(_ACTIVITY.c.pid == fn.pg_backend_pid()).tuples()
    pid, start = own.execute(database)[0]
    return pid, start


def _end_session(database: Database, leader: Any) -> None:
    if not isinstance(database, PostgresqlDatabase) or leader.backend_pid is None:
        return
    columns = _ACTIVITY.c
    # The start as well as the number: the system may have given the number to another process.
    Select((_ACTIVITY,), (fn.pg_terminate_backend(columns.pid),)).where(
        columns.pid == leader.backend_pid,
        columns.backend_start == Leader.backend_start.db_value(leader.backend_start),
        columns.datname == fn.current_database(),
        columns.pid != fn.pg_backend_pid(),
    ).execute(database)
