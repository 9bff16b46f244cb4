"""An agent while the broker has an alarm and takes nothing from publishers."""

from __future__ import annotations

import pytest

from agent.core import effects as do
from agent.core import events as on
from flow import wire
from tests.unit.agent_world import SETTINGS, World

TRUSTED = SETTINGS.lease - SETTINGS.margin
HEARTBEAT = SETTINGS.heartbeat_interval


def blocked(after: float = 20.0) -> World:
    """A task runs, and *after* seconds past the hello's sending the broker blocks publishers."""
    world = World().greet().run()
    world.tell(on.Blocked(0.0), after=after)
    return world


def test_proven_time_moves_the_deadline_from_the_last_confirmed_sending() -> None:
    world = blocked()
    hello_sent = world.now - 20.0
    world.tell(on.Blocked(30.0), after=30.0)
    assert world.effects(do.SetDeadline) == [do.SetDeadline(hello_sent + 30.0 + TRUSTED)]


def test_an_alarm_of_any_length_kills_nothing_while_its_proofs_come_in() -> None:
    world = blocked()
    for number in range(1, 200):
        world.tell(on.Blocked(5.0 * number), after=5.0)
        assert not world.effects(do.Fence)
    assert world.core.work.running


def test_an_alarm_whose_proofs_stop_lapses() -> None:
    world = blocked()
    world.tell(on.Blocked(5.0), after=5.0)
    world.tick(TRUSTED - 20.0 - 0.1)
    assert not world.effects(do.Fence)
    world.tick(0.2)
    assert world.effects(do.Fence)


def test_a_proof_that_waited_in_a_buffer_while_the_agent_was_stopped_comes_too_late() -> None:
    world = blocked()
    world.tell(on.Blocked(10.0), after=TRUSTED)
    assert world.effects(do.Fence)
    assert not world.effects(do.SetDeadline)


def test_nothing_but_heartbeats_is_sent_until_one_is_confirmed() -> None:
    world = World().greet().run()
    world.tell(on.Blocked(0.0))
    world.exit()
    world.tell(on.Spooled(11))
    assert world.sent(wire.Finished) == []
    world.tick(HEARTBEAT)
    assert world.sent(wire.Heartbeat)
    assert world.sent(wire.Finished) == []
    world.tell(on.Confirmed(world.ref(wire.Heartbeat)), after=5.0)
    assert [message.token for message in world.sent(wire.Finished)] == [11]


def test_a_second_alarm_is_counted_from_what_was_proven_before_it() -> None:
    world = blocked(after=0.0)
    base = world.now
    world.tell(on.Blocked(30.0), after=30.0)
    world.tell(on.Blocked(0.0), after=1.0)
    world.tell(on.Blocked(10.0), after=10.0)
    assert world.effects(do.SetDeadline) == [do.SetDeadline(base + 40.0 + TRUSTED)]


def test_an_alarm_means_nothing_to_a_session_that_no_broker_has_confirmed() -> None:
    world = World()
    world.tell(on.LinkUp())
    world.tell(on.Fenced(1))
    for proven in (0.0, 5.0):
        world.tell(on.Blocked(proven), after=5.0)
    assert world.core.deadline is None


@pytest.mark.parametrize("proven", [5.0, 500.0])
def test_a_proof_without_its_beginning_counts_for_nothing(proven: float) -> None:
    world = blocked()
    world.tell(on.LinkDown())
    world.tell(on.LinkUp())
    before = world.core.deadline
    world.tell(on.Blocked(proven))
    assert world.core.deadline == before
