"""Database URLs: what they come to, and what is said about wrong ones."""

from __future__ import annotations

import pytest
from peewee import PostgresqlDatabase, SqliteDatabase

from dispatcher.store.database import describe, open_database
from flow.errors import ConfigError

EXAMPLE = "postgresql://user:password@host:5432/name or sqlite:////path/flow.db"
UNREADABLE = "got a URL that libpq cannot read; write special characters in the password as %XX"
NO_FILE = "name a file, since a database in memory cannot be shared"


def test_a_postgres_url_is_taken_apart_and_described_without_its_password() -> None:
    database = open_database("postgresql://ada:s3%40cret%2F@db.example:5433/flow?sslmode=require")
    assert isinstance(database, PostgresqlDatabase)
    assert database.database == "flow"
    given = database.connect_params
    assert (given["user"], given["password"], given["port"]) == ("ada", "s3@cret/", "5433")
    assert (given["sslmode"], given["connect_timeout"]) == ("require", "5")
    assert describe(database) == "database ada@db.example:5433/flow"


def test_a_url_may_override_what_flow_sets() -> None:
    url = "postgres://flow@host/flow?connect_timeout=1&options=-c%20work_mem%3D8MB"
    given = open_database(url).connect_params
    assert given["connect_timeout"] == "1"
    assert given["options"].endswith(" -c timezone=UTC -c work_mem=8MB")


def test_an_sqlite_url_is_a_path_taken_literally() -> None:
    database = open_database("sqlite:////var/lib/100%/a b?.db")
    assert isinstance(database, SqliteDatabase)
    assert database.database == "/var/lib/100%/a b?.db"
    assert open_database("sqlite:///flow.db").database == "flow.db"


def test_opening_connects_to_nothing() -> None:
    assert open_database("postgresql://flow@127.0.0.1:1/flow").is_closed()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", f"expected {EXAMPLE}, got text without '://'"),
        ("flow.db", f"expected {EXAMPLE}, got text without '://'"),
        ("mysql://flow:s3cret@h/flow", f"expected {EXAMPLE}, got scheme 'mysql'"),
        (
            "postgressql://flow:s3cret@h/flow",
            f"expected {EXAMPLE}, got scheme 'postgressql'; did you mean 'postgresql'?",
        ),
        (
            "postgresql://flow:s3cret@h:54x/flow?no=1",
            f"expected {EXAMPLE}, {UNREADABLE}",
        ),
        ("postgresql://flow:s3cret@h", f"expected {EXAMPLE}, got no database name"),
        (
            "sqlite://flow.db",
            f"expected sqlite:////path/flow.db, got 'sqlite://flow.db'; {NO_FILE}",
        ),
        (
            "sqlite:///:memory:",
            f"expected sqlite:////path/flow.db, got 'sqlite:///:memory:'; {NO_FILE}",
        ),
    ],
)
def test_a_wrong_url_is_explained_without_its_password(url: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_database(url)
    assert str(caught.value) == f"database.url: {message}"
    assert "s3cret" not in str(caught.value)
