"""Messages per second through one durable quorum queue: published and confirmed, then consumed and
acked, by flow's AMQP library with confirms and acks in flight."""

from __future__ import annotations

import asyncio
import json
import sys
import time

import aiormq
from aiormq.abc import DeliveredMessage

COUNT = 3000
WINDOW = 500
BODY = b"x" * 300


async def publish(channel: aiormq.abc.AbstractChannel) -> float:
    """Confirmed publishes per second, *WINDOW* unconfirmed at a time."""
    gate, begun = asyncio.Semaphore(WINDOW), time.perf_counter()
    persistent = aiormq.spec.Basic.Properties(delivery_mode=2)

    async def one() -> None:
        async with gate:
            await channel.basic_publish(BODY, routing_key="messages", properties=persistent)

    await asyncio.gather(*(one() for _ in range(COUNT)))
    return COUNT / (time.perf_counter() - begun)


async def consume(channel: aiormq.abc.AbstractChannel) -> float:
    """Consumed messages per second, each acked."""
    done, left, begun = asyncio.Event(), COUNT, time.perf_counter()

    async def take(message: DeliveredMessage) -> None:
        nonlocal left
        left -= 1
        await channel.basic_ack(message.delivery_tag or 0, wait=False)
        if left == 0:
            done.set()

    await channel.basic_qos(prefetch_count=200)
    await channel.basic_consume("messages", take)
    await done.wait()
    return COUNT / (time.perf_counter() - begun)


async def main(broker: str, _: str) -> None:
    """First one, then the other."""
    connection = await aiormq.connect(broker)
    channel = await connection.channel()
    await channel.queue_declare("messages", durable=True, arguments={"x-queue-type": "quorum"})
    rates = {"published_per_s": await publish(channel), "consumed_per_s": await consume(channel)}
    await connection.close()
    print(json.dumps(rates))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
