"""A grant that brings its task: started without a claim, and never twice."""

from __future__ import annotations

import pytest

from agent.core import effects as do
from agent.core import events as on
from agent.core import work
from flow import wire
from tests.unit.agent_world import World, task


def hand(world: World, ti: int = 1, token: int = 11, try_number: int = 1) -> None:
    world.reply(
        wire.Grant(
            session=world.core.session,
            task_instance_id=ti,
            try_number=try_number,
            token=token,
            task=task(ti, try_number),
        )
    )


def end(world: World, token: int) -> None:
    """It ends well, and its result is answered."""
    world.exit(token)
    world.tell(on.Spooled(token))
    world.answer(token)


def test_what_is_handed_over_starts_at_once() -> None:
    world = World().greet()
    hand(world)
    (start,) = world.effects(do.Start)
    assert (start.grant.token, start.task) == (11, task(1, 1))
    world.exit(11)
    assert not world.effects(do.Ack), "there is no message to settle"


def test_copies_start_nothing() -> None:
    world = World().greet()
    hand(world)
    hand(world)
    assert not world.effects(do.Start)
    end(world, 11)
    hand(world)
    assert world.did == []


def test_a_copy_from_before_all_that_is_remembered_is_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(work, "REMEMBERED", 2)
    world = World().greet()
    for ti in (1, 2, 3):
        hand(world, ti, 10 + ti)
        end(world, 10 + ti)
    hand(world, 1, 11)
    assert not world.effects(do.Start)
    assert [release.token for release in world.sent(wire.Release)] == [11]
    hand(world, 4, 14)
    assert len(world.effects(do.Start)) == 1


def test_without_a_free_slot_it_is_given_back() -> None:
    world = World().greet().run(1, 11).run(2, 12)
    hand(world, 3, 13)
    assert not world.effects(do.Start)
    assert [release.reason for release in world.sent(wire.Release)] == ["no slot is free"]


def test_a_draining_agent_gives_it_back() -> None:
    world = World().greet().run()
    world.tell(on.Interrupt())
    world.tell(on.LinkDown())
    world.tell(on.LinkUp())
    world.tell(on.Confirmed(world.ref(wire.Hello)))
    hand(world, 2, 12)
    assert not world.effects(do.Start)
    assert [release.reason for release in world.sent(wire.Release)] == ["the agent drains"]


def test_a_message_of_a_task_that_was_handed_over_is_adopted() -> None:
    world = World().greet()
    hand(world)
    world.tell(on.Delivered(5, task(1, 1)))
    assert not world.sent(wire.Claim)
    end(world, 11)
    assert [ack.handle for ack in world.effects(do.Ack)] == [5]
