"""What people want of an agent, as the dispatcher tells it: drained, other queues, other slots; and
a dispatcher whose messages the agent cannot read."""

from __future__ import annotations

from agent.core import effects as do
from agent.core import events as on
from flow import wire
from tests.unit.agent_world import SETTINGS, World, task

WHY = "new kernel (user ada)"
DRAINED = wire.Terms(drained=WHY)
UNREADABLE = "it gets messages of version 2 and reads 1; upgrade this agent"


def configure(world: World, terms: wire.Terms) -> World:
    world.reply(wire.Configure(session=world.core.session, incarnation="i", terms=terms))
    return world


def reconnected(world: World) -> World:
    """After its link was dropped."""
    world.tell(on.LinkDown())
    world.tell(on.LinkUp())
    world.tell(on.Confirmed(world.ref(wire.Hello)))
    return world


def hello_of(world: World) -> wire.Hello:
    world.tell(on.LinkDown())
    world.tell(on.LinkUp())
    (hello,) = world.sent(wire.Hello)
    return hello


# -- drained ---------------------------------------------------------------------------------


def test_an_agent_that_is_drained_gives_back_what_was_delivered_and_says_so_at_once() -> None:
    world = configure(World().greet().run(), DRAINED)
    assert [beat.terms for beat in world.sent(wire.Heartbeat)] == [DRAINED]
    assert world.effects(do.Reconnect) == [do.Reconnect("drained")]
    text = f"drained: {WHY}; what runs goes on"
    assert world.effects(do.Report) == [do.Report("info", text)]
    assert world.core.drained == WHY
    assert not world.effects(do.Kill)


def test_it_consumes_nothing_until_it_is_resumed() -> None:
    world = reconnected(configure(World().greet(), DRAINED))
    assert not world.effects(do.Consume)
    configure(world, wire.Terms())
    assert world.effects(do.Consume) == [do.Consume()]
    assert [beat.terms for beat in world.sent(wire.Heartbeat)] == [wire.Terms()]


def test_a_grant_that_was_on_its_way_is_given_back_and_is_no_fault_of_the_task() -> None:
    world = World().greet()
    world.tell(on.Delivered(1, task(1)))
    configure(world, DRAINED)
    reconnected(world)
    assert [claim.free_slots for claim in world.sent(wire.Claim)] == [0]
    world.grant(1, 11)
    assert not world.effects(do.Start)
    (release,) = world.sent(wire.Release)
    assert (release.token, release.fault) == (11, False)
    assert release.reason == f"the agent is drained: {WHY}"


def test_a_task_whose_code_arrives_meanwhile_is_given_back() -> None:
    world = World().greet()
    world.tell(on.Delivered(1, task()))
    world.grant()
    reconnected(configure(world, DRAINED))
    world.tell(on.Ready(11))
    assert not world.effects(do.Start)
    assert [release.token for release in world.sent(wire.Release)] == [11]


def test_what_runs_goes_on_and_its_result_is_sent() -> None:
    world = reconnected(configure(World().greet().run(), DRAINED))
    world.tick(SETTINGS.heartbeat_interval)
    assert [beat.tokens for beat in world.sent(wire.Heartbeat)] == [(11,)]
    world.exit()
    world.tell(on.Spooled(11))
    assert [result.token for result in world.sent(wire.Finished)] == [11]


def test_it_goes_on_running_without_tasks_and_without_a_goodbye() -> None:
    world = reconnected(configure(World().greet(), DRAINED))
    world.tick(SETTINGS.heartbeat_interval)
    assert not world.sent(wire.Goodbye)
    assert not world.effects(do.Stop)


def test_being_told_the_same_again_changes_nothing() -> None:
    world = reconnected(configure(World().greet(), DRAINED))
    configure(world, DRAINED)
    assert world.did == []


def test_a_new_session_goes_by_the_same_terms() -> None:
    world = configure(World().greet(), DRAINED)
    world.tell(on.LeaseFired("the keeper's deadline passed"))
    world.tell(on.LinkUp())
    world.tell(on.Fenced(2))
    assert [hello.terms for hello in world.sent(wire.Hello)] == [DRAINED]
    world.tell(on.Confirmed(world.ref(wire.Hello)))
    assert not world.effects(do.Consume)


