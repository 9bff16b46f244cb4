"""Settings of an agent that change while tasks run."""

from __future__ import annotations

from dataclasses import replace

from agent.core import effects as do
from agent.core import events as on
from flow import wire
from tests.unit.agent_world import SETTINGS, World, task


def test_new_queues_and_slots_are_served_and_said_over_a_new_connection() -> None:
    world = World().greet().run()
    world.tell(on.Reconfigured(queues=("q1", "q2"), slots=5))
    kinds = (do.Serve, do.Reconnect)
    assert [effect for effect in world.did if isinstance(effect, kinds)] == [
        do.Serve(("q1", "q2"), 5),
        do.Reconnect("queues or slots changed"),
    ]
    assert not world.effects(do.Kill)
    assert list(world.core.work.running) == [11]
    world.tell(on.LinkDown())
    world.tell(on.LinkUp())
    (hello,) = world.sent(wire.Hello)
    assert (hello.queues, hello.slots, hello.session) == (("q1", "q2"), 5, 1)
    world.tell(on.Confirmed(world.ref(wire.Hello)))
    assert world.effects(do.Consume) == [do.Consume()]


def test_a_running_tasks_message_that_comes_again_is_adopted() -> None:
    world = World().greet().run()
    world.tell(on.Reconfigured(slots=1))
    world.tell(on.LinkDown())
    world.tell(on.LinkUp())
    world.tell(on.Confirmed(world.ref(wire.Hello)))
    world.tell(on.Delivered(7, world.core.work.running[11].task))
    assert not world.sent(wire.Claim)
    world.exit()
    assert [effect.result.state for effect in world.effects(do.Spool)] == ["success"]


def test_the_same_queues_and_slots_change_nothing() -> None:
    world = World().greet()
    world.tell(on.Reconfigured(queues=SETTINGS.queues, slots=SETTINGS.slots))
    assert world.did == []
    assert world.core.settings == SETTINGS


def test_what_is_not_said_in_a_hello_needs_no_new_connection() -> None:
    world = World().greet().run()
    world.tell(on.Reconfigured(kill_grace=1.5, drain_timeout=7.0))
    assert world.did == []
    assert world.core.settings == replace(SETTINGS, kill_grace=1.5, drain_timeout=7.0)
    stop = wire.Stop(session=1, token=11, reason="cancelled")
    assert [effect.grace for effect in world.reply(stop) if isinstance(effect, do.Kill)] == [1.5]
    world.tell(on.Interrupt())
    world.tick(7.1)
    assert world.effects(do.Kill), "the drain is over after the new timeout"


def test_fewer_slots_than_tasks_end_no_task_and_start_none() -> None:
    world = World().greet().run(1, 11).run(2, 12, handle=2)
    world.tell(on.Reconfigured(slots=1))
    world.tell(on.LinkDown())
    world.tell(on.LinkUp())
    world.tell(on.Confirmed(world.ref(wire.Hello)))
    world.exit(11)
    world.tell(on.Delivered(3, task(3)))
    world.grant(3, 13)
    assert not world.effects(do.Start)
    assert [message.reason for message in world.sent(wire.Release)] == ["no slot is free"]


def test_without_a_connection_the_next_one_is_made_with_the_new_settings() -> None:
    world = World()
    world.tell(on.Fenced(1))
    world.tell(on.Reconfigured(queues=("q2",)))
    assert [effect for effect in world.did if not isinstance(effect, do.Report)] == [
        do.Serve(("q2",), SETTINGS.slots)
    ]


def test_a_connection_that_the_broker_holds_back_is_kept_until_it_does_no_more() -> None:
    world = World().greet()
    world.tick(5.0)
    beat = world.ref(wire.Heartbeat)
    world.tell(on.Blocked(0.0))
    world.tell(on.Reconfigured(slots=9))
    assert not world.effects(do.Reconnect)
    assert not world.effects(do.Serve)
    world.tell(on.Confirmed(beat))
    assert world.effects(do.Serve) == [do.Serve(SETTINGS.queues, 9)]
    assert world.effects(do.Reconnect)


def test_a_draining_agent_takes_settings_but_makes_no_new_connection() -> None:
    world = World().greet()
    world.run()
    world.tell(on.Interrupt())
    world.tell(on.LinkDown())
    world.tell(on.LinkUp())
    world.tell(on.Reconfigured(slots=9))
    assert not world.effects(do.Reconnect)
