"""Every implementation of the transport port, for the contract suite."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from flow.transport.amqp import AmqpBroker
from flow.transport.memory import MemoryBroker
from flow.transport.port import Broker, Link
from tests.contract.inbox import eventually
from tests.sim.port import PortBroker

Connect = Callable[..., Awaitable[Link]]


@pytest.fixture(params=["rabbitmq", "memory", "model"])
def broker(request: pytest.FixtureRequest) -> Broker:
    """An empty broker of this test's own."""
    if request.param == "memory":
        return MemoryBroker()
    if request.param == "model":
        return PortBroker()
    return AmqpBroker(request.getfixturevalue("broker_url"))


@pytest.fixture
async def connect(broker: Broker) -> AsyncIterator[Connect]:
    """``await connect()`` opens a link, which is closed with the test. Nothing may be left then:
    no task, and no failure that went unseen."""
    unseen: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(context))
    links: list[Link] = []

    async def open_link(name: str = "test") -> Link:
        link = await broker.connect(name)
        links.append(link)
        return link

    before = asyncio.all_tasks()
    yield open_link
    for link in links:
        await link.close()

    async def left() -> int:
        return len(asyncio.all_tasks() - before - {asyncio.current_task()})

    await eventually(left, lambda count: count == 0)
    gc.collect()
    assert not unseen
