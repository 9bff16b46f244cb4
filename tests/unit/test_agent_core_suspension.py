"""A disk that takes nothing: the agent finishes what it runs and starts nothing new."""

from __future__ import annotations

import pytest

from agent.core import effects as do
from agent.core import events as on
from flow import wire
from tests.unit.agent_world import SETTINGS, World, task

FULL = "spool/11.json: No space left on device"


def suspended() -> World:
    """Its result of token 11 is not on disk; the link that it had is dropped."""
    world = World().greet().run()
    world.exit()
    world.tell(on.Spooled(11, FULL))
    return world


def reconnected(world: World) -> World:
    world.tell(on.LinkUp())
    world.tell(on.Confirmed(world.ref(wire.Hello)))
    return world


def probed(world: World, error: str = "") -> World:
    """The disk is tried when it is due, with this answer."""
    world.tick(SETTINGS.probe_interval)
    assert world.effects(do.Probe) == [do.Probe()]
    world.tell(on.Probed(error))
    return world


def test_a_result_that_is_not_on_disk_is_sent_and_what_was_delivered_goes_back() -> None:
    world = suspended()
    assert [result.token for result in world.sent(wire.Finished)] == [11]
    assert [beat.suspended for beat in world.sent(wire.Heartbeat)] == [FULL]
    assert world.effects(do.Reconnect) == [do.Reconnect("suspended")]


def test_it_is_said_once_however_many_results_the_disk_refuses() -> None:
    world = World().greet().run(1, 11).run(2, 12, handle=2)
    said = []
    for token in (11, 12):
        world.exit(token)
        world.tell(on.Spooled(token, FULL))
        said += [report.text for report in world.effects(do.Report)]
    text = f"suspended: {FULL}; nothing new starts here until the disk takes it"
    assert said.count(text) == 1


def test_the_next_link_says_why_it_takes_nothing_and_consumes_nothing() -> None:
    world = suspended()
    world.tell(on.LinkUp())
    assert [hello.suspended for hello in world.sent(wire.Hello)] == [FULL]
    world.tell(on.Confirmed(world.ref(wire.Hello)))
    assert not world.effects(do.Consume)
    assert [result.token for result in world.sent(wire.Finished)] == [11]
    world.tick(SETTINGS.heartbeat_interval)
    assert [beat.suspended for beat in world.sent(wire.Heartbeat)] == [FULL]


def test_a_grant_that_was_on_its_way_is_given_back_and_is_no_fault_of_the_task() -> None:
    world = World().greet().run()
    world.tell(on.Delivered(2, task(2)))
    world.tell(on.DiskFailed(FULL))
    reconnected(world)
    assert [claim.free_slots for claim in world.sent(wire.Claim)] == [0]
    world.grant(2, 12)
    assert not world.effects(do.Start)
    (release,) = world.sent(wire.Release)
    assert (release.token, release.fault) == (12, False)
    assert release.reason == f"the agent is suspended: {FULL}"


def test_a_task_whose_code_arrives_meanwhile_is_given_back() -> None:
    world = World().greet()
    world.tell(on.Delivered(1, task()))
    world.grant()
    world.tell(on.DiskFailed(FULL))
    reconnected(world)
    world.tell(on.Ready(11))
    assert not world.effects(do.Start)
    assert [release.token for release in world.sent(wire.Release)] == [11]


def test_what_runs_goes_on_and_keeps_its_lease() -> None:
    world = World().greet().run(1, 11).run(2, 12, handle=2)
    world.exit(11)
    world.tell(on.Spooled(11, FULL))
    assert not world.effects(do.Kill)
    assert not world.effects(do.Fence)
    reconnected(world)
    world.tick(SETTINGS.heartbeat_interval)
    assert [beat.tokens for beat in world.sent(wire.Heartbeat)] == [(12,)]


def test_the_disk_is_tried_again_and_again_and_then_the_agent_resumes() -> None:
    world = reconnected(suspended())
    probed(world, "still full")
    assert not world.effects(do.Consume)
    probed(world)
    assert world.effects(do.Consume) == [do.Consume()]
    assert [beat.suspended for beat in world.sent(wire.Heartbeat)] == [""]
    text = "the suspension is over: the disk takes results again"
    assert world.effects(do.Report) == [do.Report("info", text)]
    world.tick(SETTINGS.probe_interval)
    assert not world.effects(do.Probe)


def test_one_probe_at_a_time() -> None:
    world = reconnected(suspended())
    world.tick(SETTINGS.probe_interval)
    assert world.effects(do.Probe)
    world.tick(SETTINGS.probe_interval)
    assert not world.effects(do.Probe)


def test_the_wake_up_of_a_suspended_agent_without_a_link_is_that_of_its_probe() -> None:
    world = World()
    world.tell(on.DiskFailed(FULL))
    assert world.core.wake_at() == world.now + SETTINGS.probe_interval


def test_results_that_are_still_unanswered_are_written_once_the_disk_takes_them() -> None:
    world = reconnected(suspended())
    probed(world)
    assert [spool.result.token for spool in world.effects(do.Spool)] == [11]
    world.tell(on.Spooled(11))
    assert not world.effects(do.Send)
    assert world.answer(11) == [do.DropSpool(11)]


def test_a_result_that_is_answered_while_it_is_written_again_leaves_no_file() -> None:
    world = reconnected(suspended())
    probed(world)
    world.answer(11)
    assert world.tell(on.Spooled(11)) == [do.DropSpool(11)]


def test_a_second_write_that_fails_suspends_again() -> None:
    world = reconnected(suspended())
    probed(world)
    world.tell(on.Spooled(11, FULL))
    assert world.effects(do.Reconnect) == [do.Reconnect("suspended")]
    reconnected(world)
    assert not world.effects(do.Consume)


def test_a_link_whose_publishers_are_held_back_is_not_given_up() -> None:
    world = World().greet().run()
    world.tell(on.Blocked(0.0))
    world.tell(on.DiskFailed(FULL))
    assert not world.effects(do.Reconnect)
    world.tick(SETTINGS.heartbeat_interval)
    world.tell(on.Confirmed(world.ref(wire.Heartbeat)))
    assert world.effects(do.Reconnect) == [do.Reconnect("suspended")]


def test_an_agent_that_drains_does_not_consume_when_its_disk_is_well_again() -> None:
    world = World().greet().run()
    world.tell(on.DiskFailed(FULL))
    reconnected(world)
    world.tell(on.Interrupt())
    probed(world)
    assert not world.effects(do.Consume)


def test_a_new_session_is_suspended_as_the_old_one_was() -> None:
    world = suspended()
    world.tell(on.LeaseFired("the keeper's deadline passed"))
    world.tell(on.LinkUp())
    world.tell(on.Fenced(2))
    assert [hello.suspended for hello in world.sent(wire.Hello)] == [FULL]
    world.tell(on.Confirmed(world.ref(wire.Hello)))
    assert not world.effects(do.Consume)


@pytest.mark.parametrize("event", [on.Probed(), on.Probed("full")])
def test_a_probe_nobody_asked_for_changes_nothing(event: on.Probed) -> None:
    world = World().greet()
    assert world.tell(event) == []
