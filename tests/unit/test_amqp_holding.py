"""What an AMQP connection's bytes say of the broker's alarms."""

from __future__ import annotations

import pamqp.frame
import pytest
from aiormq import spec
from pamqp.body import ContentBody
from pamqp.heartbeat import Heartbeat

from flow.transport.amqp.holding import Holding

BLOCKED = pamqp.frame.marshal(spec.Connection.Blocked("low on memory"), 0)
UNBLOCKED = pamqp.frame.marshal(spec.Connection.Unblocked(), 0)
BEAT = pamqp.frame.marshal(Heartbeat(), 0)
CONFIRM = pamqp.frame.marshal(spec.Basic.Ack(7, True), 1)


def holding() -> tuple[Holding, list[float | None]]:
    told: list[float | None] = []
    made = Holding(told.append)
    made.timeout = 10
    return made, told


def test_each_heartbeat_but_the_first_proves_half_of_its_time_less_one_percent() -> None:
    watched, told = holding()
    watched.feed(BLOCKED + BEAT * 4)
    assert told == pytest.approx([0.0, 4.95, 9.9, 14.85])
    assert watched.held
    assert watched.reason == "low on memory"


def test_heartbeats_outside_of_an_alarm_prove_nothing() -> None:
    watched, told = holding()
    watched.feed(BEAT * 3 + BLOCKED + UNBLOCKED + BEAT * 3)
    assert told == [0.0, None]
    assert not watched.held


def test_a_second_alarm_begins_anew() -> None:
    watched, told = holding()
    watched.feed(BLOCKED + BEAT * 3 + UNBLOCKED + BLOCKED + BEAT * 2)
    assert told == pytest.approx([0.0, 4.95, 9.9, None, 0.0, 4.95])


def test_being_told_twice_that_it_is_blocked_is_one_alarm() -> None:
    watched, told = holding()
    watched.feed(BLOCKED + BEAT * 2 + BLOCKED + BEAT)
    assert told == pytest.approx([0.0, 4.95, 9.9])


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 50])
def test_frames_may_arrive_in_any_pieces(size: int) -> None:
    watched, told = holding()
    stream = CONFIRM + BLOCKED + CONFIRM + BEAT + BEAT + CONFIRM + UNBLOCKED + BEAT
    for at in range(0, len(stream), size):
        watched.feed(stream[at : at + size])
    assert told == pytest.approx([0.0, 4.95, None])


def test_what_looks_like_a_frame_inside_of_another_is_none() -> None:
    body = pamqp.frame.marshal(ContentBody(BLOCKED + BEAT), 1)
    watched, told = holding()
    watched.feed(body)
    assert told == []


def test_a_channel_that_says_the_same_is_not_the_connection() -> None:
    watched, told = holding()
    watched.feed(pamqp.frame.marshal(spec.Connection.Blocked(""), 1))
    assert told == []


def test_an_odd_heartbeat_time_is_halved_as_the_broker_does_it() -> None:
    watched, told = holding()
    watched.timeout = 3
    watched.feed(BLOCKED + BEAT * 2)
    assert told == pytest.approx([0.0, 0.99 * 1.5])
