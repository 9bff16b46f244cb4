"""One reign: from the election to the first doubt.

A reign owns one link, one epoch and one core. Whatever goes wrong (the link closes, a commit's
outcome is unknown, another dispatcher leads) ends it with an exception; the link is closed, so that
the broker returns what was not acked, in order, and the next reign rebuilds everything from the
database. There is no other recovery.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Sequence

from dispatcher.core.core import Core, Effects, Instant
from dispatcher.core.records import DagRow, TouchLeader
from dispatcher.election import Inbox
from dispatcher.flusher import Flusher
from dispatcher.publisher import Publisher
from dispatcher.shipping import Shipping
from flow import topology, wire
from flow.errors import MessageError
from flow.parking import Parking
from flow.senders import Senders
from flow.transport.port import Delivery, Link

log = logging.getLogger("flow.dispatcher")

#: How often it is written down, for listings, that the dispatcher is there and when agents were
#: last heard, in seconds.
TOUCH_INTERVAL = 5.0
#: A message that ended this many reigns with an error is parked instead of tried again.
MAX_OFFENCES = 2
#: What is not an agent's, and the one key that it comes under.
_OWN_KEYS: dict[type[wire.Message], str] = {
    wire.Wake: topology.WAKE_KEY,
    wire.Probe: topology.PROBE_KEY,
    wire.Marker: topology.MARKER_KEY,
}


class Reign:
    """Feeds the core from inbox, clock, commands and broker, and hands its effects on."""

    def __init__(
        self,
        core: Core,
        flusher: Flusher,
        publisher: Publisher,
        clock: Callable[[], Instant],
        parking: Parking,
        offences: Counter[str],
        *,
        shipping: Shipping,
        senders: Senders,
    ) -> None:
        self.core = core
        self._flusher = flusher
        self._publisher = publisher
        self._clock = clock
        self._parking = parking
        self._offences = offences
        self.shipping = shipping
        self._senders = senders
        self._rescheduled = asyncio.Event()
        self.intents_wanted = asyncio.Event()

    def add(self, effects: Effects, delivery: Delivery | None = None) -> None:
        """Hand effects on, and look at the timers again."""
        self._flusher.add(effects, delivery)
        self._rescheduled.set()

    def dags_changed(self, rows: Sequence[DagRow]) -> None:
        """DAG versions that were just recorded: they may be due."""
        self.core.dags_changed(rows)
        self._rescheduled.set()

    async def intake(self, inbox: Inbox) -> None:
        """Read the events queue, in order."""
        while True:
            self._take(await inbox.get())

    async def timers(self) -> None:
        """Call the core when something is due, never otherwise."""
        while True:
            self._rescheduled.clear()
            wakeup = self.core.next_wakeup()
            delay = None if wakeup is None else max(0.0, wakeup - self._clock().mono)
            try:
                async with asyncio.timeout(delay):
                    await self._rescheduled.wait()
            except TimeoutError:
                self.add(self.core.tick(self._clock()))

    async def touching(self) -> None:
        """Write down now and then that this reign lasts, and when agents were last heard."""
        while True:
            await asyncio.sleep(TOUCH_INTERVAL)
            effects = self.core.touch()
            effects.writes.append(TouchLeader(at=self._clock().wall))
            self.add(effects)

    async def reconciling(self, link: Link, interval: float) -> None:
        """Compare rows that wait with what the broker holds."""
        while True:
            await asyncio.sleep(interval)
            for queue in self.core.waiting_queues():
                ready = await link.ready_count(topology.task_queue(queue).name)
                if ready is None:
                    await self._publisher.declare_again(queue)
                self.add(self.core.queue_observed(queue, ready or 0))

    def _take(self, delivery: Delivery) -> None:
        try:
            message = self._read(delivery)
            if self._offences and self._offences[_digest(delivery)] >= MAX_OFFENCES:
                raise MessageError(f"it ended {MAX_OFFENCES} reigns with an error (see the log)")
        except MessageError as error:
            self._unreadable(delivery, error)
            return
        if isinstance(message, wire.Wake):
            self.intents_wanted.set()
        elif isinstance(message, wire.PiecesWanted):
            self.shipping.ask(message)
        elif isinstance(message, wire.Hello):
            self._publisher.want(message.queues)
        try:
            effects = self.core.receive(message, self._clock())
        except Exception:
            self._offences[_digest(delivery)] += 1
            raise
        self.add(effects, delivery)

    def _unreadable(self, delivery: Delivery, error: MessageError) -> None:
        """Set it aside, unless it is an agent's of a newer version, which says all that it says
        again once this dispatcher can read it."""
        sender = wire.sender(delivery.body) if isinstance(error, wire.NewerVersion) else None
        effects = Effects()
        try:
            if sender is None:
                raise error
            key, user = delivery.routing_key, delivery.user_id
            self._senders.check_agent(sender.agent, key=key, user=user)
            effects = self.core.receive_newer(sender, self._clock())
        except MessageError as reason:
            self._parking.park(delivery.body, key=delivery.routing_key, reason=str(reason))
        self.add(effects, delivery)

    def _read(self, delivery: Delivery) -> wire.Message:
        """The message, if its key says the sender that it claims: broker rights are per key."""
        message = wire.decode(delivery.body)
        key, user = delivery.routing_key, delivery.user_id
        if isinstance(message, wire.Event):
            expected = topology.event_key(message.agent, message.kind)
            what = f"message {message.kind!r} of agent {message.agent!r}"
        elif type(message) in _OWN_KEYS:
            expected = _OWN_KEYS[type(message)]
            what = f"message {type(message).__name__!r}"
        else:
            raise MessageError(f"message {type(message).__name__!r} does not belong to the events")
        if key != expected:
            raise MessageError(f"{what}: expected the routing key {expected!r}, got {key!r}")
        if isinstance(message, wire.Event):
            self._senders.check_agent(message.agent, key=key, user=user)
        elif isinstance(message, wire.Marker) and message.reign == self.core.state.reign:
            # One that an agent had forged would prove a silence that was none. Those of other
            # reigns mean nothing to this one, whoever sent them.
            self._senders.check_own(user)
        return message


def _digest(delivery: Delivery) -> str:
    return hashlib.sha256(delivery.body).hexdigest()
