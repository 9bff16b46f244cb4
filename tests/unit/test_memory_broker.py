"""What the broker in memory has beyond the contract of transports."""

from __future__ import annotations

import asyncio

from flow.topology import EVENTS, TASKS, QueueSpec, event_queue, task_queue
from flow.transport.memory import MemoryBroker
from flow.transport.port import Delivery, Link, Publication
from tests.contract.inbox import Inbox

QUEUES = [task_queue("q1"), task_queue("q2")]


async def published(link: Link, *keys: str) -> None:
    outlet = await link.outlet()
    bodies = (b"%d" % number for number in range(1, len(keys) + 1))
    await asyncio.gather(
        *(outlet.publish(Publication(TASKS, *each)) for each in zip(keys, bodies, strict=True))
    )


async def some_turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def serving(broker: MemoryBroker) -> tuple[Link, list[Inbox]]:
    """A link that consumes both queues, two messages of each at a time."""
    link, inboxes = await broker.connect("agents"), [Inbox(), Inbox()]
    for queue, inbox in zip(QUEUES, inboxes, strict=True):
        await link.declare(queue)
        await link.consume(queue.name, inbox, prefetch=2)
    return link, inboxes


async def test_task_queues_share_slots_and_what_has_waited_longest_goes_first() -> None:
    link, inboxes = await serving(MemoryBroker(slots=1))
    await published(link, "q2", "q2", "q1", "q2")
    order: list[bytes] = []
    for _ in range(4):
        await some_turns()
        (held,) = [delivery for inbox in inboxes for delivery in inbox.all]
        order.append(held.body)
        for inbox in inboxes:
            inbox.all.clear()
        held.ack()
    assert order == [b"1", b"2", b"3", b"4"]


async def test_a_link_that_closes_gives_its_slots_back() -> None:
    broker = MemoryBroker(slots=1)
    first, _ = await serving(broker)
    await published(first, "q1", "q2")
    await some_turns()
    await first.close()
    _, inboxes = await serving(broker)
    await some_turns()
    assert [len(inbox.all) for inbox in inboxes] == [1, 0]


async def test_events_need_no_slot() -> None:
    broker = MemoryBroker(slots=1)
    link, _ = await serving(broker)
    await published(link, "q1")
    await link.declare(event_queue())
    inbox = Inbox()
    await link.consume(EVENTS, inbox, prefetch=2)
    outlet = await link.outlet()
    await asyncio.gather(*(outlet.publish(Publication(EVENTS, "a.b", b"")) for _ in range(2)))
    await inbox.take(2)


async def test_each_queue_is_announced_once() -> None:
    announced: list[QueueSpec] = []
    broker = MemoryBroker(on_declare=announced.append)
    link = await broker.connect("dispatcher")
    await link.declare(QUEUES[0])
    assert announced == []
    await link.declare(QUEUES[0])
    await link.declare(QUEUES[1])
    await some_turns()
    assert announced == QUEUES


async def test_a_queue_is_settled_once_its_last_message_is_acknowledged() -> None:
    broker = MemoryBroker()
    await broker.settled("flow.q.q1")
    link = await broker.connect("agent")
    await link.declare(QUEUES[0])
    held: list[Delivery] = []
    await link.consume(QUEUES[0].name, held.append, prefetch=1)
    await published(link, "q1", "q1")
    settled = asyncio.create_task(broker.settled(QUEUES[0].name))
    for _ in range(2):
        await some_turns()
        assert not settled.done()
        held.pop().ack()
    await settled
