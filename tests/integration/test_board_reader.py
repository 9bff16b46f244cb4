"""What the board reads, over both databases, with rows that the core and the store have made."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg2
import pytest

from dispatcher.board.live import Watcher
from dispatcher.core.records import AgentState, TouchAgents, TouchLeader
from dispatcher.store import boardreader, open_database
from dispatcher.store.boardreader import BoardReader
from dispatcher.store.views import BoardView, ImportErrorView, RunProgress
from flow.errors import StoreError
from flow.states import RunState, TaskState
from tests.database_world import DatabaseWorld, dag, task

CHAIN = dag("chain", task("a", queue="q1"), task("b", "a", queue="q2"), max_active_runs=50)
RETRIED = dag("retried", task("t", queue="q1", retries=2, retry_delay=600.0))


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/flow.db"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def world(url: str) -> DatabaseWorld:
    return DatabaseWorld(url, CHAIN, RETRIED)


@pytest.fixture
def reader(world: DatabaseWorld) -> BoardReader:
    return BoardReader(world.database)


def now() -> datetime:
    return datetime.now(UTC)


def trigger(world: DatabaseWorld, reader: BoardReader, run_id: str, dag_id: str = "chain") -> None:
    arguments = {"dag_id": dag_id, "run_id": run_id, "conf": {}}
    reader.request("trigger", arguments, actor="user t", at=now())
    world.serve_requests()


def summary(progress: RunProgress) -> tuple[str, RunState, dict[str, int]]:
    return (
        progress.run.run_id,
        progress.run.state,
        {str(state): count for state, count in sorted(progress.tasks.items())},
    )


def test_everything_is_read_at_once(world: DatabaseWorld, reader: BoardReader) -> None:
    moment = now()
    world.hello("node1", "q1", slots=3)
    for run_id in ("one", "two", "three"):
        trigger(world, reader, run_id)
    world.finish("node1", world.start("node1"), "failed")
    world.start("node1")
    world.store.record_error(world.epoch, "broken.py", "broken.py:1: no", moment)
    view = reader.board(moment)
    assert (view.at, view.active_runs) == (moment, 2)
    assert view.leader is not None
    assert (view.leader.dispatcher, view.leader.epoch) == ("test", world.epoch)
    assert view.agents == tuple(reader.agents())
    assert view.queues == tuple(reader.queues())
    assert view.errors == tuple(reader.dag_errors())
    assert [summary(progress) for progress in view.runs] == [
        ("three", RunState.RUNNING, {"none": 1, "queued": 1}),
        ("two", RunState.RUNNING, {"none": 1, "running": 1}),
        ("one", RunState.FAILED, {"failed": 1, "upstream_failed": 1}),
    ]
    (failure,) = view.failures
    assert (failure.dag_id, failure.run_id, failure.task_id) == ("chain", "one", "a")
    assert (failure.state, failure.reason, failure.agent) == (
        *(TaskState.FAILED, "exit code 1"),
        "node1",
    )
    assert failure.at is not None
    assert failure.at >= moment


def test_a_task_that_waits_for_its_retry_has_failed_too(
    world: DatabaseWorld, reader: BoardReader
) -> None:
    world.hello("node1", "q1")
    trigger(world, reader, "one")
    world.finish("node1", world.start("node1"), "failed")
    trigger(world, reader, "r", "retried")
    world.finish("node1", world.start("node1"), "failed")
    latest, before = reader.board(now()).failures
    assert (latest.task_id, latest.state, latest.reason) == (
        *("t", TaskState.UP_FOR_RETRY),
        "exit code 1",
    )
    assert latest.at is not None
    assert before.at is not None
    assert latest.at > before.at


def test_an_empty_database_is_an_empty_board(world: DatabaseWorld, reader: BoardReader) -> None:
    world.store.retire_file(world.epoch, "chain.py", now())
    world.store.retire_file(world.epoch, "retried.py", now())
    view = reader.board(now())
    assert (view.agents, view.queues, view.runs, view.failures) == ((), (), (), ())


def test_only_the_latest_runs_are_read_and_the_others_counted(
    world: DatabaseWorld, reader: BoardReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boardreader, "MOST_RUNS", 2)
    for number in range(4):
        trigger(world, reader, f"r{number}")
    view = reader.board(now())
    assert [progress.run.run_id for progress in view.runs] == ["r3", "r2"]
    assert view.active_runs == 4


def test_the_number_of_statements_does_not_grow_with_the_rows(
    world: DatabaseWorld, reader: BoardReader, caplog: pytest.LogCaptureFixture
) -> None:
    def statements(read: Callable[[], object]) -> int:
        caplog.clear()
        with caplog.at_level(logging.DEBUG, logger="peewee"):
            read()
        return len(caplog.records)

    world.hello("node0", "q1")
    trigger(world, reader, "r0")
    before = statements(lambda: reader.board(now())), statements(reader.pulse)
    assert min(before) > 0
    for number in range(1, 8):
        world.hello(f"node{number}", "q1", f"q{number}")
        world.record(dag(f"dag{number}", task("t", queue=f"q{number}")))
        trigger(world, reader, f"r{number}")
    world.finish("node0", world.start("node0"), "failed")
    assert (statements(lambda: reader.board(now())), statements(reader.pulse)) == before


def test_the_pulse_changes_with_everything_on_the_board_and_only_then(
    world: DatabaseWorld, reader: BoardReader
) -> None:
    seen = [reader.pulse()]

    def changed() -> bool:
        seen.append(reader.pulse())
        return seen[-1] != seen[-2]

    assert not changed()
    world.hello("node1", "q1")
    assert changed()
    world.set_state("node1", AgentState.LOST)
    assert changed()
    later = now() + timedelta(seconds=5)
    world.store.commit(world.epoch, [TouchAgents(heard={"node1": later})])
    assert changed()
    world.store.commit(world.epoch, [TouchLeader(at=later)])
    assert changed()
    trigger(world, reader, "one")
    assert changed()
    world.start("node1")
    assert changed()
    world.store.record_error(world.epoch, "broken.py", "no", now())
    assert changed()
    world.record(dag("chain", task("a", queue="q9")))
    assert changed()
    world.store.begin_reign("other", now())
    assert changed()
    assert not changed()


def test_a_dispatcher_is_heard_when_it_begins_and_whenever_it_says_so(
    world: DatabaseWorld, reader: BoardReader
) -> None:
    began = reader.board(now()).leader
    assert began is not None
    later = began.heard_at + timedelta(seconds=5)
    world.store.commit(world.epoch, [TouchLeader(at=later)])
    heard = reader.board(now()).leader
    assert heard is not None
    assert heard.heard_at == later


def test_the_watcher_reads_everything_only_when_something_has_changed(
    world: DatabaseWorld, reader: BoardReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    boards = []
    board = reader.board

    def counted(at: datetime) -> BoardView:
        boards.append(at)
        return board(at)

    monkeypatch.setattr(reader, "board", counted)
    watcher = Watcher(reader, now)
    watcher.look()
    first = watcher.sight().view
    watcher.look()
    second = watcher.sight().view
    assert first is not None
    assert second is not None
    assert len(boards) == 1
    assert second.at > first.at
    world.hello("node1", "q1")
    watcher.look()
    assert len(boards) == 2
    third = watcher.sight().view
    assert third is not None
    assert [agent.name for agent in third.agents] == ["node1"]


def end_sessions(url: str) -> None:
    """Hang up on everybody who is connected to the database."""
    connection = psycopg2.connect(url)
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    connection.close()


def test_a_connection_that_breaks_is_told_once_and_made_anew(postgres_url: str) -> None:
    world = DatabaseWorld(postgres_url, CHAIN)
    watcher = Watcher(BoardReader(open_database(postgres_url)), now)
    watcher.look()
    assert watcher.sight().trouble == ""
    end_sessions(postgres_url)
    with contextlib.suppress(StoreError):
        world.store.pending_intents()  # its session has ended too
    world.hello("node1", "q1")
    watcher.look()
    assert "expected an answer, got " in watcher.sight().trouble
    watcher.look()
    sight = watcher.sight()
    assert sight.trouble == ""
    assert sight.view is not None
    assert [agent.name for agent in sight.view.agents] == ["node1"]


def test_a_connection_that_breaks_between_two_statements_of_one_view_is_replaced(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    DatabaseWorld(postgres_url, CHAIN)
    reader = BoardReader(open_database(postgres_url))
    errors = reader.dag_errors

    def broken() -> list[ImportErrorView]:
        end_sessions(postgres_url)
        return errors()

    with monkeypatch.context() as patch:
        patch.setattr(reader, "dag_errors", broken)
        with pytest.raises(StoreError, match="expected an answer, got "):
            reader.board(now())
    assert reader.board(now()).errors == ()
