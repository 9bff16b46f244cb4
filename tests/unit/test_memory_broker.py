"""What the broker in memory has beyond the contract of transports."""

from __future__ import annotations

import asyncio

from flow.topology import TASKS, QueueSpec, task_queue
from flow.transport.memory import MemoryBroker
from flow.transport.port import Delivery, Link, Publication

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
