"""What holds on Postgres only: sessions that end, locks on the epoch, refusals of a server."""

from __future__ import annotations

import secrets
import socket
import struct
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import psycopg2
import psycopg2.extensions
import pytest
from peewee import Database

from dispatcher.store import Store, check_schema, migrate, open_database
from dispatcher.store.database import transaction
from dispatcher.store.leader import hold_epoch
from dispatcher.store.models import Leader
from flow.errors import DatabaseRefused, EpochLost, SchemaError, StoreError
from flow.states import TaskEvent, TaskState
from tests.contract.store_fixtures import START, move_task, reign_with_run, state_of
from tests.waiting import until


class Server:
    """The same database, seen from aside."""

    def __init__(self, url: str) -> None:
        self._connection = psycopg2.connect(url)
        self._connection.autocommit = True

    def value(self, query: str, *parameters: object) -> object:
        with self._connection.cursor() as cursor:
            cursor.execute(query, parameters)
            row = cursor.fetchone()
            return None if row is None else row[0]

    def run(self, statement: str) -> None:
        with self._connection.cursor() as cursor:
            cursor.execute(statement)

    def lives(self, pid: object) -> bool:
        return self.value("SELECT 1 FROM pg_stat_activity WHERE pid = %s", pid) == 1

    def terminate(self, pid: object) -> None:
        self.value("SELECT pg_terminate_backend(%s)", pid)
        until(lambda: not self.lives(pid))

    def waiting_for_locks(self) -> object:
        query = (
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return self.value(query)

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def server(postgres_url: str) -> Iterator[Server]:
    seen = Server(postgres_url)
    yield seen
    seen.close()


@pytest.fixture
def store(postgres_url: str) -> Iterator[Store]:
    opened = Store(open_database(postgres_url))
    migrate(opened.database)
    yield opened
    opened.close()


@pytest.fixture
def other(postgres_url: str) -> Iterator[Store]:
    """A second dispatcher's."""
    opened = Store(open_database(postgres_url))
    yield opened
    opened.close()


def connection_of(database: Any) -> psycopg2.extensions.connection:
    """This thread's."""
    connection: psycopg2.extensions.connection = database.connection()
    return connection


def own_pid(database: Database) -> int:
    return connection_of(database).info.backend_pid


#: What libpq says when it finds the server's last words, and when it only finds the line cut.
CLOSED = "terminating connection|server closed the connection"


# -- sessions ----------------------------------------------------------------------------------


def test_a_session_says_who_it_is_and_cannot_stall_for_ever(store: Store, server: Server) -> None:
    query = "SELECT application_name FROM pg_stat_activity WHERE pid = %s"
    assert server.value(query, own_pid(store.database)) == "flow"
    with connection_of(store.database).cursor() as cursor:
        cursor.execute("SHOW idle_in_transaction_session_timeout")
        assert cursor.fetchone() == ("5s",)
        cursor.execute("SHOW timezone")
        assert cursor.fetchone() == ("UTC",)


def test_a_session_notices_within_half_a_minute_that_its_server_is_gone(store: Store) -> None:
    given = connection_of(store.database).info.dsn_parameters
    expected = {
        "connect_timeout": "5",
        "keepalives": "1",
        "keepalives_idle": "10",
        "keepalives_interval": "5",
        "keepalives_count": "3",
        "tcp_user_timeout": "30000",
    }
    assert {name: given[name] for name in expected} == expected


def test_beginning_a_reign_ends_the_predecessors_session(
    store: Store, other: Store, server: Server
) -> None:
    epoch = reign_with_run(store)
    pid = own_pid(store.database)
    other.begin_reign("second", START)
    until(lambda: not server.lives(pid))
    with pytest.raises(StoreError, match=CLOSED):
        store.commit(epoch, [move_task(1, TaskEvent.SCHEDULE)])
    with pytest.raises(EpochLost):
        store.commit(epoch, [move_task(1, TaskEvent.SCHEDULE)])
    assert state_of(other) == {1: TaskState.NONE}


def test_a_second_reign_of_the_same_session_goes_on(store: Store) -> None:
    assert [store.begin_reign("same", START) for _ in range(3)] == [1, 2, 3]
    assert store.load().runs == ()


def test_a_session_that_only_has_the_predecessors_number_is_left_alone(
    store: Store, other: Store, server: Server
) -> None:
    epoch = reign_with_run(store)
    Leader.update(backend_start=START - timedelta(days=1)).execute(store.database)
    other.begin_reign("second", START)
    assert server.lives(own_pid(store.database))
    with pytest.raises(EpochLost):
        store.commit(epoch, [])


def test_a_predecessor_that_stalls_in_a_transaction_does_not_hold_up_the_next_reign(
    store: Store, other: Store
) -> None:
    epoch = store.begin_reign("first", START)
    # Without this the server would end the one that stalls, a few seconds later.
    stalls: Any = store.database
    stalls.execute_sql("SET idle_in_transaction_session_timeout = 0")
    follows: Any = other.database
    follows.execute_sql("SET lock_timeout = '10s'")

    def stall() -> None:
        with transaction(store.database):
            hold_epoch(store.database, epoch)
            assert other.begin_reign("second", START) == epoch + 1
            Leader.update(dispatcher="ghost").execute(store.database)

    with pytest.raises(StoreError, match=CLOSED):
        stall()
    assert other.begin_reign("third", START) == epoch + 2


def test_a_session_that_stalls_in_a_transaction_is_ended_by_the_server(
    store: Store, postgres_url: str, server: Server
) -> None:
    epoch = reign_with_run(store)
    options = "?options=-c%20idle_in_transaction_session_timeout%3D50ms"
    stalling = Store(open_database(postgres_url + options))

    def stall() -> None:
        with transaction(stalling.database):
            hold_epoch(stalling.database, epoch)
            pid = own_pid(stalling.database)
            until(lambda: not server.lives(pid))
            Leader.update(dispatcher="ghost").execute(stalling.database)

    with pytest.raises(StoreError, match=CLOSED):
        stall()
    assert state_of(stalling) == {1: TaskState.NONE}
    stalling.close()


def test_the_next_call_works_after_the_session_was_ended_between_calls(
    store: Store, server: Server
) -> None:
    epoch = reign_with_run(store)
    server.terminate(own_pid(store.database))
    with pytest.raises(StoreError, match=CLOSED):
        store.load()
    store.commit(epoch, [move_task(1, TaskEvent.SCHEDULE)])
    assert state_of(store) == {1: TaskState.SCHEDULED}


def test_a_session_ended_within_a_commit_leaves_nothing_of_it(store: Store, server: Server) -> None:
    epoch = reign_with_run(store)

    def write() -> None:
        with transaction(store.database):
            hold_epoch(store.database, epoch)
            Leader.update(dispatcher="ghost").execute(store.database)
            server.terminate(own_pid(store.database))
            Leader.update(dispatcher="ghost").execute(store.database)

    with pytest.raises(StoreError, match=CLOSED):
        write()
    assert server.value("SELECT dispatcher FROM leader") == "first"
    store.commit(epoch, [move_task(1, TaskEvent.SCHEDULE)])


def test_no_reign_begins_while_a_commit_is_under_way(
    store: Store, other: Store, server: Server
) -> None:
    epoch = reign_with_run(store)
    Leader.update(backend_pid=None).execute(store.database)

    def succeed() -> int:
        try:
            return other.begin_reign("second", START)
        finally:
            other.close()

    with ThreadPoolExecutor(1) as executor:
        with transaction(store.database):
            hold_epoch(store.database, epoch)
            reign = executor.submit(succeed)
            until(lambda: server.waiting_for_locks() == 1)
            Leader.update(since=START).execute(store.database)
            assert not reign.done()
        assert reign.result(timeout=20) == epoch + 1
    with pytest.raises(EpochLost):
        store.commit(epoch, [])


def test_of_two_reigns_that_begin_at_once_the_later_one_ends_the_session_of_the_other(
    store: Store, postgres_url: str, server: Server
) -> None:
    epoch = reign_with_run(store)
    Leader.update(backend_pid=None).execute(store.database)
    newcomers = [Store(open_database(postgres_url)) for _ in range(2)]

    def begin(newcomer: Store) -> tuple[int, int]:
        reign = newcomer.begin_reign("newcomer", START)
        return reign, own_pid(newcomer.database)

    # Closing belongs to the thread that opened: each newcomer keeps one of its own.
    threads = [ThreadPoolExecutor(1) for _ in newcomers]
    with transaction(store.database):
        hold_epoch(store.database, epoch)
        reigns = [
            thread.submit(begin, newcomer)
            for thread, newcomer in zip(threads, newcomers, strict=True)
        ]
        until(lambda: server.waiting_for_locks() == 2)
    (first, loser), (second, winner) = sorted(reign.result(timeout=20) for reign in reigns)
    assert (first, second) == (epoch + 1, epoch + 2)
    until(lambda: not server.lives(loser))
    assert server.lives(winner)
    for thread, newcomer in zip(threads, newcomers, strict=True):
        thread.submit(newcomer.close).result()
        thread.shutdown()


def test_commits_of_one_epoch_do_not_wait_for_each_other(store: Store, other: Store) -> None:
    epoch = reign_with_run(store)
    with transaction(store.database):
        hold_epoch(store.database, epoch)
        other.commit(epoch, [move_task(1, TaskEvent.SCHEDULE)])


def test_each_thread_has_a_session_of_its_own(store: Store) -> None:
    def of_another_thread() -> int:
        try:
            return own_pid(store.database)
        finally:
            store.close()

    with ThreadPoolExecutor(1) as executor:
        assert executor.submit(of_another_thread).result() != own_pid(store.database)


# -- refusals ----------------------------------------------------------------------------------


def test_a_database_that_was_not_migrated_is_named_by_every_call(postgres_url: str) -> None:
    bare = Store(open_database(postgres_url))
    with pytest.raises(StoreError, match=r"got 'relation \"leader\" .*; run `flow db migrate`$"):
        bare.begin_reign("first", START)
    with pytest.raises(SchemaError):
        check_schema(bare.database)
    bare.close()


def test_a_server_that_is_not_there_is_a_clear_error(free_port: int) -> None:
    database = open_database(f"postgresql://flow:s3cret@127.0.0.1:{free_port}/flow")
    with pytest.raises(StoreError, match="Connection refused") as caught:
        check_schema(database)
    assert not isinstance(caught.value, DatabaseRefused)
    message = str(caught.value)
    assert message.startswith(f"database flow@127.0.0.1:{free_port}/flow: expected an answer, got ")
    assert message.endswith("; is it running?")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("change", "expected", "said"),
    [
        (("/test_", "/nope_"), "a database that exists", 'database "nope_'),
        (("//flow@", "//nobody@"), "a user that exists", 'role "nobody" does not exist'),
    ],
)
def test_an_unknown_name_is_a_refusal(
    postgres_url: str, change: tuple[str, str], expected: str, said: str
) -> None:
    with pytest.raises(DatabaseRefused) as caught:
        Store(open_database(postgres_url.replace(*change))).load()
    assert f"expected {expected}, got" in str(caught.value)
    assert said in str(caught.value)


