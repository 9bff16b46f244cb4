"""The agent's connection: built by one function, again and again, for as long as it is wanted."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from agent.core import Settings
from agent.core import events as on
from agent.output import LogSender
from flow import topology, wire
from flow.errors import BrokerRefused, MessageError, TransportError, Unroutable
from flow.parking import Parking
from flow.transport.port import Broker, Delivery, Link, Outlet, Publication

log = logging.getLogger(__name__)

FIRST_PAUSE = 0.2
LONGEST_PAUSE = 5.0
#: Seconds until a queue that the broker refuses is asked for again: somebody may have granted it.
REFUSED_PAUSE = 10.0
#: Replies are small and read at once; this only bounds a burst.
CONTROL_PREFETCH = 200


@dataclass(slots=True)
class _Live:
    """What one link has brought; of no use after it."""

    link: Link
    events: Outlet
    deliveries: dict[int, Delivery] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    """Queues that the broker does not let this agent read, and what it said."""


class AgentConnection:
    """Connects, tells *post* what happens and what arrives, publishes in order."""

    def __init__(
        self,
        *,
        broker: Broker,
        settings: Settings,
        logs: LogSender,
        parking: Parking,
        post: Callable[[on.Event], None],
        jitter: Callable[[], float],
        suffix: Callable[[], str],
        on_piece: Callable[[wire.Piece | wire.NoPiece], None],
    ) -> None:
        self._broker = broker
        self._name = settings.name
        self._queues = settings.queues
        self._slots = settings.slots
        self._logs = logs
        self._parking = parking
        self._post = post
        self._jitter = jitter
        self._suffix = suffix
        self._on_piece = on_piece
        self._live: _Live | None = None
        self._handles = itertools.count(1)
        self._again = asyncio.Event()
        self._status = ""

    # -- for as long as it is wanted -----------------------------------------------------------

    async def run(self) -> None:
        """Stay connected until cancelled.

        Raises :class:`~flow.errors.BrokerRefused` when the very first connection is refused: that
        is a mistake in the settings. Later it may be a broker that is being set up anew.
        """
        pause, known = FIRST_PAUSE, False
        while True:
            self._again.clear()
            try:
                link = await self._broker.connect(f"flow-agent {self._name}")
                known = True
                if await self._use(link):
                    pause = FIRST_PAUSE
            except TransportError as error:
                if isinstance(error, BrokerRefused) and not known:
                    raise
                self._show(f"waiting for the broker: {error}")
            if self._again.is_set():
                continue
            await asyncio.sleep(pause * (0.5 + self._jitter()))
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _use(self, link: Link) -> bool:
        """Live with *link* until it closes. Raises TransportError if it cannot be made useful."""
        try:
            self._live = live = await self._build(link)
            link.watch_blocked(partial(self._on_blocked, live))
            self._show(f"connected; serving {', '.join(self._queues)}", logging.INFO)
            self._logs.attach(await link.outlet())
            self._post(on.LinkUp())
            again = asyncio.ensure_future(self._again.wait())
            closed = asyncio.ensure_future(link.wait_closed())
            await asyncio.wait({again, closed}, return_when=asyncio.FIRST_COMPLETED)
            again.cancel()
            closed.cancel()
            if closed.done() and not closed.cancelled():
                self._show(f"{closed.result()}; connecting again")
            return True
        finally:
            self._live = None
            self._logs.detach()
            self._post(on.LinkDown())
            await link.close()

    async def _build(self, link: Link) -> _Live:
        """Everything that a connection of an agent consists of, but its task consumers: those
        wait for the hello."""
        control = topology.control_queue(self._name, self._suffix())
        await link.declare(control)
        for queue in self._queues:
            await self._make(link, queue)
        live = _Live(link, await link.outlet())
        await link.consume(control.name, self._on_control, prefetch=CONTROL_PREFETCH)
        return live

    async def _make(self, link: Link, queue: str) -> None:
        """Declare *queue* if it is missing. An agent with no more rights than it needs may not:
        then a dispatcher does, who reads of it in the hello."""
        spec = topology.task_queue(queue)
        try:
            if await link.ready_count(spec.name) is None:
                await link.declare(spec)
        except BrokerRefused as error:
            log.debug("left to the dispatcher: %s", error)

    def _show(self, status: str, level: int = logging.WARNING) -> None:
        """One line per change, not one per attempt."""
        if status != self._status:
            log.log(level, "%s", status)
            self._status = status

    # -- for the core --------------------------------------------------------------------------

    def publish(self, ref: int, message: wire.Event, expiration: float | None) -> None:
        """Send *message*; Confirmed or Refused follows, unless the link closes first."""
        if self._live is None:
            return  # LinkDown says it
        publication = Publication(
            topology.EVENTS,
            topology.event_key(self._name, message.kind),
            wire.encode(message),
            expiration=expiration,
        )
        future = self._live.events.publish(publication)
        future.add_done_callback(partial(self._published, ref))

    def ack(self, handle: int) -> None:
        """Settle a delivery of this link; harmless for one of an earlier link."""
        delivery = self._live.deliveries.pop(handle, None) if self._live else None
        if delivery is not None:
            delivery.ack()

    async def consume(self) -> None:
        """Begin to receive tasks; from a queue that is missing as soon as somebody has made it,
        from one that the broker refuses as soon as it is granted. The others are served at once."""
        live, queues, slots, pause = self._live, self._queues, self._slots, FIRST_PAUSE
        if live is None:
            return
        try:
            while waiting := [
                queue for queue in queues if not await self._consume_from(live, queue, slots)
            ]:
                self._show(self._lacking(live, waiting))
                only_refused = live.refused.keys() >= set(waiting)
                await asyncio.sleep(REFUSED_PAUSE if only_refused else pause)
                if self._live is not live:
                    return
                queues, pause = tuple(waiting), min(2 * pause, LONGEST_PAUSE)
        except TransportError as error:
            self._show(f"cannot consume: {error}")
            await live.link.close()
            return
        self._show(f"connected; serving {', '.join(self._queues)}", logging.INFO)

    async def _consume_from(self, live: _Live, queue: str, slots: int) -> bool:
        """Whether there is such a queue, and this agent may read it."""
        name = topology.task_queue(queue).name
        try:
            there = await live.link.ready_count(name) is not None
            if there:
                await live.link.consume(name, partial(self._on_task, live, queue), prefetch=slots)
        except BrokerRefused as error:
            live.refused[queue] = str(error)
            return False
        live.refused.pop(queue, None)
        return there

    def _lacking(self, live: _Live, waiting: list[str]) -> str:
        """Why nothing comes from the queues *waiting*, for people."""
        wanted = " ".join(f"--queue {queue}" for queue in self._queues)
        remedy = f"grant what `flow broker rights {self._name} {wanted}` prints"
        said = [f"refused, {why}; {remedy}" for why in live.refused.values()]
        if missing := ", ".join(queue for queue in waiting if queue not in live.refused):
            said.append(f"waiting for a dispatcher to make what is missing: queue {missing}")
        return "; ".join(said)

    def serve(self, queues: tuple[str, ...], slots: int) -> None:
        """From the next link on consume *queues*, *slots* messages of each at a time."""
        self._queues, self._slots = queues, slots
        if self._live is None:
            # A link that is just being built was begun for the old ones.
            self._again.set()

    @property
    def status(self) -> str:
        """What was last said of the connection, for people."""
        return self._status

    @property
    def refused(self) -> tuple[str, ...]:
        """Queues that the broker does not let this agent read."""
        return tuple(self._live.refused) if self._live is not None else ()

    def reconnect(self) -> None:
        """Drop the link, if there is one, and connect at once."""
        if self._live is not None:
            self._live = None
            self._again.set()

    # -- from the broker -----------------------------------------------------------------------

    def _published(self, ref: int, future: asyncio.Future[None]) -> None:
        if future.cancelled():
            return
        error = future.exception()
        if error is None:
            self._post(on.Confirmed(ref))
        elif isinstance(error, Unroutable):
            self._post(on.Refused(ref, "no dispatcher has made its events queue yet"))
        # Anything else is the link's end, which LinkDown reports.

    def _on_blocked(self, live: _Live, proven: float) -> None:
        if self._live is live:
            self._post(on.Blocked(proven))

    def _on_control(self, delivery: Delivery) -> None:
        try:
            message = wire.decode(delivery.body)
            if not isinstance(message, wire.Reply):
                raise MessageError(f"message: expected a reply, got a {type(message).__name__}")
        except wire.NewerVersion as error:
            # Whatever it was is said again until it is understood: nothing is lost with it. What a
            # dispatcher says tells its version; a task may have been left by one that is gone.
            self._post(on.Unreadable(error.version))
            delivery.ack()
            return
        except MessageError as error:
            self._park("control", str(error), delivery)
            return
        if isinstance(message, wire.Piece | wire.NoPiece):
            self._on_piece(message)
        elif self._live is not None:
            self._post(on.Received(message))
        delivery.ack()

    def _on_task(self, live: _Live, queue: str, delivery: Delivery) -> None:
        if self._live is not live:
            return  # of a link that is being dropped: it goes back
        try:
            message = wire.decode(delivery.body)
            if not isinstance(message, wire.Task):
                raise MessageError(f"message: expected a task, got a {type(message).__name__}")
        except MessageError as error:
            self._park(queue, str(error), delivery)
            return
        handle = next(self._handles)
        live.deliveries[handle] = delivery
        self._post(on.Delivered(handle, message))

    def _park(self, queue: str, reason: str, delivery: Delivery) -> None:
        """Set an unreadable message aside; requeueing it would only have it come back."""
        self._parking.park(delivery.body, key=queue, reason=reason)
        delivery.ack()
