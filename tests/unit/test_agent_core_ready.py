"""A start that was put off until the task's bundle came: only if the task may still start."""

from __future__ import annotations

from typing import Any

from agent.core import effects as do
from agent.core import events as on
from flow import wire
from tests.unit.agent_world import SETTINGS, World, task


def waiting(**fields: Any) -> World:
    """Token 11 was granted and has begun to wait."""
    world = World().greet()
    world.tell(on.Delivered(1, task(1, **fields)))
    world.grant()
    return world


def test_what_a_start_waited_for_has_come() -> None:
    world = waiting()
    world.tell(on.Ready(11))
    (start,) = world.effects(do.Start)
    assert (start.task.task_instance_id, start.grant.token) == (1, 11)


def test_a_token_that_has_ended_meanwhile_does_not_start() -> None:
    world = waiting()
    world.exit(signal=15, killed="cancelled")
    world.tell(on.Ready(11))
    assert world.did == []


def test_a_draining_agent_gives_it_back_without_a_fault_and_settles_the_message() -> None:
    world = waiting()
    world.tell(on.Interrupt())
    world.tell(on.LinkUp())
    world.tell(on.Confirmed(world.ref(wire.Hello)))
    world.tell(on.Ready(11))
    assert world.effects(do.Start) == []
    (release,) = world.sent(wire.Release)
    assert (release.token, release.fault, release.reason) == (11, False, "the agent drains")


def test_nothing_starts_once_the_lease_is_over() -> None:
    world = waiting()
    world.tell(on.Ready(11), after=SETTINGS.trusted + 1)
    assert world.effects(do.Start) == []
    assert world.effects(do.Fence) != []


def test_one_that_outlives_the_session_is_given_back_when_its_wait_ends_with_it() -> None:
    world = waiting(on_agent_lost="wait")
    world.tell(on.LeaseFired("the keeper's deadline passed"))
    (fence,) = world.effects(do.Fence)
    assert fence.keep == {11}
    world.tell(on.ProcessEnded(11, 1.0, 1.0, error="the session ended", fault=True))
    world.tell(on.LinkDown())
    world.tell(on.LinkUp())
    world.tell(on.Fenced(2))
    (hello,) = world.sent(wire.Hello)
    assert hello.kept == ()
    world.tell(on.Confirmed(world.ref(wire.Hello)))
    (release,) = world.sent(wire.Release)
    assert (release.token, release.fault) == (11, False)


def test_one_that_outlives_the_session_is_given_back_when_its_bundle_comes_with_the_lapse() -> None:
    # A stopped agent finds both as it goes on: nothing waits any more, and nothing runs.
    world = waiting(on_agent_lost="wait")
    world.tell(on.Ready(11), after=SETTINGS.trusted + 1)
    assert world.effects(do.Start) == []
    assert world.core.work.running == {}
    world.tell(on.Fenced(2))
    world.tell(on.LinkDown())
    world.tell(on.LinkUp())
    (hello,) = world.sent(wire.Hello)
    assert (hello.session, hello.kept) == (2, ())