def test_what_is_meant_for_another_process_or_session_is_not_obeyed() -> None:
    world = World().greet()
    world.reply(wire.Configure(session=1, incarnation="another", terms=DRAINED))
    world.reply(wire.Configure(session=7, incarnation="i", terms=DRAINED))
    assert world.core.drained == ""


def test_a_disk_that_is_well_again_does_not_end_a_drain() -> None:
    world = configure(World().greet(), DRAINED)
    world.tell(on.DiskFailed("full"))
    reconnected(world)
    world.tick(SETTINGS.probe_interval)
    world.tell(on.Probed())
    assert not world.effects(do.Consume)
    configure(world, wire.Terms())
    assert world.effects(do.Consume)


def test_a_link_whose_publishers_are_held_back_is_not_given_up() -> None:
    world = World().greet()
    world.tell(on.Blocked(0.0))
    configure(world, DRAINED)
    assert not world.effects(do.Reconnect)
    world.tick(SETTINGS.heartbeat_interval)
    world.tell(on.Confirmed(world.ref(wire.Heartbeat)))
    assert world.effects(do.Reconnect) == [do.Reconnect("drained")]


# -- queues and slots ------------------------------------------------------------------------


def test_other_queues_and_slots_are_served_over_a_new_link_and_tasks_go_on() -> None:
    world = configure(World().greet().run(), wire.Terms(queues=("q1", "new"), slots=5))
    assert world.effects(do.Serve) == [do.Serve(("q1", "new"), 5)]
    assert world.effects(do.Reconnect)
    assert not world.effects(do.Kill)
    hello = hello_of(world)
    assert (hello.queues, hello.slots) == (("q1", "new"), 5)
    assert hello.terms == wire.Terms(queues=("q1", "new"), slots=5)


def test_what_people_want_holds_over_the_settings_of_the_node_until_it_is_taken_back() -> None:
    world = configure(World().greet(), wire.Terms(slots=5))
    reconnected(world)
    world.tell(on.Reconfigured(queues=("q7",), slots=3))
    hello = hello_of(world)
    assert (hello.queues, hello.slots) == (("q7",), 5)
    world.tell(on.Confirmed(world.ref(wire.Hello)))
    configure(world, wire.Terms())
    hello = hello_of(world)
    assert (hello.queues, hello.slots) == (("q7",), 3)


def test_fewer_slots_than_tasks_kill_none_and_start_none() -> None:
    world = World().greet().run(1, 11).run(2, 12, handle=2)
    reconnected(configure(world, wire.Terms(slots=1)))
    assert not world.effects(do.Kill)
    world.exit(11)
    world.tell(on.Delivered(3, task(3)))
    assert [claim.free_slots for claim in world.sent(wire.Claim)] == [0]
    world.grant(3, 13)
    assert [release.reason for release in world.sent(wire.Release)] == ["no slot is free"]


# -- messages that cannot be read ------------------------------------------------------------


def test_messages_of_a_newer_version_suspend_the_agent_and_go_back() -> None:
    world = World().greet().run()
    world.tell(on.Unreadable(2))
    assert [beat.suspended for beat in world.sent(wire.Heartbeat)] == [UNREADABLE]
    assert world.effects(do.Reconnect) == [do.Reconnect("suspended")]
    assert world.core.suspended == UNREADABLE
    assert not world.effects(do.Kill)
    world.tell(on.Unreadable(2))
    assert not world.effects(do.Report)
    reconnected(world)
    assert not world.effects(do.Consume)


def test_a_dispatcher_that_it_understands_ends_that() -> None:
    world = World().greet()
    world.tell(on.Unreadable(2))
    reconnected(world)
    configure(world, wire.Terms())
    assert world.effects(do.Consume) == [do.Consume()]
    assert [beat.suspended for beat in world.sent(wire.Heartbeat)] == [""]
