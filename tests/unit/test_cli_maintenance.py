"""``flow agents drain``, ``resume`` and ``set`` over a database as a dispatcher leaves it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from dispatcher.core.records import AgentState
from dispatcher.store.reader import Reader
from flow import wire
from flow.cli import maintenance, requests
from flow.cli.main import main
from flow.errors import StoreError
from tests.database_world import DatabaseWorld, dag, serving, task
from tests.waiting import until

CHAIN = dag("chain", task("a", queue="q1"))


class Result(NamedTuple):
    code: int
    out: str
    err: str


Flow = Callable[..., Result]


@pytest.fixture
def flow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Flow:
    monkeypatch.setenv("FLOW_HOME", str(tmp_path))
    monkeypatch.setenv("FLOW_CONFIG", "")
    monkeypatch.setenv("FLOW_BROKER_URL", "amqp://guest:guest@127.0.0.1:1/")
    monkeypatch.setenv("USER", "ada")
    monkeypatch.setattr(requests, "PATIENCE", 5.0)
    monkeypatch.setattr(maintenance, "_PAUSE", 0.01)

    def call(*argv: str) -> Result:
        code = main(argv)
        return Result(code, *capsys.readouterr())

    return call


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/flow.db"


@pytest.fixture
def world(url: str) -> Iterator[DatabaseWorld]:
    world = DatabaseWorld(url, CHAIN)
    yield world
    world.store.close()


def test_a_drained_agent_is_listed_with_the_reason_until_it_is_resumed(
    flow: Flow, url: str
) -> None:
    with serving(url, CHAIN, agents={"node1": ("q1",)}):
        assert flow("agents", "drain", "node1", "--reason", "new kernel").err == (
            "flow: agent node1: drained\n"
        )
        listed = flow("agents", "list")
        assert " drained " in listed.out
        assert "warning: agent node1 is drained: new kernel (user " in listed.err
        assert flow("agents", "resume", "node1").err == "flow: agent node1: takes tasks\n"
        again = flow("agents", "list")
    assert " online " in again.out
    assert again.err == ""


def test_one_that_is_away_keeps_its_state_and_its_reason(flow: Flow, world: DatabaseWorld) -> None:
    world.hello("node1", "q1")
    agent = world.core.state.agents["node1"]
    agent.row.drained = "new kernel (user ada)"
    world.set_state("node1", AgentState.OFFLINE)
    listed = flow("agents", "list")
    assert " offline " in listed.out
    assert listed.err == "flow: warning: agent node1 is drained: new kernel (user ada)\n"


def test_tasks_of_its_queue_say_that_it_is_drained(flow: Flow, world: DatabaseWorld) -> None:
    world.hello("node1", "q1")
    world.core.state.agents["node1"].row.drained = "new kernel (user ada)"
    world.set_state("node1", AgentState.ONLINE)
    reader = Reader(world.database)
    reader.request("trigger", {"dag_id": "chain", "run_id": "r1"}, actor="me", at=world.now().wall)
    world.serve_requests()
    assert "queue q1: 1 agent, drained" in flow("tasks", "list", "r1").out


def test_an_agent_that_cannot_be_understood_is_listed_as_suspended(
    flow: Flow, world: DatabaseWorld
) -> None:
    sender = wire.Sender(type="hello", version=2, agent="node7", session=1)
    world.take(world.core.receive_newer(sender, world.now()))
    listed = flow("agents", "list")
    assert " suspended " in listed.out
    assert listed.err == (
        "flow: warning: agent node7 is suspended: it speaks version 2 of the messages, the "
        "dispatcher 1; upgrade the dispatcher\n"
    )


def test_drain_waits_until_nothing_runs_there(
    flow: Flow, world: DatabaseWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.hello("node1", "q1")
    reader = Reader(world.database)
    reader.request("trigger", {"dag_id": "chain", "run_id": "r1"}, actor="me", at=world.now().wall)
    world.serve_requests()
    grant = world.start("node1")
    results: list[Result] = []
    looked = threading.Event()
    agents = Reader.agents

    def watched(reader: Reader) -> object:
        looked.set()
        return agents(reader)

    monkeypatch.setattr(Reader, "agents", watched)

    def wait() -> None:
        results.append(flow("agents", "drain", "node1", "--reason", "x", "--wait"))

    waiting = threading.Thread(target=wait)
    waiting.start()

    def watched_by_now() -> bool:
        world.serve_requests()
        return looked.is_set()

    until(watched_by_now)
    assert not results
    world.finish("node1", grant)
    waiting.join(20)
    (result,) = results
    assert result.code == 0
    assert result.err.splitlines() == [
        "flow: agent node1: drained",
        "flow: agent node1: tasks that still run: 1",
        "flow: agent node1: nothing runs there",
    ]


def test_drain_waits_through_a_database_that_is_away_for_a_moment(
    flow: Flow, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [StoreError("database: away")]
    agents = Reader.agents

    def shaky(reader: Reader) -> object:
        if failures:
            raise failures.pop()
        return agents(reader)

    with serving(url, CHAIN, agents={"node1": ("q1",)}):
        monkeypatch.setattr(Reader, "agents", shaky)
        result = flow("agents", "drain", "node1", "--reason", "x", "--wait")
    assert result.code == 0
    assert "flow: database: away; trying again" in result.err


def test_slots_and_queues_are_wanted_and_taken_back(flow: Flow, url: str) -> None:
    with serving(url, CHAIN, agents={"node1": ("q1",)}):
        done = flow("agents", "set", "node1", "--slots", "3", "--queue", "q1", "--queue", "q7")
        assert done.err == "flow: agent node1: set\n"
        back = flow("agents", "set", "node1", "--reset")
        assert back.err == "flow: agent node1: goes by its own settings\n"


@pytest.mark.parametrize("verb", [("drain", "--reason", "x"), ("resume",), ("set", "--slots", "1")])
def test_an_agent_nobody_has_seen_is_refused_with_the_nearest_name(
    flow: Flow, url: str, verb: tuple[str, ...]
) -> None:
    name, *options = verb
    with serving(url, CHAIN, agents={"node1": ("q1",)}):
        result = flow("agents", name, "nod1", *options)
    assert result.code == 1
    assert result.err == "flow: agent 'nod1': expected one ever seen; did you mean 'node1'?\n"


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (
            ("drain", "n"),
            "agents drain: expected --reason, got none; see `flow agents drain --help`",
        ),
        (("drain", "n", "--reason", " "), "agents drain: --reason: expected some words, got none"),
        (("set", "n"), "agents set: expected --slots and --queue, or --reset, got neither"),
        (
            ("set", "n", "--reset", "--slots", "2"),
            "agents set: expected --slots and --queue, or --reset, got both",
        ),
    ],
)
def test_a_command_that_makes_no_sense_is_refused(
    flow: Flow, words: tuple[str, ...], error: str
) -> None:
    result = flow("agents", *words)
    assert (result.code, result.err) == (2, f"flow: {error}\n")
