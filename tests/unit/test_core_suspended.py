"""What the dispatcher makes of an agent that says it takes no tasks for now."""

from __future__ import annotations

from dispatcher.core.records import SaveAgent
from flow import wire
from tests.unit.core_world import LEASE, World, chain, dag, task

FULL = "No space left on device: spool/11.json"


def says(world: World, suspended: str, *tokens: int, agent: str = "node1") -> None:
    world.send(
        wire.Heartbeat(agent=agent, session=1, lease=LEASE, tokens=tokens, suspended=suspended)
    )


def test_a_suspended_agent_is_granted_nothing_and_the_task_waits() -> None:
    world = World(chain(1))
    world.hello()
    world.trigger("chain")
    says(world, FULL)
    reply = world.claim(world.next_task())
    assert isinstance(reply, wire.Deny)
    assert reply.reason == f"not now: agent node1 is suspended: {FULL}"
    assert world.states() == {"t0": "scheduled"}
    assert world.published == []


def test_what_it_was_denied_is_published_again_when_it_takes_tasks() -> None:
    world = World(chain(1))
    world.hello()
    world.trigger("chain")
    says(world, FULL)
    world.claim(world.next_task())
    says(world, "")
    world.run_next()
    assert world.states() == {"t0": "success"}


def test_another_agent_gets_what_it_was_denied_at_once() -> None:
    world = World(chain(1))
    world.hello("node1")
    world.hello("node2")
    world.trigger("chain")
    says(world, FULL)
    world.claim(world.next_task(), "node1")
    world.run_next(agent="node2")
    assert world.states() == {"t0": "success"}


def test_its_slots_make_no_room_in_a_queue() -> None:
    world = World(dag("many", *(task(f"t{n}") for n in range(9))))
    world.hello(slots=4, suspended=FULL)
    world.trigger("many")
    assert len(world.published) == world.rules.lookahead
    says(world, "")
    assert len(world.published) == world.rules.lookahead + 4


def test_what_it_runs_goes_on_and_its_result_counts() -> None:
    world = World(chain(1))
    world.hello()
    world.trigger("chain")
    grant = world.grant(world.next_task())
    says(world, FULL, grant.token)
    world.finish(grant)
    assert world.states() == {"t0": "success"}


def test_it_is_written_down_when_it_changes_and_only_then() -> None:
    world = World()
    world.hello()
    for reason in ("", FULL, FULL, ""):
        says(world, reason)
    saved = [write.agent.suspended for write in world.writes if isinstance(write, SaveAgent)]
    assert saved == ["", FULL, ""]


def test_the_next_reign_knows_it() -> None:
    world = World(chain(1))
    world.hello()
    says(world, FULL)
    world.new_reign()
    world.trigger("chain")
    assert isinstance(world.claim(world.next_task()), wire.Deny)
