"""What tests of transports share: a consumer's inbox, and waiting with a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from flow.transport.port import Delivery

T = TypeVar("T")

#: Seconds until a test gives up; generous, since nothing waits that long when all is well.
DEADLINE = 15.0


class Inbox:
    """Collects what a consumer is handed: pass it as ``on_delivery``."""

    def __init__(self) -> None:
        self.all: list[Delivery] = []
        self._taken = 0
        self._arrived = asyncio.Event()

    def __call__(self, delivery: Delivery) -> None:
        self.all.append(delivery)
        self._arrived.set()

    @property
    def waiting(self) -> int:
        """How many deliveries have come and were not taken."""
        return len(self.all) - self._taken

    async def take(self, count: int) -> list[Delivery]:
        """The next *count* deliveries."""
        async with asyncio.timeout(DEADLINE):
            while self.waiting < count:
                self._arrived.clear()
                await self._arrived.wait()
        first, self._taken = self._taken, self._taken + count
        return self.all[first : self._taken]

    async def bodies(self, count: int) -> list[bytes]:
        """The bodies of the next *count* deliveries, which are acknowledged."""
        deliveries = await self.take(count)
        for delivery in deliveries:
            delivery.ack()
        return [delivery.body for delivery in deliveries]


async def eventually(look: Callable[[], Awaitable[T]], wanted: Callable[[T], bool]) -> T:
    """Look again and again until the answer is *wanted*; return it."""
    answer = await look()
    async with asyncio.timeout(DEADLINE):
        while not wanted(answer):
            await asyncio.sleep(0.02)
            answer = await look()
    return answer
