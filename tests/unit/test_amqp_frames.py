"""The frames that flow writes and reads itself, compared with another implementation's (pamqp)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pamqp.frame
import pytest
from aiormq import spec
from pamqp.body import ContentBody
from pamqp.header import ContentHeader
from pamqp.heartbeat import Heartbeat

from flow.transport.amqp import frames
from flow.transport.amqp.holding import Holding
from flow.transport.amqp.tap import Tap, TappedReader
from flow.transport.port import Publication


def decoded(stream: bytes) -> list[object]:
    found: list[object] = []
    while stream:
        size, channel, frame = pamqp.frame.unmarshal(stream)
        assert channel == 7
        found.append(frame)
        stream = stream[size:]
    return found


@pytest.mark.parametrize("mandatory", [True, False])
@pytest.mark.parametrize("expiration", [None, 2.5])
@pytest.mark.parametrize("user", [None, "flow"])
@pytest.mark.parametrize("headers", [{}, {"why": "x", "count": 3}])
def test_a_publish_is_what_others_understand(
    mandatory: bool, expiration: float | None, user: str | None, headers: Mapping[str, str | int]
) -> None:
    publication = Publication("flow.tasks", "gpü", b"{}", mandatory, expiration, headers)
    stream = frames.publish(7, publication, message_id="12", user_id=user, frame_max=4096)
    method, header, body = decoded(stream)
    assert isinstance(method, spec.Basic.Publish)
    assert (method.exchange, method.routing_key) == ("flow.tasks", "gpü")
    assert (method.mandatory, method.immediate) == (mandatory, False)
    assert isinstance(header, ContentHeader)
    assert header.body_size == 2
    said = header.properties
    assert (said.content_type, said.delivery_mode) == ("application/json", 2)
    assert (said.message_id, said.user_id) == ("12", user)
    assert said.expiration == (None if expiration is None else "2500")
    assert (said.headers or {}) == headers
    assert isinstance(body, ContentBody)
    assert body.value == b"{}"


@pytest.mark.parametrize(("size", "pieces"), [(0, 0), (1, 1), (4088, 1), (4089, 2), (9000, 3)])
def test_a_body_is_cut_to_the_brokers_largest_frame(size: int, pieces: int) -> None:
    publication = Publication("x", "k", bytes(range(256)) * 40)
    publication = Publication("x", "k", publication.body[:size])
    stream = frames.publish(7, publication, message_id="1", user_id=None, frame_max=4096)
    _, header, *bodies = decoded(stream)
    assert isinstance(header, ContentHeader)
    assert header.body_size == size
    assert len(bodies) == pieces
    assert all(isinstance(each, ContentBody) and len(each.value) <= 4088 for each in bodies)
    assert b"".join(each.value for each in bodies if isinstance(each, ContentBody)) == (
        publication.body
    )


@pytest.mark.parametrize("multiple", [True, False])
def test_acks_are_what_others_understand(multiple: bool) -> None:
    [ack] = decoded(frames.ack(7, 2**40, multiple=multiple))
    assert isinstance(ack, spec.Basic.Ack)
    assert (ack.delivery_tag, ack.multiple) == (2**40, multiple)
    payload = pamqp.frame.marshal(spec.Basic.Nack(5, multiple), 1)[7:-1]
    assert payload.startswith(frames.NACK)
    assert frames.confirmed(payload) == (5, multiple)


def test_a_delivery_is_read_as_it_was_meant() -> None:
    method = spec.Basic.Deliver("tag", 77, True, "flow.events", "node1.claim")
    payload = pamqp.frame.marshal(method, 1)[7:-1]
    assert payload.startswith(frames.DELIVER)
    assert frames.delivered(payload) == (77, True, "node1.claim")


PROPERTIES: dict[str, Any] = {
    "content_type": "text/plain",
    "content_encoding": "utf-8",
    "headers": {"a": "b"},
    "delivery_mode": 1,
    "priority": 3,
    "correlation_id": "c",
    "reply_to": "r",
    "expiration": "10",
    "message_type": "t",
    "app_id": "app",
}


@pytest.mark.parametrize("left_out", [None, *PROPERTIES])
def test_a_messages_properties_are_found_among_any_others(left_out: str | None) -> None:
    others = {name: value for name, value in PROPERTIES.items() if name != left_out}
    said = spec.Basic.Properties(message_id="9", user_id="gpu1", **others)
    header = pamqp.frame.marshal(ContentHeader(0, 12, said), 1)[7:-1]
    assert frames.properties(header) == ("9", "gpu1")
    assert frames.headers(header) == others.get("headers", {})
    assert frames.body_size(header) == 12
    bare = pamqp.frame.marshal(ContentHeader(0, 0, spec.Basic.Properties(**others)), 1)[7:-1]
    assert frames.properties(bare) == (None, None)


# -- the tap -------------------------------------------------------------------------------------

DELIVER = pamqp.frame.marshal(spec.Basic.Deliver("tag", 1, False, "x", "k"), 3)
CONTENT = pamqp.frame.marshal(ContentHeader(0, 5, spec.Basic.Properties()), 3)
PARTS = [pamqp.frame.marshal(ContentBody(part), 3) for part in (b"he", b"llo")]
EMPTY = DELIVER + pamqp.frame.marshal(ContentHeader(0, 0, spec.Basic.Properties()), 3)
MESSAGE = DELIVER + CONTENT + b"".join(PARTS)
CONFIRM = pamqp.frame.marshal(spec.Basic.Ack(4), 3)
ELSEWHERE = pamqp.frame.marshal(spec.Basic.Ack(4), 4)
BLOCKED = pamqp.frame.marshal(spec.Connection.Blocked("low on memory"), 0)
CLOSE = pamqp.frame.marshal(spec.Channel.Close(404, "gone", 0, 0), 3)
BEAT = pamqp.frame.marshal(Heartbeat(), 0)


class Recorder(Tap):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[bytes] = []

    def begins_content(self, name: bytes) -> bool:
        return name == frames.DELIVER

    def method(self, name: bytes, _payload: bytes, /) -> bool:
        self.seen.append(name)
        return name == frames.ACK

    def content(self, _method: bytes, _header: bytes, body: bytes, /) -> None:
        self.seen.append(body)


async def tapped(stream: bytes, size: int) -> tuple[list[bytes], bytes, list[float | None]]:
    """What the tap of channel 3 saw, what went on, and what was told of the broker's alarms."""
    told: list[float | None] = []
    reader, recorder = TappedReader(Holding(told.append)), Recorder()
    reader.tap(3, recorder)
    for at in range(0, len(stream), size):
        reader.feed_data(stream[at : at + size])
    reader.feed_eof()
    return recorder.seen, await reader.read(), told


