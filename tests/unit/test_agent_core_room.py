"""Slots and devices as the agent's core gives them out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agent.core import effects as do
from agent.core import events as on
from agent.core.devices import Device, Devices
from flow import wire
from flow.dagspec import Resources
from tests.unit.agent_world import SETTINGS, World, task

TWO = (Device("GPU-a", "A100"), Device("GPU-b", "A100"))


def world(slots: int = 4, gpus: tuple[Device, ...] = TWO, share: int = 1) -> World:
    return World(replace(SETTINGS, slots=slots, gpus=gpus, gpu_share=share)).greet()


def deliver(w: World, ti: int, slots: int = 1, gpus: int = 0, **fields: Any) -> wire.Claim:
    resources = Resources(slots=slots, gpus=gpus)
    w.tell(on.Delivered(ti, task(ti, resources=resources, **fields)))
    (claim,) = w.sent(wire.Claim)
    return claim


def start(w: World, ti: int, slots: int = 1, gpus: int = 0, **fields: Any) -> tuple[str, ...]:
    """The devices it was started with."""
    deliver(w, ti, slots, gpus, **fields)
    w.grant(ti, 10 + ti)
    (started,) = w.effects(do.Start)
    return started.gpus


# -- slots -----------------------------------------------------------------------------------------


def test_a_claim_states_the_slots_that_tasks_have_left() -> None:
    w = world(slots=4)
    start(w, 1, slots=3)
    assert deliver(w, 2).free_slots == 1
    assert deliver(w, 3).free_slots == 0, "one is asked for already"


def test_a_grant_for_more_slots_than_are_free_is_given_back() -> None:
    w = world(slots=4)
    start(w, 1, slots=2)
    deliver(w, 2, slots=3)
    w.grant(2, 12)
    assert not w.effects(do.Start)
    (release,) = w.sent(wire.Release)
    assert (release.reason, release.fault) == ("only 2 slots are free", False)


def test_the_slots_of_a_task_are_free_again_when_it_has_ended() -> None:
    w = world(slots=4)
    start(w, 1, slots=4)
    w.exit(11)
    assert w.core.work.busy == 0
    assert start(w, 2, slots=4) == ()


# -- devices ---------------------------------------------------------------------------------------


def test_each_task_gets_a_device_of_its_own_for_as_long_as_it_runs() -> None:
    w = world()
    assert start(w, 1, gpus=1) == ("GPU-a",)
    assert start(w, 2, gpus=1) == ("GPU-b",)
    deliver(w, 3, gpus=1)
    w.grant(3, 13)
    assert w.sent(wire.Release)[0].reason == "of 1 GPUs only 0 are free"
    w.exit(11)
    assert start(w, 4, gpus=1) == ("GPU-a",)


def test_a_task_that_asks_for_none_gets_none() -> None:
    assert start(world(), 1) == ()


def test_a_task_may_have_several_devices() -> None:
    assert start(world(), 1, gpus=2) == ("GPU-a", "GPU-b")


def test_a_shared_device_goes_to_the_task_with_the_fewest_neighbours() -> None:
    w = world(slots=9, share=2)
    given = [start(w, ti, gpus=1) for ti in range(1, 5)]
    assert given == [("GPU-a",), ("GPU-b",), ("GPU-a",), ("GPU-b",)]
    assert w.core.work.free_gpus == 0


def test_a_task_that_outlives_the_session_keeps_its_device() -> None:
    w = world()
    start(w, 1, gpus=1, on_agent_lost="wait")
    start(w, 2, gpus=1)
    w.tell(on.LeaseFired("test"))
    w.tell(on.LinkUp())
    w.tell(on.Fenced(2))
    w.tell(on.Confirmed(w.ref(wire.Hello)))
    assert start(w, 3, gpus=1) == ("GPU-b",)


def test_a_task_that_waits_for_its_bundle_starts_with_the_device_it_was_given() -> None:
    w = world()
    given = start(w, 1, gpus=1)
    w.tell(on.Ready(11))
    (started,) = w.effects(do.Start)
    assert started.gpus == given


def test_hello_states_what_the_node_has_and_heartbeats_what_is_free() -> None:
    w = World(replace(SETTINGS, gpus=TWO, gpu_share=3))
    w.tell(on.LinkUp())
    w.tell(on.Fenced(1))
    (hello,) = w.sent(wire.Hello)
    assert (hello.gpus, hello.gpu_share) == (("GPU-a: A100", "GPU-b: A100"), 3)
    w.tell(on.Confirmed(w.ref(wire.Hello)))
    start(w, 1, gpus=1)
    w.tick(after=6.0)
    assert w.sent(wire.Heartbeat)[0].free_gpus == 2


# -- another agent on the same node ----------------------------------------------------------------


def taken(w: World, token: int, *gpus: str) -> None:
    w.tell(on.ProcessEnded(token, 1.0, 1.0, error="in use", gpus_taken=gpus))


def test_a_task_whose_device_another_agent_uses_is_given_back_without_a_fault() -> None:
    w = world()
    start(w, 1, gpus=1)
    taken(w, 11, "GPU-a")
    (release,) = w.sent(wire.Release)
    assert (release.reason, release.fault) == ("in use", False)
    assert w.sent(wire.Heartbeat)[0].free_gpus == 1, "the dispatcher counts on it no more"
    assert start(w, 2, gpus=1) == ("GPU-b",)
    assert deliver(w, 3, gpus=1).free_gpus == 0


def test_a_device_that_another_agent_uses_is_looked_at_until_it_is_free() -> None:
    w = world()
    start(w, 1, gpus=1)
    taken(w, 11, "GPU-a")
    w.tick(after=6.0)
    assert w.effects(do.ProbeGpus) == [do.ProbeGpus(("GPU-a",))]
    w.tell(on.GpusFree(("GPU-a",)))
    assert w.sent(wire.Heartbeat)[0].free_gpus == 2
    w.tick(after=6.0)
    assert w.effects(do.ProbeGpus) == []
    assert start(w, 2, gpus=1) == ("GPU-a",)


# -- offers ----------------------------------------------------------------------------------------


def test_an_offered_task_is_claimed_and_run_like_any_other() -> None:
    w = world()
    w.reply(wire.Offer(session=1, task=task(1)))
    (claim,) = w.sent(wire.Claim)
    assert claim.task_instance_id == 1
    w.grant(1, 11)
    assert w.effects(do.Start)
    assert not w.effects(do.Ack)


def test_an_offer_of_what_is_at_hand_already_changes_nothing() -> None:
    w = world()
    start(w, 1)
    w.reply(wire.Offer(session=1, task=task(1)))
    assert not w.sent(wire.Claim)
    assert list(w.core.work.running) == [11]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_devices_are_chosen_in_their_order(count: int) -> None:
    devices = Devices(TWO, 1)
    assert devices.choose(count, []) == ("GPU-a", "GPU-b")[:count]
    assert devices.choose(3, []) is None