@contextmanager
def refusing_server(code: str, text: str) -> Iterator[int]:
    """The port of a server that answers each greeting with an error (protocol 3.0, "Start-up")."""
    fields = f"SFATAL\0VFATAL\0C{code}\0M{text}\0\0".encode()
    answer = b"E" + struct.pack("!I", len(fields) + 4) + fields

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def test_a_wrong_password_is_a_refusal_and_is_not_repeated_anywhere() -> None:
    said = 'password authentication failed for user "flow"'
    with refusing_server("28P01", said) as port:
        plain = "sslmode=disable&gssencmode=disable"
        url = f"postgresql://flow:s3cret@127.0.0.1:{port}/flow?{plain}"
        with pytest.raises(DatabaseRefused) as caught:
            check_schema(open_database(url))
    message = str(caught.value)
    assert message.startswith(
        f"database flow@127.0.0.1:{port}/flow: expected user and password to be accepted, got "
    )
    assert said in message
    assert message.endswith("; check database.url")
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


def test_a_host_that_may_not_connect_is_a_refusal() -> None:
    with refusing_server("28000", "no pg_hba.conf entry for host") as port:
        url = f"postgresql://flow@127.0.0.1:{port}/flow?sslmode=disable&gssencmode=disable"
        with pytest.raises(DatabaseRefused, match=r"check pg_hba.conf$"):
            check_schema(open_database(url))


@pytest.mark.usefixtures("store")
def test_a_missing_right_is_a_refusal(postgres_url: str, server: Server) -> None:
    role = f"guest_{secrets.token_hex(6)}"
    server.run(f"CREATE ROLE {role} LOGIN")
    guest = Store(open_database(postgres_url.replace("//flow@", f"//{role}@")))
    try:
        with pytest.raises(DatabaseRefused) as caught:
            guest.load()
    finally:
        guest.close()
        server.run(f"DROP ROLE {role}")
    assert "expected the right to do this, got 'permission denied for table" in str(caught.value)
