"""Whoever ends a task is handed the next one."""

from __future__ import annotations

from dispatcher.core.core import Rules
from dispatcher.core.records import MoveTask, OpenTry
from flow import wire
from flow.dagspec import Resources
from flow.states import TaskState
from tests.unit.core_world import World, chain, dag, task

TERMS = wire.Terms()


def handed(world: World) -> list[tuple[str, wire.Grant]]:
    """What was granted without a claim since the last look, and to whom."""
    grants = [(name, x) for name, x in world.replies if isinstance(x, wire.Grant) and x.task]
    world.replies.clear()
    return grants


def names(world: World) -> list[tuple[str, str]]:
    return [(name, grant.task.task_id) for name, grant in handed(world) if grant.task]


def begun(world: World, agent: str = "node1") -> wire.Grant:
    return world.grant(world.next_task(), agent)


def test_the_next_task_of_a_chain_needs_no_message_and_no_claim() -> None:
    world = World(chain(3))
    world.hello(terms=TERMS)
    world.trigger("chain")
    grant = begun(world)
    world.published.clear()
    for name in ("t1", "t2"):
        before = len(world.writes)
        world.finish(grant)
        ((agent, grant),) = handed(world)
        assert grant.task is not None
        assert (agent, grant.task.task_id, grant.task.queue) == ("node1", name, "default")
        writes = world.writes[before:]
        states = [write.target for write in writes if isinstance(write, MoveTask)]
        assert states == ["success", "scheduled", "queued", "running"]
        assert [write.token for write in writes if isinstance(write, OpenTry)] == [grant.token]
    world.finish(grant)
    assert world.published == []
    assert world.run_state() == "success"


def test_an_agent_is_handed_one_for_each_that_ended_and_the_rest_is_for_all() -> None:
    fan = dag("fan", task("first"), *(task(f"t{n}", "first") for n in range(5)))
    world = World(fan)
    world.hello("node1", slots=2, terms=TERMS)
    world.hello("node2", slots=2, terms=TERMS)
    world.trigger("fan")
    grant = begun(world)
    world.published.clear()
    world.finish(grant)
    assert names(world) == [("node1", "t0")]
    assert [message.task_id for message in world.published] == ["t1", "t2", "t3"]


def test_what_is_on_its_way_in_the_queue_finds_room() -> None:
    world = World(dag("many", *(task(f"t{n}") for n in range(4))))
    world.hello(slots=1, terms=TERMS)
    world.trigger("many")
    grant = begun(world)
    world.hello("node2", slots=1, terms=TERMS)
    world.finish(grant)
    assert names(world) == [], "the message for node2 may come to node1"


def test_priority_decides_over_all_queues_of_the_agent() -> None:
    urgent = dag("urgent", task("now", queue="q2", priority_weight=9))
    world = World(dag("many", task("a", queue="q1"), task("b", queue="q1")), urgent)
    world.hello(queues=("q1", "q2"), slots=1, terms=TERMS)
    world.trigger("many")
    grant = begun(world)
    world.trigger("urgent", "urgent")
    world.finish(grant)
    assert names(world) == [("node1", "now")]


def test_an_agent_that_cannot_be_told_what_people_want_of_it_is_handed_nothing() -> None:
    world = World(chain(2))
    world.hello()
    world.trigger("chain")
    world.finish(begun(world))
    assert names(world) == []
    assert world.states() == {"t0": "success", "t1": "queued"}


def test_a_drained_agent_is_handed_nothing() -> None:
    world = World(chain(2))
    world.hello(terms=TERMS)
    world.trigger("chain")
    grant = begun(world)
    world.request("drain", agent="node1", reason="new disk", by="ada")
    world.finish(grant)
    assert names(world) == []


def test_limits_hold_for_what_is_handed_over() -> None:
    narrow = dag("narrow", *(task(f"t{n}") for n in range(3)), max_active_tasks=1)
    world = World(narrow, chain(2), rules=Rules(parallelism=1))
    world.hello(terms=TERMS)
    world.trigger("narrow")
    grant = begun(world)
    world.trigger("chain")
    for name in ("t1", "t2", "t0"):
        world.finish(grant)
        ((_, grant),) = handed(world)
        assert grant.task is not None
        assert grant.task.task_id == name
        assert sum(row.state is TaskState.RUNNING for row in world.core.state.tasks.values()) == 1


def test_a_paused_dag_hands_nothing_on() -> None:
    world = World(chain(2))
    world.hello(terms=TERMS)
    world.trigger("chain")
    grant = begun(world)
    world.request("pause", dag_id="chain")
    world.finish(grant)
    assert names(world) == []
    world.request("unpause", dag_id="chain")
    assert world.next_task().task_id == "t1"


def test_a_wide_task_that_has_no_room_yet_is_not_overtaken_for_ever() -> None:
    wide = task("wide", resources=Resources(slots=2))
    world = World(dag("d", task("a"), task("b"), wide, *(task(f"t{n}") for n in range(9))))
    world.hello(slots=2, terms=TERMS)
    world.trigger("d")
    first, second = begun(world), begun(world)
    world.finish(first)
    assert names(world) == [], "its slot is kept"
    world.finish(second)
    assert names(world) == [("node1", "wide")]


def test_a_task_that_is_given_back_goes_through_the_queue() -> None:
    world = World(chain(2))
    world.hello(terms=TERMS)
    world.trigger("chain")
    world.finish(begun(world))
    ((_, grant),) = handed(world)
    world.published.clear()
    world.send(
        wire.Release(
            agent="node1",
            session=1,
            task_instance_id=grant.task_instance_id,
            token=grant.token,
            reason="no slot is free",
        )
    )
    assert names(world) == []
    assert [(m.task_id, m.try_number) for m in world.published] == [("t1", 2)]


def test_a_handed_task_whose_grant_was_lost_is_told_again_in_full() -> None:
    world = World(chain(2))
    world.hello(terms=TERMS)
    world.trigger("chain")
    world.finish(begun(world))
    ((_, grant),) = handed(world)
    world.pass_time(16)
    world.send(wire.Heartbeat(agent="node1", session=1, lease=60.0, tokens=(), terms=TERMS))
    assert [again for _, again in handed(world)] == [grant]
