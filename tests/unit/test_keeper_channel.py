from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from agent.keeper.channel import Channel

Pair = tuple[Channel, Channel]


@pytest.fixture
def pair() -> Iterator[Pair]:
    one, other = (Channel(end) for end in socket.socketpair())
    yield one, other
    one.close()
    other.close()


def exchange(sender: Channel, receiver: Channel) -> list[tuple[dict[str, Any], int | None]]:
    """Everything that *sender* has queued, as *receiver* gets it."""
    received = []
    while True:
        sender.flush()
        try:
            received += receiver.receive()
        except BlockingIOError:
            if not sender.unsent:
                return received


def pipe_end(content: bytes) -> int:
    reading, writing = os.pipe()
    os.write(writing, content)
    os.close(writing)
    return reading


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_messages_arrive_whole_and_in_order_whatever_their_size(pair: Pair) -> None:
    sizes = [0, 1, 70_000, 3_000_000, 5]
    for size in sizes:
        pair[0].send({"text": "ü" * size})
    received = exchange(*pair)
    assert [len(message["text"]) for message, _ in received] == sizes


def test_each_descriptor_arrives_with_its_own_message(pair: Pair) -> None:
    for number in range(20):
        fd = pipe_end(b"%d" % number) if number % 3 else None
        pair[0].send({"number": number, "filler": "x" * (number * 9_000)}, fd)
    for message, fd in exchange(*pair):
        assert (fd is not None) == bool(message["number"] % 3)
        if fd is not None:
            assert os.read(fd, 10) == b"%d" % message["number"]
            os.close(fd)


def test_a_descriptor_is_closed_once_sent_and_arrives_close_on_exec(pair: Pair) -> None:
    fd = pipe_end(b"")
    pair[0].send({}, fd)
    assert not is_open(fd)
    ((_, received),) = exchange(*pair)
    assert received is not None
    assert not os.get_inheritable(received)
    os.close(received)


def test_sending_never_blocks_and_a_close_closes_what_is_still_queued(pair: Pair) -> None:
    fd = pipe_end(b"")
    pair[0].send({"filler": "x" * 3_000_000})
    pair[0].send({}, fd)
    assert pair[0].unsent
    assert is_open(fd)
    pair[0].close()
    assert not is_open(fd)


def test_the_end_comes_after_the_last_message(pair: Pair) -> None:
    pair[1].send({"never": "read"})
    pair[0].send({"last": 1})
    pair[0].close()
    assert pair[1].receive() == [({"last": 1}, None)]
    with pytest.raises(EOFError):
        pair[1].receive()


def test_sending_to_a_closed_end_drops_the_message_and_its_descriptor(pair: Pair) -> None:
    pair[1].close()
    fd = pipe_end(b"")
    pair[0].send({}, fd)
    assert not pair[0].unsent
    assert not is_open(fd)
