"""A broker inside one process: what the embedded default and tests use instead of RabbitMQ.

It keeps the promises of :mod:`flow.transport.port`, which one contract suite holds for both. All
its links belong to one event loop. A message is on its way for a turn of that loop at least, so
nobody is called back from within their own call. Its queues end with it, as if RabbitMQ had lost
its disk: the dispatcher repairs that from the database.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from flow.errors import TransportError, Unroutable
from flow.topology import EXCHANGES, MAX_KEY_BYTES, QueueSpec
from flow.transport.memoryqueue import BURST, Consumer, Queue
from flow.transport.port import Delivery, Publication


class MemoryBroker:
    """Where links inside one process come from.

    *on_declare* is called, in a later turn of the event loop, for every queue that comes to be.
    """

    def __init__(
        self,
        *,
        user: str = "guest",
        on_declare: Callable[[QueueSpec], None] | None = None,
    ) -> None:
        self.user = user
        self.queues: dict[str, Queue] = {}
        self._positions = itertools.count()
        self._on_declare = on_declare

    async def connect(self, name: str) -> MemoryLink:
        """See :class:`flow.transport.port.Broker`. It is never refused."""
        return MemoryLink(self, name)

    async def settled(self, queue: str) -> None:
        """Return once *queue* holds nothing, neither waiting nor unacknowledged."""
        found = self.queues.get(queue)
        if found is not None:
            await found.settled()

    def declare(self, spec: QueueSpec, link: MemoryLink) -> None:
        """Make the queue and bind it. Raises :class:`~flow.errors.BrokerRefused` when it exists
        and is another one."""
        where = f"declare queue {spec.name}"
        if spec.exchange not in EXCHANGES:
            raise TransportError(f"{where}: expected an exchange of flow's, got {spec.exchange!r}")
        queue = self.queues.get(spec.name)
        if queue is None:
            queue = Queue(spec, link if spec.exclusive else None)
            self.queues[spec.name] = queue
            if self._on_declare is not None:
                asyncio.get_running_loop().call_soon(self._on_declare, spec)
        else:
            queue.check_owner(where, link)
            queue.check_same(where, spec)
        queue.bind(spec.exchange, spec.key)

    def find(self, where: str, name: str, link: MemoryLink) -> Queue:
        """The queue, if *link* may use it. Raises :class:`~flow.errors.TransportError`."""
        queue = self.queues.get(name)
        if queue is None:
            raise TransportError(f"{where}: expected a queue that exists, got none")
        queue.check_owner(where, link)
        return queue

    def route(self, publication: Publication) -> bool:
        """Put a copy into every queue bound for it; whether there was one."""
        words = publication.key.split(".")
        found = [
            queue for queue in self.queues.values() if queue.takes(publication.exchange, words)
        ]
        for queue in found:
            queue.put(next(self._positions), publication, self.user)
        return bool(found)

    def forget(self, link: MemoryLink, consumers: Iterable[Consumer]) -> None:
        """*link* has closed: its queues vanish, and what it held goes back."""
        for name in [name for name, queue in self.queues.items() if queue.owner is link]:
            del self.queues[name]
        for consumer in consumers:
            consumer.queue.remove(consumer)


class MemoryOutlet:
    """See :class:`flow.transport.port.Outlet`."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self._waiting: deque[tuple[Publication, asyncio.Future[None]]] = deque()
        self._loop = asyncio.get_running_loop()
        self._flushing = False
        self._closed: str | None = None

    def publish(self, publication: Publication) -> asyncio.Future[None]:
        if len(publication.key.encode()) > MAX_KEY_BYTES:
            raise ValueError(f"routing key: expected at most 255 bytes, got {publication.key!r}")
        confirmed: asyncio.Future[None] = self._loop.create_future()
        confirmed.add_done_callback(_mark_seen)  # the caller may drop it
        self._waiting.append((publication, confirmed))
        if self._closed is not None:
            self.shut(self._closed)
        elif not self._flushing:
            self._flush_soon()
        return confirmed

    def shut(self, reason: str) -> None:
        """Publish nothing more, and fail what is unconfirmed."""
        self._closed = reason
        for _, confirmed in self._waiting:
            if not confirmed.done():
                confirmed.set_exception(
                    TransportError(f"closed before the broker confirmed: {reason}")
                )
        self._waiting.clear()

    def _flush_soon(self) -> None:
        self._flushing = True
        self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        for _ in range(min(BURST, len(self._waiting))):
            publication, confirmed = self._waiting.popleft()
            routed = self._broker.route(publication)
            if confirmed.done():
                continue  # cancelled by the caller, which takes nothing back
            if routed or not publication.mandatory:
                confirmed.set_result(None)
            else:
                confirmed.set_exception(
                    Unroutable(
                        f"message to {publication.exchange} with key {publication.key!r}: "
                        "no queue is bound under this key"
                    )
                )
        if self._waiting:
            self._flush_soon()


@dataclass(eq=False)
class MemoryLink:
    """See :class:`flow.transport.port.Link`."""

    broker: MemoryBroker
    name: str
    _consumers: list[Consumer] = field(default_factory=list)
    _outlets: list[MemoryOutlet] = field(default_factory=list)
    _reason: asyncio.Future[str] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    async def declare(self, queue: QueueSpec) -> None:
        self._check_open(f"declare queue {queue.name}")
        self.broker.declare(queue, self)

    async def consume(
        self, queue: str, on_delivery: Callable[[Delivery], None], *, prefetch: int
    ) -> None:
        where = f"consume from {queue}"
        self._check_open(where)

        def crashed(error: Exception) -> None:
            asyncio.get_running_loop().call_exception_handler(
                {"message": f"receiver of {queue} failed", "exception": error}
            )
            self._end(f"receiver of {queue} failed: {error!r}")

        found = self.broker.find(where, queue, self)
        consumer = Consumer(found, on_delivery, prefetch, crashed)
        self._consumers.append(consumer)
        found.add(consumer)

    async def outlet(self) -> MemoryOutlet:
        self._check_open("open an outlet")
        outlet = MemoryOutlet(self.broker)
        self._outlets.append(outlet)
        return outlet

    async def ready_count(self, queue: str) -> int | None:
        where = f"look at queue {queue}"
        self._check_open(where)
        if queue not in self.broker.queues:
            return None
        return self.broker.find(where, queue, self).ready_count()

    @property
    def user(self) -> str:
        return self.broker.user

    @property
    def blocked(self) -> bool:
        """Never: memory has no alarm."""
        return False

    def watch_blocked(self, callback: Callable[[float], None]) -> None:
        """*callback* is never called."""

    async def wait_closed(self) -> str:
        return await asyncio.shield(self._reason)

    async def close(self) -> None:
        self._end("closed by this side")

    def _check_open(self, what: str) -> None:
        if self._reason.done():
            raise TransportError(f"{what}: link is closed: {self._reason.result()}")

    def _end(self, reason: str) -> None:
        """Close everything, because of *reason*. Only the first reason counts."""
        if self._reason.done():
            return
        self._reason.set_result(reason)
        for outlet in self._outlets:
            outlet.shut(reason)
        self.broker.forget(self, self._consumers)


def _mark_seen(future: asyncio.Future[None]) -> None:
    if not future.cancelled():
        future.exception()
