"""From effects to deeds: one transaction for all that is pending, then acks, replies, publications.

A flush starts at once when none is under way; what turns up meanwhile goes into the next one. So an
idle system commits without delay and a busy one in batches, with no timer in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from dispatcher.core.records import Write
from dispatcher.core.state import Effects
from flow.transport.port import Delivery

Commit = Callable[[Sequence[Write]], Awaitable[None]]


class Flusher:
    """Carries out effects in the order in which they were added."""

    def __init__(self, commit: Commit, carry_out: Callable[[Effects], None]) -> None:
        self._commit = commit
        self._carry_out = carry_out
        self._effects = Effects()
        self._delivery: Delivery | None = None
        self._pending = asyncio.Event()

    def add(self, effects: Effects, delivery: Delivery | None = None) -> None:
        """Take *effects*, and the delivery that caused them, to be acked once they are committed.

        Deliveries come in the order of their queue: acking the last acks those before it.
        """
        self._effects.absorb(effects)
        self._delivery = delivery or self._delivery
        self._pending.set()

    async def run(self) -> None:
        """Flush until cancelled. Whatever the commit raises ends the reign: the outcome of the
        transaction is then unknown, and memory is ahead of the database."""
        while True:
            await self._pending.wait()
            self._pending.clear()
            effects, self._effects = self._effects, Effects()
            delivery, self._delivery = self._delivery, None
            if effects.writes:
                await self._commit(effects.writes)
            if delivery is not None:
                delivery.ack(multiple=True)
            self._carry_out(effects)