@pytest.mark.parametrize("size", [1, 2, 7, 8, 9, 31, 10_000])
async def test_what_comes_in_any_pieces_is_taken_or_goes_on(size: int) -> None:
    stream = BLOCKED + MESSAGE + ELSEWHERE + CONFIRM + EMPTY + CLOSE + MESSAGE
    seen, passed, told = await tapped(stream, size)
    assert seen == [b"hello", frames.ACK, b"", frames.CLOSE, b"hello"]
    assert passed.replace(BEAT, b"") == BLOCKED + ELSEWHERE + CLOSE
    assert told == [0.0]


async def test_what_comes_unseen_by_aiormq_is_a_sign_of_life_to_it() -> None:
    _, passed, told = await tapped(MESSAGE, len(MESSAGE))
    assert passed == BEAT
    assert told == []


async def test_signs_of_life_prove_no_alarm() -> None:
    told: list[float | None] = []
    holding = Holding(told.append)
    holding.timeout = 10
    reader = TappedReader(holding)
    reader.tap(3, Recorder())
    reader.feed_data(BLOCKED)
    for _ in range(3):
        reader._shown = -1.0  # long ago
        reader.feed_data(MESSAGE)
    assert told == [0.0]
    await asyncio.sleep(0)


async def test_half_a_frame_at_the_end_and_another_protocol_go_on_as_they_are() -> None:
    seen, passed, _ = await tapped(MESSAGE + DELIVER[:9], 1000)
    assert seen == [b"hello"]
    assert passed.endswith(DELIVER[:9])
    reader = TappedReader(Holding(lambda _: None))
    reader.feed_data(b"AMQP\0\0\x09\x01")
    reader.feed_eof()
    assert await reader.read() == b"AMQP\0\0\x09\x01"
