"""What a reign reads: messages in order, strangers parked, a poisonous one not for ever."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from dispatcher.core.core import Core
from dispatcher.core.records import SaveAgent, Snapshot, Write
from dispatcher.core.state import Effects, Instant, Rules
from dispatcher.election import Inbox
from dispatcher.flusher import Flusher
from dispatcher.reign import MAX_OFFENCES, Reign
from flow import topology, wire
from flow.parking import Parking
from flow.transport.port import Delivery
from tests.unit.core_world import START
from tests.unit.test_flusher import FakeDelivery
from tests.waiting import eventually

HELLO = wire.Hello(
    agent="node1",
    session=1,
    home_id="home",
    boot_id="boot",
    uptime=1.0,
    incarnation="process",
    queues=("q1",),
    slots=1,
    lease=60.0,
)


class FakePublisher:
    async def declare_again(self, queue: str) -> None:
        raise AssertionError(queue)


class FakeShipping:
    def __init__(self) -> None:
        self.asked: list[wire.PiecesWanted] = []

    def ask(self, message: wire.PiecesWanted) -> None:
        self.asked.append(message)


class Court:
    """A reign with a database that only remembers."""

    def __init__(self, folder: Path, offences: Counter[str] | None = None) -> None:
        self.writes: list[Write] = []
        self.acks: list[str] = []
        self.parked = folder
        self.offences: Counter[str] = Counter() if offences is None else offences
        now = Instant(START, 0.0)
        self.core = Core(Snapshot(), reign=1, rules=Rules(), now=now)
        self.flusher = Flusher(self.commit, lambda _: None)
        self.shipping = FakeShipping()
        self.reign = Reign(
            self.core,
            self.flusher,
            FakePublisher(),  # type: ignore[arg-type]  # all that is used of it
            lambda: now,
            Parking(folder),
            self.offences,
            shipping=self.shipping,  # type: ignore[arg-type]  # all that is used of it
        )
        self.inbox = Inbox()

    async def commit(self, writes: Sequence[Write]) -> None:
        self.writes += writes

    def deliver(self, key: str, body: bytes) -> None:
        delivery: Delivery = _Delivery(key, body, self.acks)
        self.inbox.put(delivery)

    def reasons(self) -> list[str]:
        return [json.loads(p.read_text())["reason"] for p in sorted(self.parked.glob("*.json"))]

    async def read_all(self, count: int) -> None:
        tasks = [asyncio.ensure_future(self.reign.intake(self.inbox))]
        tasks.append(asyncio.ensure_future(self.flusher.run()))
        await eventually(lambda: len(self.acks) >= count or any(task.done() for task in tasks))
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result


class _Delivery(FakeDelivery):
    def __init__(self, key: str, body: bytes, acks: list[str]) -> None:
        super().__init__(key, acks)
        self.body = body


async def test_an_event_under_the_key_of_another_agent_is_parked(tmp_path: Path) -> None:
    court = Court(tmp_path)
    court.deliver("node2.hello", wire.encode(HELLO))
    await court.read_all(1)
    (reason,) = court.reasons()
    assert reason == (
        "message 'hello' of agent 'node1': expected the routing key 'node1.hello', "
        "got 'node2.hello'"
    )
    assert court.writes == []


async def test_a_message_of_another_exchange_is_parked(tmp_path: Path) -> None:
    court = Court(tmp_path)
    court.deliver("node1.deny", wire.encode(wire.HelloWanted(session=1)))
    await court.read_all(1)
    assert court.reasons() == ["message 'HelloWanted' does not belong to the events"]


async def test_good_messages_behind_a_bad_one_are_read(tmp_path: Path) -> None:
    court = Court(tmp_path)
    court.deliver("x", b"garbage")
    court.deliver("node1.hello", wire.encode(HELLO))
    await court.read_all(1)
    assert [type(write) for write in court.writes] == [SaveAgent]
    assert len(court.reasons()) == 1


async def test_a_wake_up_asks_for_intents(tmp_path: Path) -> None:
    court = Court(tmp_path)
    court.deliver(topology.WAKE_KEY, wire.encode(wire.Wake()))
    await court.read_all(1)
    assert court.reign.intents_wanted.is_set()


async def test_a_message_that_breaks_the_core_ends_two_reigns_and_is_then_parked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_core: Core, message: wire.Message, _now: Instant) -> Effects:
        if isinstance(message, wire.Hello):
            raise KeyError("a bug")
        return Effects()

    monkeypatch.setattr(Core, "receive", broken)
    offences: Counter[str] = Counter()
    for _ in range(MAX_OFFENCES):
        court = Court(tmp_path, offences)
        court.deliver("node1.hello", wire.encode(HELLO))
        with pytest.raises(KeyError):
            await court.read_all(1)
        assert court.acks == []
    court = Court(tmp_path, offences)
    court.deliver("node1.hello", wire.encode(HELLO))
    await court.read_all(1)
    assert court.reasons() == ["it ended 2 reigns with an error (see the log)"]


async def test_what_an_agent_wants_of_a_bundle_is_handed_to_shipping(tmp_path: Path) -> None:
    court = Court(tmp_path)
    wanted = wire.PiecesWanted(
        agent="node1", session=1, bundle="a" * 64, pieces=(wire.PieceName("b" * 64, 0),)
    )
    court.deliver("node1.hello", wire.encode(HELLO))
    court.deliver("node1.pieces_wanted", wire.encode(wanted))
    await court.read_all(1)
    assert court.shipping.asked == [wanted]


async def test_timers_end_when_they_are_cancelled_at_the_moment_of_a_change(tmp_path: Path) -> None:
    # asyncio.wait_for of Python 3.11 loses this cancellation; then the reign never ends, and no
    # other dispatcher may begin one.
    court = Court(tmp_path)
    court.core.receive(HELLO, Instant(START, 0.0))  # its lease is a timer
    timers = asyncio.ensure_future(court.reign.timers())
    for _ in range(5):
        await asyncio.sleep(0)  # it waits
    court.reign.add(Effects())
    timers.cancel()
    await asyncio.wait({timers}, timeout=5)
    assert timers.cancelled()
