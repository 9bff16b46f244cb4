"""Who leads: the dispatcher to which RabbitMQ delivers from the events queue.

``flow.events`` has a single active consumer. Every dispatcher subscribes, and a delivery is the
election; each publishes a probe now and then so that there is something to deliver. RabbitMQ
chooses, Postgres fences (:meth:`dispatcher.store.Store.begin_reign`).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque

from flow import topology, wire
from flow.errors import TransportError
from flow.transport.port import Delivery, Link, Outlet, Publication

log = logging.getLogger("flow.dispatcher")

#: Events in flight between commit and commit. RabbitMQ's advice is 100 to 300 (confirms guide);
#: above that only memory grows.
PREFETCH = 300
PROBE_INTERVAL = 2.0


class Inbox:
    """Deliveries in order, with a way to wait for the first without taking it."""

    def __init__(self) -> None:
        self._deliveries: deque[Delivery] = deque()
        self._filled = asyncio.Event()

    def put(self, delivery: Delivery) -> None:
        """What a consumer calls."""
        self._deliveries.append(delivery)
        self._filled.set()

    async def wait(self) -> None:
        """Return as soon as there is a delivery."""
        await self._filled.wait()

    async def get(self) -> Delivery:
        """Take the next delivery."""
        await self._filled.wait()
        delivery = self._deliveries.popleft()
        if not self._deliveries:
            self._filled.clear()
        return delivery


async def elected(link: Link, outlet: Outlet, dispatcher: str) -> Inbox:
    """Subscribe to the events, and return once this dispatcher is the one they are delivered to.

    Raises :class:`~flow.errors.TransportError` when the link closes first.
    """
    await link.declare(topology.event_queue())
    await link.declare(topology.log_queue())
    inbox = Inbox()
    await link.consume(topology.EVENTS, inbox.put, prefetch=PREFETCH)
    probing = asyncio.ensure_future(_probe(outlet, dispatcher))
    closing = asyncio.ensure_future(link.wait_closed())
    filling = asyncio.ensure_future(inbox.wait())
    try:
        await asyncio.wait({probing, closing, filling}, return_when=asyncio.FIRST_COMPLETED)
        if filling.done():
            return inbox
        if closing.done():
            raise TransportError(closing.result())
        probing.result()
        raise TransportError("probing the events queue ended")
    finally:
        for waiting in (probing, closing, filling):
            waiting.cancel()
        await asyncio.gather(probing, closing, filling, return_exceptions=True)


async def _probe(outlet: Outlet, dispatcher: str) -> None:
    body = wire.encode(wire.Probe(dispatcher=dispatcher))
    probe = Publication(topology.EVENTS, topology.PROBE_KEY, body, expiration=2 * PROBE_INTERVAL)
    waited = False
    while True:
        await outlet.publish(probe)
        await asyncio.sleep(PROBE_INTERVAL)
        if not waited:
            log.info("standing by: another dispatcher leads")
            waited = True
