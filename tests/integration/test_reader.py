"""The reader over both databases, with rows that the core and the store have made."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dispatcher.core.queues import Shape
from dispatcher.core.records import AgentState
from dispatcher.store import open_database
from dispatcher.store.reader import Reader
from dispatcher.waiting import QueueLoad
from flow.dagspec import Resources
from flow.errors import DatabaseRefused, StoreError, UnknownName
from flow.states import RunState, TaskState
from tests.database_world import DatabaseWorld, dag, task

CHAIN = dag("chain", task("a", queue="q1"), task("b", "a", queue="q2"), max_active_runs=2)
RETRIED = dag("retried", task("t", retries=2, retry_delay=600.0))


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/flow.db"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def world(url: str) -> DatabaseWorld:
    return DatabaseWorld(url, CHAIN, RETRIED)


@pytest.fixture
def reader(world: DatabaseWorld) -> Reader:
    return Reader(world.database)


def now() -> datetime:
    return datetime.now(UTC)


def trigger(world: DatabaseWorld, reader: Reader, run_id: str, dag_id: str = "chain") -> int:
    arguments = {"dag_id": dag_id, "run_id": run_id, "conf": {"k": [1, "ü"]}}
    intent_id = reader.request("trigger", arguments, actor="user t", at=now())
    world.serve_requests()
    return intent_id


def test_active_dags_are_listed_by_name(world: DatabaseWorld, reader: Reader) -> None:
    world.record(dag("a1", task("t")))
    world.record(dag("gone", task("t")))
    world.store.retire_file(world.epoch, "gone.py", now())
    assert [view.dag_id for view in reader.dags()] == ["a1", "chain", "retried"]
    assert reader.dags()[1].spec == CHAIN
    assert reader.dag("gone").active is False


def test_one_dag_comes_with_the_source_of_its_current_version(
    world: DatabaseWorld, reader: Reader
) -> None:
    world.record(dag("d", task("t")), source="first")
    world.record(dag("d", task("t"), task("u")), source="second")
    assert reader.dag("d").source == "second"
    assert len(reader.dag("d").spec.tasks) == 2


def test_a_file_that_cannot_be_read_is_an_error_until_it_can(
    world: DatabaseWorld, reader: Reader
) -> None:
    world.store.record_error(world.epoch, "chain.py", "chain.py:1: no", now())
    assert [(view.file, view.message) for view in reader.dag_errors()] == [
        ("chain.py", "chain.py:1: no")
    ]
    world.record(CHAIN)
    assert reader.dag_errors() == []


def test_a_request_is_pending_until_a_dispatcher_has_dealt_with_it(
    world: DatabaseWorld, reader: Reader
) -> None:
    arguments = {"dag_id": "chain"}
    intent_id = reader.request("pause", arguments, actor="user ann", at=now())
    pending = reader.intent(intent_id)
    assert (pending.done, pending.error) == (False, "")
    assert pending.arguments == {"dag_id": "chain", "actor": "user ann"}
    world.serve_requests()
    assert reader.intent(intent_id).done
    assert reader.dag("chain").paused


def test_a_request_that_is_refused_keeps_the_reason(world: DatabaseWorld, reader: Reader) -> None:
    intent_id = trigger(world, reader, "r", "nothing")
    assert "expected an active DAG" in reader.intent(intent_id).error
    with pytest.raises(UnknownName, match="its trigger was refused: dag 'nothing'"):
        reader.find_run("r")


def test_runs_come_newest_first_and_carry_their_conf(world: DatabaseWorld, reader: Reader) -> None:
    trigger(world, reader, "one")
    trigger(world, reader, "two")
    trigger(world, reader, "other", "retried")
    assert [run.name for run in reader.runs(limit=2)] == ["retried/other", "chain/two"]
    assert [run.run_id for run in reader.runs("chain", limit=9)] == ["two", "one"]
    assert reader.runs(limit=1)[0].conf == {"k": [1, "ü"]}
    assert reader.run("chain", "none") is None


def test_a_run_is_found_by_either_name(world: DatabaseWorld, reader: Reader) -> None:
    trigger(world, reader, "one")
    assert reader.find_run("one") == reader.find_run("chain/one")
    assert reader.find_run("one").state is RunState.RUNNING


def test_a_run_that_no_dispatcher_has_created_is_told_apart(
    world: DatabaseWorld, reader: Reader
) -> None:
    arguments = {"dag_id": "chain", "run_id": "later", "conf": {}}
    reader.request("trigger", arguments, actor="user t", at=now())
    for text in ("later", "chain/later"):
        with pytest.raises(UnknownName, match="it was requested, but no dispatcher"):
            reader.find_run(text)
    world.serve_requests()
    assert reader.find_run("later").dag_id == "chain"


def test_tasks_come_in_the_order_of_the_dag_with_reasons(
    world: DatabaseWorld, reader: Reader
) -> None:
    world.hello("node1", "q1", slots=1)
    trigger(world, reader, "one")
    trigger(world, reader, "two")
    world.start("node1")
    first, second = (reader.find_run(name) for name in ("one", "two"))
    assert [(t.task_id, t.state, t.agent, t.reason) for t in reader.tasks(first, now())] == [
        ("a", TaskState.RUNNING, "node1", ""),
        ("b", TaskState.NONE, None, "waits for upstream a"),
    ]
    assert reader.task(second, "a", now()).reason == "queue q1: all 1 slot busy"
    assert reader.task(first, "b", now()) == reader.tasks(first, now())[1]


def test_a_failed_task_tells_its_retry_and_then_its_failure(
    world: DatabaseWorld, reader: Reader
) -> None:
    world.hello("node1", "default")
    trigger(world, reader, "r", "retried")
    world.finish("node1", world.start("node1"), "failed")
    run = reader.find_run("r")
    waiting = reader.task(run, "t", now())
    assert waiting.state is TaskState.UP_FOR_RETRY
    assert waiting.reason.startswith("retry 1 of 2 at 20")
    later = now() + timedelta(hours=1)
    assert not reader.task(run, "t", later).reason.startswith("retry")
    (ended,) = reader.tries(waiting)
    assert (ended.try_number, ended.agent, ended.outcome, ended.exit_code, ended.reason) == (
        *(1, "node1", "failed", 1),
        "exit code 1",
    )
    assert ended.closed_at is not None
    assert ended.closed_at >= ended.opened_at


def test_the_reason_of_an_ended_task_is_the_stored_one(
    world: DatabaseWorld, reader: Reader
) -> None:
    world.hello("node1", "q1")
    trigger(world, reader, "one")
    world.finish("node1", world.start("node1"), "failed")
    run = reader.find_run("one")
    assert run.state is RunState.FAILED
    assert [(t.state, t.reason) for t in reader.tasks(run, now())] == [
        (TaskState.FAILED, "exit code 1"),
        (TaskState.UPSTREAM_FAILED, "upstream task 'a' failed"),
    ]


def test_a_run_beyond_max_active_runs_says_so(world: DatabaseWorld, reader: Reader) -> None:
    for run_id in ("one", "two", "three"):
        trigger(world, reader, run_id)
    third = reader.find_run("three")
    assert third.state is RunState.QUEUED
    assert reader.why_run_waits(third) == "max_active_runs=2 of the DAG is reached"
    assert reader.task(third, "a", now()).reason == "max_active_runs=2 of the DAG is reached"
    assert reader.why_run_waits(reader.find_run("one")) == ""


def test_an_agent_is_busy_with_what_it_runs(world: DatabaseWorld, reader: Reader) -> None:
    world.hello("node1", "q1", "q2", slots=3)
    world.hello("node2", "q2", slots=2)
    world.set_state("node2", AgentState.LOST)
    world.hello("node3", "q2")
    world.set_state("node3", AgentState.OFFLINE)
    trigger(world, reader, "one")
    world.start("node1")
    assert [(a.name, a.queues, a.slots, a.busy, a.state) for a in reader.agents()] == [
        ("node1", ("q1", "q2"), 3, 1, AgentState.ONLINE),
        ("node2", ("q2",), 2, 0, AgentState.LOST),
        ("node3", ("q2",), 4, 0, AgentState.OFFLINE),
    ]
    assert reader.queue_loads() == {
        "q1": QueueLoad(agents=1, slots=3, busy=1, capacities=(Shape(3, 0),), free=(Shape(2, 0),)),
        "q2": QueueLoad(
            agents=2,
            lost=1,
            slots=5,
            busy=1,
            capacities=(Shape(3, 0), Shape(2, 0)),
            free=(Shape(2, 0),),
        ),
    }


def test_what_a_running_task_takes_is_counted_and_shown(
    world: DatabaseWorld, reader: Reader
) -> None:
    world.hello("node1", "gpu", slots=8, gpus=("0: A100", "1: A100"), cores=16, limits=True)
    world.record(dag("fit", task("train", queue="gpu", resources=Resources(slots=3, gpus=1))))
    trigger(world, reader, "one", "fit")
    grant = world.start("node1")
    (agent,) = reader.agents()
    assert (agent.busy, agent.running, agent.gpus_busy) == (3, 1, 1)
    assert reader.queue_loads()["gpu"].free == (Shape(5, 1),)
    found = reader.agent("node1")
    assert (found.session, found.cores, found.limits) == (1, 16, True)
    assert found.since is not None
    (running,) = found.tasks
    assert (running.run, running.task_id, running.slots, running.gpus) == ("fit/one", "train", 3, 1)
    world.finish("node1", grant)
    assert reader.agent("node1").tasks == ()


def test_a_queue_is_listed_while_a_dag_an_agent_or_a_task_names_it(
    world: DatabaseWorld, reader: Reader
) -> None:
    world.record(dag("old", task("t", queue="legacy")))
    trigger(world, reader, "r", "old")
    world.store.retire_file(world.epoch, "old.py", now())
    world.hello("node1", "spare")
    listed = {queue.name: queue for queue in reader.queues()}
    assert sorted(listed) == ["default", "legacy", "q1", "q2", "spare"]
    assert (listed["legacy"].waiting, listed["legacy"].running, listed["legacy"].agents) == (
        *(1, 0),
        0,
    )
    assert listed["spare"].agents == 1


def test_an_ended_run_leaves_its_queues(world: DatabaseWorld, reader: Reader) -> None:
    world.hello("node1", "q1", "q2")
    trigger(world, reader, "one")
    world.finish("node1", world.start("node1"))
    world.finish("node1", world.start("node1"))
    assert reader.find_run("one").state is RunState.SUCCESS
    assert all((q.waiting, q.running) == (0, 0) for q in reader.queues())


def test_a_postgres_that_is_away_is_a_store_error() -> None:
    away = Reader(open_database("postgresql://flow@127.0.0.1:1/flow"))
    with pytest.raises(StoreError, match=r"database flow@127\.0\.0\.1:1/flow: expected an answer"):
        away.dags()


def test_a_database_that_does_not_exist_is_refused(postgres_url: str) -> None:
    missing = Reader(open_database(f"{postgres_url}_missing"))
    with pytest.raises(DatabaseRefused, match="expected a database that exists"):
        missing.dags()
