"""One queue of the broker in memory: its bindings, its messages, its consumers."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from flow.errors import BrokerRefused
from flow.topology import QueueSpec
from flow.transport.port import Delivery, Publication

#: Messages handled before the event loop gets its turn.
BURST = 100


@dataclass(slots=True)
class _Message:
    position: int
    """In the order of arrival at the broker."""
    publication: Publication
    headers: Mapping[str, object]
    user: str
    expires_at: float | None
    redelivered: bool = False


class Queue:
    """One queue with its bindings and consumers."""

    def __init__(self, spec: QueueSpec, owner: object | None) -> None:
        self.spec = spec
        self.owner = owner
        self._bindings: set[tuple[str, tuple[str, ...]]] = set()
        self._ready: deque[_Message] = deque()
        self._ready_bytes = 0
        limit = spec.arguments.get("x-max-length-bytes")
        self._most_bytes = None if limit is None else int(limit)
        self._one_consumer = bool(spec.arguments.get("x-single-active-consumer"))
        self._consumers: list[Consumer] = []
        self._loop = asyncio.get_running_loop()
        self._pumping = False
        self._waiting_for_rest: list[asyncio.Future[None]] = []

    # -- what it is ------------------------------------------------------------------------------

    def check_owner(self, where: str, link: object) -> None:
        if self.owner is not None and self.owner is not link:
            raise BrokerRefused(f"{where}: expected a queue of this link's, got another link's")

    def check_same(self, where: str, spec: QueueSpec) -> None:
        known, wanted = _properties(self.spec), _properties(spec)
        for name in sorted(known.keys() | wanted.keys()):
            if known.get(name) != wanted.get(name):
                raise BrokerRefused(
                    f"{where}: expected {name} {known.get(name)!r}, as the queue has it, "
                    f"got {wanted.get(name)!r}"
                )

    def bind(self, exchange: str, pattern: str) -> None:
        self._bindings.add((exchange, tuple(pattern.split("."))))

    def takes(self, exchange: str, words: list[str]) -> bool:
        return any(
            bound == exchange and _matches(pattern, words) for bound, pattern in self._bindings
        )

    # -- messages --------------------------------------------------------------------------------

    def put(self, position: int, publication: Publication, user: str) -> None:
        lifetime = publication.expiration
        expires_at = None if lifetime is None else self._loop.time() + lifetime
        headers = dict(publication.headers)
        message = _Message(position, publication, headers, user, expires_at)
        self._ready.append(message)
        self._ready_bytes += len(publication.body)
        self._drop_surplus()
        self.pump_soon()

    def ready_count(self) -> int:
        self._drop_expired()
        return len(self._ready)

    async def settled(self) -> None:
        if not self._is_at_rest:
            future: asyncio.Future[None] = self._loop.create_future()
            self._waiting_for_rest.append(future)
            await future

    def _take_head(self) -> _Message:
        message = self._ready.popleft()
        self._ready_bytes -= len(message.publication.body)
        return message

    def _drop_surplus(self) -> None:
        while self._most_bytes is not None and self._ready_bytes > self._most_bytes:
            self._take_head()

    def _drop_expired(self) -> None:
        """At the head only, as RabbitMQ does: what is behind a longer-lived message waits."""
        now = self._loop.time()
        while self._ready and (at := self._ready[0].expires_at) is not None and at <= now:
            self._take_head()

    # -- consumers -------------------------------------------------------------------------------

    def add(self, consumer: Consumer) -> None:
        self._consumers.append(consumer)
        self.pump_soon()

    def remove(self, consumer: Consumer) -> None:
        """Take back what *consumer* held, in front of what nobody has had yet."""
        if consumer in self._consumers:
            self._consumers.remove(consumer)
        for message in consumer.held.values():
            message.redelivered = True
            self._ready_bytes += len(message.publication.body)
        in_order = heapq.merge(consumer.held.values(), self._ready, key=lambda each: each.position)
        self._ready = deque(in_order)
        consumer.held.clear()
        self._drop_surplus()
        self.pump_soon()

    def pump_soon(self) -> None:
        """Deliver what can be delivered, in a later turn of the event loop."""
        if not self._pumping:
            self._pumping = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._pumping = False
        for _ in range(BURST):
            self._drop_expired()
            if not self._ready:
                break
            consumer = self._next_consumer()
            if consumer is None:
                break
            consumer.deliver(self._take_head())
        else:
            self.pump_soon()
        if self._is_at_rest:
            for future in self._waiting_for_rest:
                if not future.done():
                    future.set_result(None)
            self._waiting_for_rest.clear()

    def _next_consumer(self) -> Consumer | None:
        """Whose turn it is: the first alone where one is to be active, else each in turn."""
        candidates = self._consumers[:1] if self._one_consumer else self._consumers
        chosen = next((each for each in candidates if each.has_room), None)
        if chosen is not None and not self._one_consumer:
            self._consumers.remove(chosen)
            self._consumers.append(chosen)
        return chosen

    @property
    def _is_at_rest(self) -> bool:
        return not self._ready and not any(consumer.held for consumer in self._consumers)


class Consumer:
    """Hands messages to one receiver and remembers which of them it has not acknowledged."""

    def __init__(
        self,
        queue: Queue,
        on_delivery: Callable[[Delivery], None],
        prefetch: int,
        on_crash: Callable[[Exception], None],
    ) -> None:
        self.queue = queue
        self.held: dict[int, _Message] = {}
        """By delivery tag, ascending."""
        self._on_delivery = on_delivery
        self._prefetch = prefetch
        self._on_crash = on_crash
        self._tags = itertools.count(1)

    @property
    def has_room(self) -> bool:
        return len(self.held) < self._prefetch

    def deliver(self, message: _Message) -> None:
        tag = next(self._tags)
        self.held[tag] = message
        try:
            self._on_delivery(_MemoryDelivery(self, message, tag))
        except Exception as error:  # noqa: BLE001 - told to the link, which closes with it
            self._on_crash(error)

    def settle(self, tag: int, *, multiple: bool) -> None:
        if multiple:
            settled = list(itertools.takewhile(lambda open_tag: open_tag <= tag, self.held))
        else:
            settled = [tag] if tag in self.held else []
        for open_tag in settled:
            del self.held[open_tag]
        if settled:
            self.queue.pump_soon()


class _MemoryDelivery:
    """See :class:`flow.transport.port.Delivery`."""

    __slots__ = ("_consumer", "_message", "_redelivered", "_tag")

    def __init__(self, consumer: Consumer, message: _Message, tag: int) -> None:
        self._consumer = consumer
        self._message = message
        self._tag = tag
        # Of this delivery: the message itself may come back and be delivered once more.
        self._redelivered = message.redelivered

    @property
    def body(self) -> bytes:
        return self._message.publication.body

    @property
    def routing_key(self) -> str:
        return self._message.publication.key

    @property
    def headers(self) -> Mapping[str, object]:
        return self._message.headers

    @property
    def redelivered(self) -> bool:
        return self._redelivered

    @property
    def user_id(self) -> str | None:
        return self._message.user

    def ack(self, *, multiple: bool = False) -> None:
        self._consumer.settle(self._tag, multiple=multiple)


def _properties(spec: QueueSpec) -> dict[str, object]:
    return {"durable": spec.durable, "exclusive": spec.exclusive, **spec.arguments}


def _matches(pattern: tuple[str, ...], words: list[str]) -> bool:
    """Whether a binding fits a key: ``*`` is one word, ``#`` any number of words."""
    # How many words the pattern so far may account for.
    reached = {0}
    for part in pattern:
        if part == "#":
            reached = set(range(min(reached), len(words) + 1))
        else:
            reached = {at + 1 for at in reached if at < len(words) and part in ("*", words[at])}
        if not reached:
            return False
    return len(words) in reached
