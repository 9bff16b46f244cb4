"""What people want of agents: drained nodes, other queues, other slots; and agents whose messages
this dispatcher cannot read."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from dispatcher.core.records import AgentState, SaveAgent, ToldAgent
from flow import wire
from tests.unit.core_world import LEASE, World, chain, dag, task

WHY = "new kernel (user ada)"
NONE = wire.Terms()
TOO_NEW = "it speaks version 2 of the messages, the dispatcher 1; upgrade the dispatcher"


def drain(world: World, agent: str = "node1", reason: str = "new kernel") -> str:
    return world.request("drain", agent=agent, reason=reason, actor="user ada")


def resume(world: World, agent: str = "node1") -> str:
    return world.request("resume", agent=agent, actor="user ada")


def configure(world: World, **wanted: Any) -> str:
    return world.request("set_agent", agent="node1", actor="user ada", **wanted)


def beat(
    world: World, terms: wire.Terms | None, *tokens: int, agent: str = "node1", session: int = 1
) -> list[wire.Reply]:
    return world.send(
        wire.Heartbeat(agent=agent, session=session, lease=LEASE, tokens=tokens, terms=terms)
    )


def told(world: World) -> list[wire.Terms]:
    return [reply.terms for _, reply in world.replies if isinstance(reply, wire.Configure)]


# -- drained ---------------------------------------------------------------------------------


def test_a_drained_agent_is_granted_nothing_and_the_task_says_why() -> None:
    world = World(chain(1))
    world.hello()
    world.trigger("chain")
    assert drain(world) == ""
    reply = world.claim(world.next_task())
    assert isinstance(reply, wire.Deny)
    assert reply.reason == f"not now: agent node1 is drained: {WHY}"
    assert world.states() == {"t0": "scheduled"}
    assert world.published == []


def test_another_agent_gets_what_it_was_denied_at_once() -> None:
    world = World(chain(1))
    world.hello("node1")
    world.hello("node2")
    world.trigger("chain")
    drain(world)
    world.claim(world.next_task(), "node1")
    world.run_next(agent="node2")
    assert world.states() == {"t0": "success"}


def test_its_slots_make_no_room_in_a_queue_until_it_is_resumed() -> None:
    world = World(dag("many", *(task(f"t{n}") for n in range(9))))
    world.hello(slots=4)
    drain(world)
    world.trigger("many")
    assert len(world.published) == world.rules.lookahead
    resume(world)
    assert len(world.published) == world.rules.lookahead + 4


def test_what_runs_on_it_goes_on_and_its_result_counts() -> None:
    world = World(chain(1))
    world.hello()
    world.trigger("chain")
    grant = world.grant(world.next_task())
    drain(world)
    beat(world, wire.Terms(drained=WHY), grant.token)
    world.finish(grant)
    assert world.states() == {"t0": "success"}


def test_what_it_was_denied_is_published_again_when_it_is_resumed() -> None:
    world = World(chain(1))
    world.hello()
    world.trigger("chain")
    drain(world)
    world.claim(world.next_task())
    resume(world)
    world.run_next()
    assert world.states() == {"t0": "success"}


def test_it_stays_drained_in_its_next_session_and_in_the_next_reign() -> None:
    world = World(chain(1))
    world.hello()
    drain(world)
    world.hello(session=2)
    world.new_reign()
    world.trigger("chain")
    reply = world.claim(world.next_task(), session=2)
    assert isinstance(reply, wire.Deny)
    assert reply.reason == f"not now: agent node1 is drained: {WHY}"


def test_one_that_is_away_is_drained_when_it_comes_back() -> None:
    world = World(chain(1))
    world.hello()
    world.send(wire.Goodbye(agent="node1", session=1))
    assert drain(world) == ""
    world.hello(session=2, terms=NONE)
    assert told(world)[-1] == wire.Terms(drained=WHY)


def test_each_change_is_written_down_once_with_its_author_and_reason() -> None:
    world = World()
    world.hello()
    drain(world)
    drain(world)
    drain(world, reason="and a new disk")
    resume(world)
    resume(world)
    lines = [(x.agent, x.event, x.reason) for x in world.writes if isinstance(x, ToldAgent)]
    assert lines == [
        ("node1", "drain", "new kernel"),
        ("node1", "drain", "and a new disk"),
        ("node1", "resume", ""),
    ]
    assert {x.actor for x in world.writes if isinstance(x, ToldAgent)} == {"user ada"}
    saved = [write.agent.drained for write in world.writes if isinstance(write, SaveAgent)]
    assert saved == ["", WHY, "and a new disk (user ada)", ""]


@pytest.mark.parametrize("kind", ["drain", "resume", "set_agent"])
def test_an_agent_nobody_has_seen_is_refused_with_the_nearest_name(kind: str) -> None:
    world = World()
    world.hello("node1")
    assert world.request(kind, agent="nod1", reason="x", slots=1) == (
        "agent 'nod1': expected one ever seen; did you mean 'node1'?"
    )


def test_a_drain_without_a_reason_is_refused() -> None:
    world = World()
    world.hello()
    assert drain(world, reason=" ") == "agent 'node1': expected a reason to drain it, got none"


# -- telling the agent -----------------------------------------------------------------------


def test_every_hello_is_answered_with_what_is_wanted() -> None:
    world = World()
    assert world.hello(terms=NONE) == [wire.Configure(session=1, terms=NONE)]
    drain(world)
    wanted = wire.Terms(drained=WHY)
    assert world.hello(terms=wanted) == [wire.Configure(session=1, terms=wanted)]


def test_a_change_is_said_at_once_and_again_until_a_heartbeat_shows_it() -> None:
    world = World()
    world.hello(terms=NONE)
    drain(world)
    wanted = wire.Terms(drained=WHY)
    assert told(world) == [NONE, wanted]
    assert beat(world, NONE) == [wire.Configure(session=1, terms=wanted)]
    assert beat(world, wanted) == []
    resume(world)
    assert beat(world, wanted) == [wire.Configure(session=1, terms=NONE)]


def test_an_agent_that_cannot_be_told_is_told_nothing_and_gets_nothing() -> None:
    world = World(chain(1))
    world.hello()
    drain(world)
    beat(world, None)
    assert told(world) == []
    world.trigger("chain")
    assert isinstance(world.claim(world.next_task()), wire.Deny)


def test_a_suspended_agent_is_told_again_since_it_may_not_have_understood_another_dispatcher() -> (
    None
):
    world = World()
    world.hello(terms=NONE)
    world.new_reign()
    held = wire.Heartbeat(agent="node1", session=1, lease=LEASE, terms=NONE, suspended="why")
    assert world.send(held) == [wire.Configure(session=1, terms=NONE)]
    assert beat(world, NONE) == []


# -- other queues and slots ------------------------------------------------------------------


def test_fewer_slots_hold_from_the_moment_they_are_wanted() -> None:
    world = World(dag("many", *(task(f"t{n}") for n in range(9))))
    world.hello(slots=4)
    world.trigger("many")
    grants = [world.grant(world.next_task()) for _ in range(3)]
    assert configure(world, slots=2) == ""
    reply = world.claim(world.next_task())
    assert isinstance(reply, wire.Deny)
    assert reply.reason == "not now: all 2 slots of agent node1 are busy"
    world.finish(grants[0])
    assert isinstance(world.claim(world.next_task()), wire.Deny)
    world.finish(grants[1])
    world.grant(world.next_task())


def test_more_slots_count_once_the_agent_has_them() -> None:
    world = World(dag("many", *(task(f"t{n}") for n in range(9))))
    world.hello(slots=1)
    configure(world, slots=3)
    world.trigger("many")
    assert len(world.published) == 1 + world.rules.lookahead
    world.hello(slots=3, terms=wire.Terms(slots=3))
    assert len(world.published) == 3, "and none lies ahead for an agent that is handed tasks"


def test_a_queue_that_it_shall_no_longer_serve_is_left_to_others_at_once() -> None:
    world = World(chain(1))
    world.hello("node1", queues=("default", "q2"))
    world.trigger("chain")
    configure(world, queues=["q2"])
    reply = world.claim(world.next_task())
    assert isinstance(reply, wire.Deny)
    assert reply.reason == "not now: agent node1 shall no longer serve queue 'default'"
    world.hello("node2")
    world.run_next(agent="node2")
    assert world.states() == {"t0": "success"}


def test_a_queue_that_is_added_gets_tasks_once_the_agent_serves_it() -> None:
    world = World(dag("d", task("t", queue="new")))
    world.hello(queues=("default",), terms=NONE)
    configure(world, queues=["default", "new"])
    wanted = wire.Terms(queues=("default", "new"))
    assert told(world)[-1] == wanted
    world.trigger("d")
    world.hello(queues=("default", "new"), terms=wanted)
    world.run_next()
    assert world.states() == {"t": "success"}


def test_what_is_not_named_stays_as_it_was_wanted_and_reset_takes_all_back() -> None:
    world = World()
    world.hello(terms=NONE)
    configure(world, slots=2)
    configure(world, queues=["q1", "q2", "q1"])
    assert told(world)[-1] == wire.Terms(queues=("q1", "q2"), slots=2)
    configure(world, reset=True)
    assert told(world)[-1] == NONE
    lines = [x.reason for x in world.writes if isinstance(x, ToldAgent)]
    assert lines == ["2 slots", "queues q1, q2; 2 slots", "its own settings"]


def test_what_is_wanted_survives_reigns_and_sessions() -> None:
    world = World()
    world.hello(terms=NONE)
    configure(world, slots=2, queues=["q1"])
    world.new_reign()
    world.hello(session=2, terms=NONE)
    assert told(world)[-1] == wire.Terms(queues=("q1",), slots=2)


@pytest.mark.parametrize(
    ("wanted", "error"),
    [
        ({"slots": 0}, "expected 1 to 10000 slots, got 0"),
        ({"slots": True}, "expected 1 to 10000 slots, got True"),
        (
            {"queues": ["a b"]},
            "expected names of queues (1 to 100 letters, digits, '.', '_', '-'), got ['a b']",
        ),
        (
            {"queues": []},
            "expected names of queues (1 to 100 letters, digits, '.', '_', '-'), got []",
        ),
    ],
)
def test_what_no_agent_can_do_is_refused(wanted: dict[str, Any], error: str) -> None:
    world = World()
    world.hello()
    assert configure(world, **wanted) == f"agent 'node1': {error}"


# -- other versions of the messages ----------------------------------------------------------


def newer(world: World, kind: str = "heartbeat", **whose: Any) -> list[wire.Reply]:
    values = {"agent": "node1", "session": 1, "incarnation": "process 1", **whose}
    sender = wire.Sender(type=kind, version=2, **values)
    effects = world.take(world.core.receive_newer(sender, world.now))
    return [reply for _, reply in effects.replies]


def test_an_agent_of_a_newer_version_is_told_to_take_nothing_and_is_shown() -> None:
    world = World()
    (reply,) = newer(world, "hello", agent="node7")
    assert reply == wire.Configure(
        session=1, incarnation="process 1", terms=wire.Terms(drained=TOO_NEW)
    )
    (saved,) = [write.agent for write in world.writes if isinstance(write, SaveAgent)]
    assert (saved.name, saved.state, saved.suspended) == ("node7", AgentState.OFFLINE, TOO_NEW)
    newer(world, agent="node7")
    assert len([write for write in world.writes if isinstance(write, SaveAgent)]) == 1


def test_it_works_as_soon_as_it_can_be_read() -> None:
    world = World(chain(1))
    newer(world, "hello", agent="node7", session=5)
    world.hello("node7", session=5, terms=wire.Terms(drained=TOO_NEW))
    assert told(world)[-1] == NONE
    world.trigger("chain")
    world.run_next(agent="node7", session=5)
    assert world.states() == {"t0": "success"}


def test_what_a_newer_agent_runs_is_not_taken_over_while_it_is_heard() -> None:
    world = World(chain(1))
    world.hello()
    world.trigger("chain")
    grant = world.grant(world.next_task())
    for _ in range(10):
        world.pass_time(LEASE / 2)
        newer(world)
    assert world.states() == {"t0": "running"}
    beat(world, wire.Terms(drained=TOO_NEW), grant.token)
    world.finish(grant)
    assert world.states() == {"t0": "success"}


@pytest.mark.parametrize("whose", [{"session": 2}, {"incarnation": "another"}])
def test_events_of_another_session_or_process_keep_no_lease(whose: dict[str, Any]) -> None:
    world = World(chain(1))
    world.hello()
    world.trigger("chain")
    world.grant(world.next_task())
    for _ in range(10):
        world.pass_time(LEASE / 2)
        newer(world, **whose)
    assert world.states() != {"t0": "running"}


def test_only_what_comes_regularly_is_answered() -> None:
    world = World()
    assert newer(world, "finished") == []
    assert newer(world, "claim") != []


def test_an_agent_of_an_older_version_gets_nothing_it_could_not_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(chain(1))
    old = wire.Heartbeat(agent="node1", session=1, lease=LEASE, version=1)
    monkeypatch.setattr(wire, "VERSION", 2)
    world.hello(version=1)
    world.trigger("chain")
    reply = world.claim(world.next_task())
    assert isinstance(reply, wire.Deny)
    assert reply.reason == (
        "not now: agent node1 is suspended: it speaks version 1 of the messages, the dispatcher 2; "
        "upgrade this agent"
    )
    world.send(old)
    assert world.published == []
    world.send(replace(old, version=2))
    world.run_next()
    assert world.states() == {"t0": "success"}
