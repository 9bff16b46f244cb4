"""Opening a database, and the one boundary where its library's exceptions become flow's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import peewee
import psycopg2
from peewee import Database, PostgresqlDatabase, SqliteDatabase
from psycopg2.extensions import parse_dsn

from flow.errors import (
    ConfigError,
    DatabaseRefused,
    FlowError,
    GuardFailed,
    StoreError,
    nearest,
)

#: What libpq is told unless the URL says otherwise. A peer that is gone is noticed within half a
#: minute instead of the kernel's two hours.
_POSTGRES_DEFAULTS = {
    "application_name": "flow",
    "connect_timeout": "5",
    "keepalives": "1",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}
#: The server ends a dispatcher that stalls inside a transaction, so that its lock on the epoch
#: cannot keep a successor waiting (architecture, "Leader, epoch, reign").
_POSTGRES_OPTIONS = "-c idle_in_transaction_session_timeout=5s -c timezone=UTC"

#: FULL: a commit that returned survives a power cut, as on Postgres. The write-ahead log, with
#: which readers and the writer do not wait for each other, is a property of the file: see migrate.
_SQLITE_PRAGMAS = {"synchronous": "full", "foreign_keys": 1}
_SQLITE_BUSY_SECONDS = 10

_EXAMPLE = "postgresql://user:password@host:5432/name or sqlite:////path/flow.db"


def open_database(url: str) -> Database:
    """A database that connects when it is first used, with one connection per thread.

    Raises :class:`ConfigError` when *url* is not a database URL; its text, which may hold a
    password, is never part of a message.
    """
    scheme, separator, rest = url.partition("://")
    if scheme in ("postgresql", "postgres") and separator:
        return _postgres(f"postgresql://{rest}")
    if scheme == "sqlite" and separator:
        return _sqlite(rest)
    known = nearest(scheme, ("postgresql", "sqlite")) if separator else ""
    got = f"scheme {scheme!r}" if separator else "text without '://'"
    raise ConfigError(f"database.url: expected {_EXAMPLE}, got {got}{known}")


def _postgres(url: str) -> Database:
    try:
        given: dict[str, Any] = parse_dsn(url)
    except psycopg2.ProgrammingError:
        # libpq quotes the part that it cannot read, which may be the password.
        raise ConfigError(
            f"database.url: expected {_EXAMPLE}, got a URL that libpq cannot read; "
            "write special characters in the password as %XX"
        ) from None
    name = given.pop("dbname", "")
    if not name:
        raise ConfigError(f"database.url: expected {_EXAMPLE}, got no database name")
    options = f"{_POSTGRES_OPTIONS} {given.pop('options', '')}".strip()
    parameters: dict[str, Any] = {**_POSTGRES_DEFAULTS, **given, "options": options}
    return PostgresqlDatabase(name, **parameters)


def _sqlite(rest: str) -> Database:
    path = rest.removeprefix("/")
    if not rest.startswith("/") or path in ("", ":memory:"):
        raise ConfigError(
            f"database.url: expected sqlite:////path/flow.db, got {'sqlite://' + rest!r}; "
            "name a file, since a database in memory cannot be shared"
        )
    return SqliteDatabase(
        path,
        pragmas=_SQLITE_PRAGMAS,
        timeout=_SQLITE_BUSY_SECONDS,
        # A transaction that starts by reading could not become a writing one once another has
        # written: SQLite would refuse it at once, whatever the timeout.
        lock_type="IMMEDIATE",
        field_types={"TIMESTAMPTZ": "TEXT"},
    )


def describe(database: Database) -> str:
    """Which database, for a message; without its password."""
    if isinstance(database, SqliteDatabase):
        return f"database {database.database}"
    given = database.connect_params
    user = f"{given['user']}@" if "user" in given else ""
    host = given.get("host", "")
    port = f":{given['port']}" if "port" in given else ""
    return f"database {user}{host}{port}/{database.database}"


@contextmanager
def errors_translated(database: Database) -> Iterator[None]:
    """Everything that talks to the database runs in here, outermost.

    Raises :class:`StoreError` or one of its subclasses for every failure of the library or the
    server, and closes this thread's connection, so that the next call starts with a fresh one:
    ``is_closed()`` knows nothing of a server that has hung up.
    """
    try:
        yield
    except peewee.PeeweeException as error:
        first = _first_failure(error)
        failure = _translate(database, first)
        _discard_connection(database)
        raise failure from first


@contextmanager
def transaction(database: Database, *begin: Any) -> Iterator[None]:
    """One transaction, committed at the end of the block unless it raises. *begin* is passed to
    the library: an isolation level on Postgres, a lock type on SQLite."""
    with errors_translated(database), database.atomic(*begin):
        yield


def _discard_connection(database: Database) -> None:
    if database.in_transaction():
        return  # the block around that transaction comes by here again
    # The library forgets the connection even when closing it fails, and that it is broken is
    # being reported already.
    with suppress(peewee.PeeweeException):
        database.close()


def _first_failure(error: peewee.PeeweeException) -> peewee.PeeweeException:
    """What went wrong first: on a dead connection the rollback fails as well, and hides it."""
    first = error
    seen: BaseException | None = error.__context__
    # A FlowError ends the story: what is behind it was reported earlier.
    while seen is not None and not isinstance(seen, FlowError):
        if isinstance(seen, peewee.PeeweeException):
            first = seen
        seen = seen.__context__
    return first


#: What is said by a server or by SQLite that refuses, what was expected instead, and the remedy.
_REFUSALS = (
    (r"no password supplied", "a password", "add it to database.url"),
    (r"authentication failed", "user and password to be accepted", "check database.url"),
    (r"no pg_hba.conf entry", "this host and user to be let in", "check pg_hba.conf"),
    (r'role ".*" does not exist', "a user that exists", "check database.url, or create it"),
    (r'database ".*" does not exist', "a database that exists", "run createdb, or correct its URL"),
    (r"permission denied", "the right to do this", "grant it to the user of database.url"),
    (r"unable to open database file", "a file that opens", "check that its folder exists"),
    (r"readonly database", "a file that can be written", "check its rights"),
    (r"file is not a database", "an SQLite database", "correct database.url"),
)
_UNDEFINED = ("42P01", "42703")  # SQLSTATE of an unknown table, column
_INSUFFICIENT_PRIVILEGE = "42501"


def _translate(database: Database, error: peewee.PeeweeException) -> StoreError:
    where = describe(database)
    driver: Any = getattr(error, "orig", error)
    code = getattr(driver, "pgcode", None)
    said = driver.diag.message_primary if code else str(error)
    text = " ".join(said.split()) or type(error).__name__
    if isinstance(error, peewee.IntegrityError):
        return GuardFailed(f"{where}: expected rows that fit those it holds, got {text!r}")
    if code in _UNDEFINED or text.startswith(("no such table", "no such column")):
        return StoreError(f"{where}: expected flow's tables, got {text!r}; run `flow db migrate`")
    # While connecting, libpq passes on the server's words only, without its SQLSTATE.
    if code in (None, _INSUFFICIENT_PRIVILEGE):
        for refusal, expected, remedy in _REFUSALS:
            if re.search(refusal, text):
                return DatabaseRefused(f"{where}: expected {expected}, got {text!r}; {remedy}")
    silent = code is None and isinstance(error, peewee.OperationalError | peewee.InterfaceError)
    if silent and isinstance(database, PostgresqlDatabase):
        return StoreError(f"{where}: expected an answer, got {text!r}; is it running?")
    return StoreError(f"{where}: expected the statement to succeed, got {text!r}")
