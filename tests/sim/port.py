"""The model broker as a broker of flow's, for the contract suite: an adapter and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from flow.errors import TransportError
from flow.topology import MAX_KEY_BYTES, QueueSpec
from flow.transport.port import Delivery, Publication
from tests.sim import link as model
from tests.sim.broker import ModelBroker
from tests.sim.pipe import at_once
from tests.sim.schedule import Call, Cancellable


class LoopClock:
    """The event loop's time."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    @property
    def now(self) -> float:
        return self._loop.time()

    def at(self, when: float, call: Call) -> Cancellable:
        if when <= self.now:
            return self._loop.call_soon(call)
        return self._loop.call_at(when, call)


class PortDelivery:
    """See :class:`flow.transport.port.Delivery`."""

    def __init__(self, delivery: model.Delivery) -> None:
        self._delivery = delivery

    @property
    def body(self) -> bytes:
        body: bytes = self._delivery.message.body
        return body

    @property
    def routing_key(self) -> str:
        return self._delivery.message.key

    @property
    def headers(self) -> Mapping[str, object]:
        return self._delivery.message.headers

    @property
    def redelivered(self) -> bool:
        return self._delivery.redelivered

    @property
    def user_id(self) -> str | None:
        return self._delivery.message.user

    def ack(self, *, multiple: bool = False) -> None:
        self._delivery.ack(multiple=multiple)


class PortLink:
    """See :class:`flow.transport.port.Link`; also its one :class:`~flow.transport.port.Outlet`."""

    def __init__(self, link: model.Link, user: str) -> None:
        self._link = link
        self._user = user
        self._loop = asyncio.get_running_loop()
        self._reason: asyncio.Future[str] = self._loop.create_future()
        self._watchers: list[Callable[[float], None]] = []
        self._blocked = False
        link.on_closed = self._reason.set_result
        link.on_blocked = self._on_blocked
        link.on_crash = self._on_crash

    async def declare(self, queue: QueueSpec) -> None:
        await self._call(lambda done: self._link.declare(queue, done))

    async def consume(
        self, queue: str, on_delivery: Callable[[Delivery], None], *, prefetch: int
    ) -> None:
        def receive(delivery: model.Delivery) -> None:
            on_delivery(PortDelivery(delivery))

        await self._call(lambda done: self._link.consume(queue, receive, prefetch, done))

    async def outlet(self) -> PortLink:
        if not self._link.open:
            raise TransportError(f"open an outlet: link is closed: {self._link.reason}")
        return self

    async def ready_count(self, queue: str) -> int | None:
        count: int | None = await self._call(lambda done: self._link.ready_count(queue, done))
        return count

    def publish(self, publication: Publication) -> asyncio.Future[None]:
        if len(publication.key.encode()) > MAX_KEY_BYTES:
            raise ValueError(f"routing key: expected at most 255 bytes, got {publication.key!r}")
        confirmed: asyncio.Future[None] = self._loop.create_future()
        confirmed.add_done_callback(_mark_seen)  # the caller may drop it

        def done(error: TransportError | None) -> None:
            self._blocked = False
            if not confirmed.done():
                _settle(confirmed, error)

        self._link.publish(publication, done)
        return confirmed

    @property
    def user(self) -> str:
        return self._user

    @property
    def blocked(self) -> bool:
        return self._blocked and self._link.open

    def watch_blocked(self, callback: Callable[[float], None]) -> None:
        self._watchers.append(callback)

    async def wait_closed(self) -> str:
        return await asyncio.shield(self._reason)

    async def close(self) -> None:
        self._link.close()

    async def _call(self, begin: Callable[[model.Answer], None]) -> Any:
        answered: asyncio.Future[Any] = self._loop.create_future()
        begin(lambda answer: None if answered.done() else _settle(answered, answer))
        return await answered

    def _on_blocked(self, proven: float) -> None:
        self._blocked = True
        for callback in self._watchers:
            callback(proven)

    def _on_crash(self, queue: str, error: Exception) -> None:
        context = {"message": f"receiver of {queue} failed", "exception": error}
        self._loop.call_exception_handler(context)


class PortBroker:
    """See :class:`flow.transport.port.Broker`."""

    def __init__(self) -> None:
        self.model: ModelBroker | None = None

    async def connect(self, name: str) -> PortLink:
        if self.model is None:
            self.model = ModelBroker(LoopClock())
        if self.model.down:
            raise TransportError("connect to the model broker: it is down")
        return PortLink(self.model.open(name, lambda: 0.0, at_once), self.model.user)


def _settle(future: asyncio.Future[Any], answer: Any) -> None:
    if isinstance(answer, TransportError):
        future.set_exception(answer)
    else:
        future.set_result(answer)


def _mark_seen(future: asyncio.Future[None]) -> None:
    if not future.cancelled():
        future.exception()
