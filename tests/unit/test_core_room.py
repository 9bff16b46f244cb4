"""Tasks that take several slots or devices: who gets what, and that nobody waits for ever."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
from hypothesis import given, settings

from dispatcher.core.core import Rules
from dispatcher.core.queues import Shape
from flow import wire
from flow.dagspec import DagSpec, Resources, TaskSpec
from flow.states import TaskState
from tests.unit.core_world import World, dag, task

TERMS = wire.Terms()
GPUS = ("GPU-a: A100", "GPU-b: A100")


def wide(task_id: str, slots: int = 1, gpus: int = 0, **more: Any) -> TaskSpec:
    return task(task_id, resources=Resources(slots=slots, gpus=gpus), **more)


def crowd(number: int, **more: Any) -> list[TaskSpec]:
    return [task(f"s{n}", **more) for n in range(number)]


def one_dag(*tasks: TaskSpec) -> DagSpec:
    return dag("d", *tasks, max_active_tasks=1000)


def claim(
    world: World, message: wire.Task, agent: str = "node1", free_gpus: int | None = None
) -> wire.Grant | wire.Deny:
    replies = world.send(
        wire.Claim(
            agent=agent,
            session=1,
            task_instance_id=message.task_instance_id,
            try_number=message.try_number,
            queue=message.queue,
            free_slots=1,
            free_gpus=free_gpus,
        )
    )
    return next(x for x in replies if isinstance(x, wire.Grant | wire.Deny))


def offers(world: World) -> list[tuple[str, str]]:
    """What was offered since the last look: agent and task."""
    found = [(name, x.task.task_id) for name, x in world.replies if isinstance(x, wire.Offer)]
    world.replies.clear()
    return found


def handed(world: World) -> list[tuple[str, str]]:
    """What was granted without a claim since the last look: agent and task."""
    grants = [(name, x.task) for name, x in world.replies if isinstance(x, wire.Grant)]
    world.replies.clear()
    return [(name, task.task_id) for name, task in grants if task is not None]


def names(world: World) -> list[str]:
    return [message.task_id for message in world.published]


def used(world: World, agent: str = "node1") -> Shape:
    return world.core.state.agents[agent].used


# -- slots -----------------------------------------------------------------------------------------


def test_a_task_takes_as_many_slots_as_it_says() -> None:
    world = World(one_dag(wide("a", 3), wide("b", 2)), rules=Rules(lookahead=0))
    world.hello(slots=4, terms=TERMS)
    world.trigger("d")
    assert names(world) == ["a"]
    grant = world.grant(world.next_task())
    assert used(world) == Shape(3, 0)
    assert names(world) == []
    world.finish(grant)
    assert handed(world) == [("node1", "b")]
    assert used(world) == Shape(2, 0)


def test_what_an_agent_has_no_room_for_is_denied_with_the_figures() -> None:
    world = World(one_dag(wide("a", 3), wide("b", 2)), rules=Rules(lookahead=9))
    world.trigger("d")
    first, second = world.published
    world.hello(slots=4, terms=TERMS)
    assert isinstance(claim(world, first), wire.Grant)
    reply = claim(world, second)
    assert isinstance(reply, wire.Deny)
    assert reply.reason == "not now: it needs 2 slots, agent node1 has 1 of 4 free"
    assert world.task("b").state is TaskState.SCHEDULED


def test_the_cost_of_what_runs_is_known_to_the_next_reign() -> None:
    world = World(one_dag(wide("a", 3, 1)))
    world.hello(slots=4, gpus=GPUS, terms=TERMS)
    world.trigger("d")
    grant = world.grant(world.next_task())
    world.new_reign()
    assert used(world) == Shape(3, 1)
    world.finish(grant)
    assert used(world) == Shape(0, 0)


def test_a_wide_task_waits_while_narrow_ones_behind_it_take_what_it_cannot_use() -> None:
    world = World(one_dag(wide("w", 4, priority_weight=9), *crowd(4)), rules=Rules(lookahead=0))
    world.hello("node1", slots=2, terms=TERMS)
    world.trigger("d")
    # No agent could ever hold it: nothing is kept for it, and nobody behind it waits.
    assert names(world) == ["s0", "s1"]


def test_room_is_kept_for_a_wide_task_so_that_narrow_ones_do_not_starve_it() -> None:
    world = World(one_dag(*crowd(3), wide("w", 3), *crowd_after(20)), rules=Rules(lookahead=0))
    world.hello(slots=3, terms=TERMS)
    world.trigger("d")
    grants = [world.grant(world.next_task()) for _ in range(3)]
    for grant in grants[:2]:
        world.finish(grant)
        assert (names(world), handed(world)) == ([], []), "what becomes free is kept for it"
    world.finish(grants[2])
    assert handed(world) == [("node1", "w")]


def crowd_after(number: int) -> list[TaskSpec]:
    return [task(f"later{n}") for n in range(number)]


def test_a_task_that_ranks_above_takes_what_is_kept_for_another() -> None:
    plain = one_dag(*crowd(2), wide("w", 2))
    urgent = dag("u", task("now", priority_weight=9))
    world = World(plain, urgent, rules=Rules(lookahead=0))
    world.hello(slots=2, terms=TERMS)
    world.trigger("d")
    grants = [world.grant(world.next_task()) for _ in range(2)]
    world.finish(grants[0])
    assert names(world) == []
    world.trigger("u", "urgent")
    assert names(world) == ["now"]
    assert isinstance(claim(world, world.next_task()), wire.Grant)


def test_a_claim_that_would_take_what_is_kept_is_denied_with_the_name_of_the_task() -> None:
    world = World(one_dag(*crowd(3)), dag("u", wide("w", 2, priority_weight=9)))
    world.trigger("d")
    first, _ = world.published
    world.hello(slots=3, terms=TERMS)
    ahead = world.published[2]
    world.hello(slots=2, terms=TERMS)
    grant = world.grant(first)
    world.grant(world.published[1])
    world.trigger("u", "urgent")
    world.finish(grant)
    reply = claim(world, ahead)
    assert isinstance(reply, wire.Deny)
    assert reply.reason == (
        "not now: what is free at agent node1 is kept for task 'w', which needs more of it"
    )


def test_only_one_of_several_agents_keeps_room_and_the_others_go_on() -> None:
    world = World(one_dag(*crowd(4), wide("w", 2), *crowd_after(9)), rules=Rules(lookahead=0))
    world.hello("node1", slots=2, terms=TERMS)
    world.hello("node2", slots=2, terms=TERMS)
    world.trigger("d")
    of_one = [world.grant(world.next_task(), "node1") for _ in range(2)]
    of_two = [world.grant(world.next_task(), "node2") for _ in range(2)]
    holders = [x.row.name for x in world.core.state.agents.values() if x.hold is not None]
    assert holders == ["node1"]
    world.finish(of_two[0], agent="node2")
    assert handed(world) == [("node2", "later0")]
    world.finish(of_one[0])
    assert (names(world), handed(world)) == ([], []), "that slot is kept"


def test_when_the_agent_that_keeps_room_is_gone_another_one_does() -> None:
    world = World(one_dag(*crowd(4), wide("w", 2)), rules=Rules(lookahead=0))
    world.hello("node1", slots=2, terms=TERMS)
    world.hello("node2", slots=2, terms=TERMS)
    world.trigger("d")
    for agent in ("node1", "node1", "node2", "node2"):
        world.grant(world.next_task(), agent)
    assert world.core.state.holds.popitem()[1] == "node1"
    world.core.state.agents["node1"].hold = None
    world.send(wire.Goodbye(agent="node1", session=1))
    assert set(world.core.state.holds.values()) <= {"node2"}
    assert world.core.state.agents["node1"].hold is None


def test_nothing_is_kept_for_a_task_whose_dag_is_paused() -> None:
    others = dag("o", *crowd(4), max_active_tasks=1000)
    world = World(one_dag(*crowd(2), wide("w", 2)), others, rules=Rules(lookahead=0))
    world.hello(slots=2, terms=TERMS)
    world.trigger("d")
    first, _ = [world.grant(world.next_task()) for _ in range(2)]
    world.trigger("o", "other")
    world.finish(first)
    assert names(world) == []
    world.request("pause", dag_id="d")
    assert names(world) == ["s0"]
    assert not world.core.state.holds


def test_nothing_is_kept_for_a_task_that_was_cancelled() -> None:
    others = dag("o", *crowd(4), max_active_tasks=1000)
    world = World(one_dag(*crowd(2), wide("w", 2)), others, rules=Rules(lookahead=0))
    world.hello(slots=2, terms=TERMS)
    world.trigger("d")
    first, _ = [world.grant(world.next_task()) for _ in range(2)]
    world.trigger("o", "other")
    world.finish(first)
    world.request("cancel", dag_id="d", run_id="run")
    assert names(world) == ["s0"]
    assert not world.core.state.holds
    assert world.core.state.agents["node1"].hold is None


# -- who is told -----------------------------------------------------------------------------------


def test_a_task_that_one_agent_has_no_room_for_is_offered_to_the_one_that_has() -> None:
    world = World(one_dag(wide("w", 3)))
    world.hello("small", slots=2, terms=TERMS)
    world.hello("large", slots=4, terms=TERMS)
    world.trigger("d")
    message = world.next_task()
    assert isinstance(claim(world, message, "small"), wire.Deny)
    assert offers(world) == [("large", "w")]
    assert names(world) == [], "the wrong agent might get it once more"
    assert isinstance(claim(world, message, "large"), wire.Grant)


def test_a_task_is_offered_once_between_two_heartbeats() -> None:
    world = World(one_dag(wide("w", 3)))
    world.hello("small", slots=2, terms=TERMS)
    world.hello("large", slots=4, terms=TERMS)
    world.trigger("d")
    message = world.next_task()
    assert isinstance(claim(world, message, "small"), wire.Deny)
    assert offers(world) == [("large", "w")]
    grant = claim(world, message, "large")
    assert isinstance(grant, wire.Grant)
    world.send(  # it is on its way out, and nobody has said so yet
        wire.Release(
            agent="large",
            session=1,
            task_instance_id=grant.task_instance_id,
            token=grant.token,
            reason="the agent drains",
        )
    )
    assert isinstance(claim(world, world.next_task(), "small"), wire.Deny)
    assert (offers(world), names(world)) == ([], []), "or it would go round and round"
    world.send(wire.Heartbeat(agent="large", session=1, lease=60.0, terms=TERMS))
    assert (offers(world), names(world)) == ([("large", "w")], [])


def test_a_device_that_becomes_free_elsewhere_is_offered_with_the_next_heartbeat() -> None:
    world = World(one_dag(wide("w", 1, 1)))
    world.hello(slots=4, gpus=GPUS, terms=TERMS)
    world.trigger("d")
    message = world.next_task()
    for _ in range(3):
        assert isinstance(claim(world, message, free_gpus=0), wire.Deny)
    assert (offers(world), names(world)) == ([], [])
    world.send(wire.Heartbeat(agent="node1", session=1, lease=60.0, free_gpus=1, terms=TERMS))
    assert (offers(world), names(world)) == ([("node1", "w")], [])


def test_an_agent_that_does_not_know_offers_gets_a_message() -> None:
    world = World(one_dag(wide("w", 3)))
    world.hello("small", slots=2)
    world.hello("large", slots=4)
    world.trigger("d")
    assert isinstance(claim(world, world.next_task(), "small"), wire.Deny)
    assert (offers(world), names(world)) == ([], ["w"])


# -- devices ---------------------------------------------------------------------------------------


def test_an_agent_runs_as_many_tasks_with_a_device_as_it_has_devices() -> None:
    tasks = [wide(f"g{n}", gpus=1) for n in range(3)]
    world = World(one_dag(*tasks), rules=Rules(lookahead=2))
    world.hello(slots=8, gpus=GPUS, terms=TERMS)
    world.trigger("d")
    assert names(world) == ["g0", "g1"], "messages of which nothing can come are not sent"
    grants = [world.grant(world.next_task()) for _ in range(2)]
    assert (names(world), offers(world)) == ([], [])
    world.finish(grants[0])
    assert handed(world) == [("node1", "g2")]


def test_tasks_without_a_device_go_on_while_others_wait_for_one() -> None:
    tasks = [wide(f"g{n}", gpus=1, priority_weight=9) for n in range(3)]
    world = World(one_dag(*tasks, *crowd(3)), rules=Rules(lookahead=0))
    world.hello(slots=5, gpus=GPUS[:1], terms=TERMS)
    world.trigger("d")
    grant = world.grant(world.next_task())
    assert names(world) == ["s0", "s1", "s2"]
    for _ in range(3):
        world.grant(world.next_task())
    world.finish(grant)
    assert handed(world) == [("node1", "g1")]


def test_slots_are_not_kept_for_a_task_that_lacks_a_device() -> None:
    tasks = [wide(f"g{n}", gpus=1, priority_weight=9) for n in range(2)]
    world = World(one_dag(*tasks, *crowd(3)), rules=Rules(lookahead=0))
    world.hello(slots=2, gpus=GPUS[:1], terms=TERMS)
    world.trigger("d")
    grant = world.grant(world.next_task())
    narrow = world.grant(world.next_task())
    world.finish(narrow)
    assert handed(world) == [("node1", "s1")]
    world.finish(grant)
    assert handed(world) == [("node1", "g1")], "its device and its slot became free together"


def test_a_shared_device_counts_for_as_many_tasks_as_share_it() -> None:
    tasks = [wide(f"g{n}", gpus=1) for n in range(4)]
    world = World(one_dag(*tasks), rules=Rules(lookahead=0))
    world.hello(slots=8, gpus=GPUS[:1], gpu_share=3, terms=TERMS)
    world.trigger("d")
    for _ in range(3):
        queue = world.core.state.queue("default").queued
        (pk,) = queue
        message = world.core.state.tasks[pk]
        reply = world.send(
            wire.Claim(
                agent="node1",
                session=1,
                task_instance_id=pk,
                try_number=message.try_number,
                queue="default",
                free_slots=1,
            )
        )
        assert any(isinstance(x, wire.Grant) for x in reply)
    assert not world.core.state.queue("default").queued


def test_two_devices_are_given_only_where_two_different_ones_surely_have_room() -> None:
    world = World(one_dag(wide("a", gpus=1), wide("b", gpus=1), wide("pair", gpus=2)))
    world.trigger("d")
    a, b = world.published
    world.hello(slots=8, gpus=GPUS, gpu_share=2, terms=TERMS)
    world.grant(a)
    first = world.core.state.agents["node1"]
    assert first.free.gpus == 2
    world.grant(b)
    assert first.free.gpus == 1, "both tasks may be on the same device"


def test_a_device_that_another_agent_of_the_node_uses_is_not_counted_on() -> None:
    world = World(one_dag(wide("g", gpus=1)))
    world.hello(slots=8, gpus=GPUS[:1], terms=TERMS)
    world.trigger("d")
    reply = claim(world, world.next_task(), free_gpus=0)
    assert isinstance(reply, wire.Deny)
    assert reply.reason == "not now: it needs a GPU, agent node1 has 0 of 1 free"
    assert (names(world), offers(world)) == ([], [])


# -- whatever comes --------------------------------------------------------------------------------

sizes = st.lists(
    st.tuples(st.integers(1, 4), st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=14
)


@given(sizes=sizes, data=st.data(), agents=st.integers(1, 3), share=st.integers(1, 2))
@settings(max_examples=120, deadline=None)
def test_every_task_that_fits_somewhere_gets_its_turn_and_none_gets_too_much(
    sizes: list[tuple[int, int, int]], data: st.DataObject, agents: int, share: int
) -> None:
    """Agents claim what they are sent, in any order; whoever runs may end at any time. While new
    narrow tasks keep coming, every wide one has begun when those before it by rank have."""
    tasks = [
        wide(f"t{n}", slots, gpus, priority_weight=weight)
        for n, (slots, gpus, weight) in enumerate(sizes)
    ]
    stream = dag("stream", *crowd(30), max_active_tasks=1000, max_active_runs=1000)
    world = World(one_dag(*tasks), stream, rules=Rules(lookahead=data.draw(st.integers(0, 2))))
    for number in range(agents):
        world.hello(f"a{number}", slots=4, gpus=GPUS, gpu_share=share, terms=TERMS)
    world.trigger("d", "wide")
    world.trigger("stream", "stream")
    bell: list[tuple[str | None, wire.Task]] = []
    running: list[tuple[str, wire.Grant]] = []
    begun: set[int] = set()
    wanted = {row.id for row in world.core.state.tasks.values() if row.task_id.startswith("t")}
    for _ in range(600):
        bell += [(None, message) for message in world.published]
        bell += [(name, x.task) for name, x in world.replies if isinstance(x, wire.Offer)]
        given = [(name, x) for name, x in world.replies if isinstance(x, wire.Grant) and x.task]
        running += given
        begun.update(x.task_instance_id for _, x in given)
        world.published, world.replies = [], []
        if wanted <= begun:
            return
        if bell and (not running or data.draw(st.booleans())):
            name, message = bell.pop(data.draw(st.integers(0, len(bell) - 1)))
            name = name or f"a{data.draw(st.integers(0, agents - 1))}"
            reply = claim(world, message, name)
            if isinstance(reply, wire.Grant):
                running.append((name, reply))
                begun.add(reply.task_instance_id)
        elif running:
            name, grant = running.pop(data.draw(st.integers(0, len(running) - 1)))
            world.finish(grant, agent=name)
        else:
            for number in range(agents):
                world.send(wire.Heartbeat(agent=f"a{number}", session=1, lease=60.0, terms=TERMS))
        for agent in world.core.state.agents.values():
            assert agent.used.slots <= 4
            assert agent.used.gpus <= share * len(GPUS)
            assert agent.used == sum_of(agent.taken.values())
    raise AssertionError(f"never begun: {wanted - begun}")


def sum_of(shapes: Any) -> Shape:
    total = Shape(0, 0)
    for shape in shapes:
        total = total.plus(shape)
    return total
