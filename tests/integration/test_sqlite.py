"""What holds on SQLite only: readers beside the writer, writers in turn, files that are none."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from peewee import SqliteDatabase

from dispatcher.store import Store, check_schema, migrate, open_database
from dispatcher.store.database import transaction
from dispatcher.store.models import Leader
from flow.errors import DatabaseRefused, StoreError
from flow.states import TaskEvent, TaskState
from tests.contract.store_fixtures import START, move_task, reign_with_run, state_of

ROOT = Path(__file__).resolve().parent.parent.parent

_READ = """
import sys
from dispatcher.store import Store, check_schema, open_database
database = open_database(sys.argv[1])
check_schema(database)
print(len(Store(database).load().tasks))
"""


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/flow.db"


def opened(url: str) -> Store:
    store = Store(open_database(url))
    migrate(store.database)
    return store


def test_another_process_reads_while_a_transaction_is_open(url: str) -> None:
    store = opened(url)
    epoch = reign_with_run(store)
    with transaction(store.database):
        Leader.update(dispatcher="uncommitted").execute(store.database)
        done = subprocess.run(
            [sys.executable, "-c", _READ, url],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
    assert done.stdout == "1\n"
    store.commit(epoch, [move_task(1, TaskEvent.SCHEDULE)])
    store.close()


def test_writers_take_turns(url: str) -> None:
    store = opened(url)
    epoch = reign_with_run(store)
    started = threading.Event()

    def write() -> None:
        other = Store(open_database(url))
        started.set()
        other.commit(epoch, [move_task(1, TaskEvent.SCHEDULE)])
        other.close()

    with ThreadPoolExecutor(1) as executor:
        with transaction(store.database):
            Leader.update(dispatcher="first").execute(store.database)
            writing = executor.submit(write)
            assert started.wait(20)
            Leader.update(dispatcher="still first").execute(store.database)
            assert state_of_leader(store) == "still first"
        writing.result(timeout=20)
    assert state_of(store) == {1: TaskState.SCHEDULED}
    store.close()


def state_of_leader(store: Store) -> str:
    [(name,)] = list(Leader.select(Leader.dispatcher).tuples().execute(store.database))
    return str(name)


def test_a_commit_survives_a_power_cut_and_readers_do_not_block(url: str) -> None:
    store = opened(url)
    assert isinstance(store.database, SqliteDatabase)
    pragmas = ("journal_mode", "synchronous", "foreign_keys")
    full = 2
    assert [store.database.pragma(name) for name in pragmas] == ["wal", full, 1]
    store.close()


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "flow.db"
    path.write_text("this is not a database, but long enough to be looked at " * 10)
    with pytest.raises(DatabaseRefused) as caught:
        check_schema(open_database(f"sqlite:///{path}"))
    assert str(caught.value) == (
        f"database {path}: expected an SQLite database, got 'file is not a database'; "
        "correct database.url"
    )


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "flow.db"
    with pytest.raises(DatabaseRefused) as caught:
        Store(open_database(f"sqlite:///{path}")).load()
    assert str(caught.value) == (
        f"database {path}: expected a file that opens, got 'unable to open database file'; "
        "check that its folder exists"
    )


def test_a_database_that_another_holds_for_too_long_is_an_error(url: str) -> None:
    store = opened(url)
    impatient = open_database(url)
    assert isinstance(impatient, SqliteDatabase)
    impatient.timeout = 0
    with transaction(store.database):
        Leader.update(dispatcher="first").execute(store.database)
        with pytest.raises(StoreError, match=r"got 'database is locked'$"):
            Store(impatient).begin_reign("second", START)
    assert Store(impatient).begin_reign("second", START) == 1
    impatient.close()
    store.close()
