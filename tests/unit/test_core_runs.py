"""Runs and dependencies, as the pure core decides them."""

from __future__ import annotations

from dispatcher.core.core import Rules
from dispatcher.core.records import InsertRun, Intent
from flow.states import RunState
from tests.unit.core_world import World, chain, dag, task


def test_a_chain_runs_one_task_after_the_other_and_succeeds() -> None:
    world = World(chain(3))
    world.hello()
    assert world.trigger("chain") == ""
    order = [world.run_next().task_id for _ in range(3)]
    assert order == ["t0", "t1", "t2"]
    assert world.run_state() is RunState.SUCCESS
    assert world.published == []


def test_a_join_waits_for_all_of_its_upstream_tasks() -> None:
    world = World(dag("join", task("a"), task("b"), task("c", "a", "b")))
    world.hello()
    world.trigger("join")
    world.run_next()
    assert world.states()["c"] == "none"
    world.run_next()
    assert world.states()["c"] == "queued"


def test_a_failure_fails_everything_below_and_nothing_beside_it() -> None:
    world = World(dag("d", task("a"), task("b", "a"), task("c", "b"), task("other")))
    world.hello()
    world.trigger("d")
    world.run_next("failed")
    assert world.states() == {
        "a": "failed",
        "b": "upstream_failed",
        "c": "upstream_failed",
        "other": "queued",
    }
    assert world.run_state() is RunState.RUNNING
    world.run_next()
    assert world.run_state() is RunState.FAILED
    assert world.task("b").reason == "upstream task 'a' failed"


def test_a_failed_task_is_retried_after_its_delay_and_not_before() -> None:
    world = World(chain(1, retries=1, retry_delay=30.0))
    world.hello()
    world.trigger("chain")
    world.run_next("failed")
    assert world.states() == {"t0": "up_for_retry"}
    world.pass_time(29.9)
    assert world.published == []
    world.pass_time(0.2)
    assert world.next_task().try_number == 2


def test_retries_are_used_up() -> None:
    world = World(chain(1, retries=2, retry_delay=0.0))
    world.hello()
    world.trigger("chain")
    for _ in range(3):
        world.pass_time(1)
        world.run_next("failed")
    assert world.states() == {"t0": "failed"}
    assert world.task("t0").failures == 3
    assert world.run_state() is RunState.FAILED


def test_a_run_of_a_dag_without_tasks_succeeds_at_once() -> None:
    world = World(dag("empty"))
    world.trigger("empty")
    assert world.run_state() is RunState.SUCCESS


def test_runs_beyond_max_active_runs_wait_for_their_turn_oldest_first() -> None:
    world = World(dag("d", task("a"), max_active_runs=1))
    world.hello()
    for name in ("one", "two", "three"):
        world.trigger("d", name)
    assert world.run_state("two") is RunState.QUEUED
    world.run_next()
    assert [world.run_state(name).value for name in ("one", "two", "three")] == [
        "success",
        "running",
        "queued",
    ]


def test_a_paused_dag_starts_nothing_until_it_is_unpaused() -> None:
    world = World(chain(2))
    world.hello()
    world.trigger("chain")
    message = world.next_task()
    assert world.request("pause", dag_id="chain") == ""
    world.trigger("chain", "later")
    world.finish(world.grant(message))
    assert world.states() == {"t0": "success", "t1": "scheduled"}
    assert world.run_state("later") is RunState.QUEUED
    world.request("unpause", dag_id="chain")
    assert world.states()["t1"] == "queued"
    assert world.run_state("later") is RunState.RUNNING


def test_at_most_max_active_tasks_of_a_dag_are_queued_or_running() -> None:
    world = World(dag("wide", *(task(f"t{n}") for n in range(10)), max_active_tasks=3))
    world.hello(slots=8)
    world.trigger("wide")
    for done in range(10):
        active = [s for s in world.states().values() if s in ("queued", "running")]
        assert len(active) == min(3, 10 - done)
        world.run_next()
    assert world.run_state() is RunState.SUCCESS


def test_a_queue_holds_free_slots_plus_lookahead_and_the_best_priority_goes_first() -> None:
    tasks = [task(f"t{n}", priority_weight=n) for n in range(10)]
    world = World(dag("wide", *tasks), rules=Rules(lookahead=2))
    world.hello(slots=3)
    world.trigger("wide")
    assert [message.task_id for message in world.published] == ["t9", "t8", "t7", "t6", "t5"]


def test_a_queue_without_agents_gets_its_lookahead() -> None:
    world = World(dag("d", *(task(f"t{n}", queue="gpu") for n in range(5))))
    world.trigger("d")
    assert len(world.published) == 2


def test_a_trigger_of_an_unknown_dag_is_refused_and_inserts_nothing() -> None:
    world = World(chain(1))
    assert world.trigger("nope") == "dag 'nope': expected an active DAG; see `flow dags list`"
    assert not any(isinstance(write, InsertRun) for write in world.writes)


def test_an_intent_is_carried_out_once() -> None:
    world = World(chain(1))
    intent = Intent(
        id=7,
        kind="trigger",
        arguments={"dag_id": "chain", "run_id": "r", "conf": {}},
        created_at=world.now.wall,
    )
    world.take(world.core.request([intent], world.now))
    world.take(world.core.request([intent], world.now))
    assert sum(isinstance(write, InsertRun) for write in world.writes) == 1


def test_an_unknown_kind_of_intent_is_closed_with_the_reason() -> None:
    world = World(chain(1))
    error = world.request("explode", dag_id="chain")
    known = "trigger, pause, unpause, cancel, clear, declare_dead, drain, resume, set_agent"
    assert error == f"intent: expected one of {known}, got 'explode'"


def test_at_most_parallelism_tasks_of_all_dags_are_queued_or_running_the_best_first() -> None:
    low = dag("low", *(task(f"l{n}", queue="q1") for n in range(6)))
    high = dag("high", *(task(f"h{n}", queue="q2", priority_weight=9 - n) for n in range(6)))
    world = World(low, high, rules=Rules(parallelism=3))
    world.hello(queues=("q1", "q2"), slots=20)
    world.trigger("low", "r1")
    world.trigger("high", "r2")
    order = []
    for done in range(12):
        assert sum(world.core.state.active_tasks.values()) == min(3, 12 - done)
        order.append(world.run_next().task_id)
    assert order == ["l0", "l1", "l2", *(f"h{n}" for n in range(6)), "l3", "l4", "l5"]
