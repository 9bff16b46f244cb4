"""What a reign reads: messages in order, strangers parked, a poisonous one not for ever."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterable, Sequence
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
from flow.senders import Senders
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
    def __init__(self) -> None:
        self.wanted: list[str] = []

    def want(self, queues: Iterable[str]) -> None:
        self.wanted += queues

    async def declare_again(self, queue: str) -> None:
        raise AssertionError(queue)


class FakeShipping:
    def __init__(self) -> None:
        self.asked: list[wire.PiecesWanted] = []

    def ask(self, message: wire.PiecesWanted) -> None:
        self.asked.append(message)


class Court:
    """A reign with a database that only remembers."""

    def __init__(
        self, folder: Path, offences: Counter[str] | None = None, *, verify_users: bool = False
    ) -> None:
        self.writes: list[Write] = []
        self.acks: list[str] = []
        self.parked = folder
        self.offences: Counter[str] = Counter() if offences is None else offences
        now = Instant(START, 0.0)
        self.core = Core(Snapshot(), reign=1, rules=Rules(), now=now)
        self.flusher = Flusher(self.commit, lambda _: None)
        self.shipping = FakeShipping()
        self.publisher = FakePublisher()
        self.reign = Reign(
            self.core,
            self.flusher,
            self.publisher,  # type: ignore[arg-type]  # all that is used of it
            lambda: now,
            Parking(folder),
            self.offences,
            shipping=self.shipping,  # type: ignore[arg-type]  # all that is used of it
            senders=Senders(verify_users, "boss"),
        )
        self.inbox = Inbox()

    async def commit(self, writes: Sequence[Write]) -> None:
        self.writes += writes

    def deliver(self, key: str, body: bytes, user: str | None = None) -> None:
        delivery: Delivery = _Delivery(key, body, self.acks, user)
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
    def __init__(self, key: str, body: bytes, acks: list[str], user: str | None) -> None:
        super().__init__(key, acks)
        self.body = body
        self.user_id = user


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


@pytest.mark.parametrize("user", [None, "node2", "guest"])
async def test_an_event_of_another_user_is_parked_where_users_are_verified(
    tmp_path: Path, user: str | None
) -> None:
    court = Court(tmp_path, verify_users=True)
    court.deliver("node1.hello", wire.encode(HELLO), user)
    await court.read_all(1)
    assert court.reasons() == [
        f"message of agent 'node1': expected the broker user 'node1', got {user!r}"
    ]
    assert court.writes == []
    assert court.publisher.wanted == []


async def test_an_event_of_the_agents_own_user_is_taken_where_users_are_verified(
    tmp_path: Path,
) -> None:
    court = Court(tmp_path, verify_users=True)
    court.deliver("node1.hello", wire.encode(HELLO), "node1")
    await court.read_all(1)
    assert court.reasons() == []
    assert [type(write) for write in court.writes] == [SaveAgent]


async def test_the_queues_of_an_agent_are_made_for_it(tmp_path: Path) -> None:
    court = Court(tmp_path)
    court.deliver("node1.hello", wire.encode(HELLO))
    await court.read_all(1)
    assert court.publisher.wanted == ["q1"]


@pytest.mark.parametrize(
    ("message", "key"),
    [
        (wire.Marker(reign=1, number=1), topology.MARKER_KEY),
        (wire.Probe(dispatcher="d"), topology.PROBE_KEY),
        (wire.Wake(), topology.WAKE_KEY),
    ],
)
async def test_an_agent_cannot_send_what_is_not_an_agents_under_its_own_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, message: wire.Message, key: str
) -> None:
    received: list[wire.Message] = []

    def receive(_core: Core, it: wire.Message, _now: Instant) -> Effects:
        received.append(it)
        return Effects()

    monkeypatch.setattr(Core, "receive", receive)
    court = Court(tmp_path)
    court.deliver("node1.hello", wire.encode(message))
    court.deliver(key, wire.encode(message))
    await court.read_all(1)
    assert court.reasons() == [
        f"message {type(message).__name__!r}: expected the routing key {key!r}, got 'node1.hello'"
    ]
    assert received == [message]


@pytest.mark.parametrize(
    ("reign", "user", "parked"),
    [(1, "boss", 0), (1, "node1", 1), (1, None, 1), (7, "another-boss", 0)],
)
async def test_a_marker_counts_only_from_this_dispatchers_own_user_where_users_are_verified(
    tmp_path: Path, reign: int, user: str | None, parked: int
) -> None:
    court = Court(tmp_path, verify_users=True)
    court.deliver(topology.MARKER_KEY, wire.encode(wire.Marker(reign=reign, number=1)), user)
    await court.read_all(1)
    assert len(court.reasons()) == parked


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


NEWER = json.dumps(
    {"type": "heartbeat", "version": 2, "agent": "node1", "session": 1, "more": "than is known"}
).encode()


async def test_an_agents_event_of_a_newer_version_is_answered_and_not_parked(
    tmp_path: Path,
) -> None:
    court = Court(tmp_path)
    court.deliver("node1.heartbeat", NEWER)
    await court.read_all(1)
    assert court.reasons() == []
    (saved,) = [write.agent for write in court.writes if isinstance(write, SaveAgent)]
    assert saved.suspended.endswith("upgrade the dispatcher")


@pytest.mark.parametrize(
    ("key", "body", "reason"),
    [
        (
            "node2.heartbeat",
            NEWER,
            (
                "message of agent 'node1': expected its name to begin the routing key, "
                "got 'node2.heartbeat'"
            ),
        ),
        (
            "node1.heartbeat",
            b'{"type":"heartbeat","version":2}',
            "message 'heartbeat': expected version 1 or lower, got 2; upgrade the receiver first",
        ),
    ],
)
async def test_one_under_the_key_of_another_agent_or_without_a_sender_is_parked(
    tmp_path: Path, key: str, body: bytes, reason: str
) -> None:
    court = Court(tmp_path)
    court.deliver(key, body)
    await court.read_all(1)
    assert court.reasons() == [reason]
    assert court.writes == []
