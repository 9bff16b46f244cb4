"""The model broker's queues: order, bindings, consumers, what is unacknowledged."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flow.errors import BrokerRefused
from flow.topology import QueueSpec

if TYPE_CHECKING:
    from tests.sim.link import Link


@dataclass(slots=True)
class Message:
    """One copy of a publication, in one queue. The simulator's bodies are messages themselves."""

    position: int
    """In the order of arrival at the broker."""
    key: str
    body: Any
    headers: Mapping[str, object]
    user: str
    expires_at: float | None
    redelivered: bool = False


class Queue:
    """One queue. Its messages go to consumers with room, in order, each to one."""

    def __init__(self, spec: QueueSpec, owner: Link | None, now: Callable[[], float]) -> None:
        self.spec = spec
        self.owner = owner
        self.consumers: list[Consumer] = []
        self.gone = False
        self._now = now
        self._ready: deque[Message] = deque()
        self._bindings: set[tuple[str, tuple[str, ...]]] = set()
        limit = spec.arguments.get("x-max-length-bytes")
        self._most_bytes = None if limit is None else int(limit)
        self._single = bool(spec.arguments.get("x-single-active-consumer"))

    # -- what it is ----------------------------------------------------------------------------

    def check_owner(self, where: str, link: Link) -> None:
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

    # -- messages ------------------------------------------------------------------------------

    def put(self, message: Message) -> None:
        """A message arrives: behind all others."""
        self._ready.append(message)
        self._drop_surplus()
        self.pump()

    def ready_count(self) -> int:
        self._drop_expired()
        return len(self._ready)

    def take_back(self, messages: list[Message]) -> None:
        """Unacknowledged messages return, in front of what nobody has had yet."""
        for message in messages:
            message.redelivered = True
        merged = heapq.merge(messages, self._ready, key=lambda each: each.position)
        self._ready = deque(merged)
        self._drop_surplus()
        self.pump()

    def purge(self) -> None:
        """Everything that waits is lost."""
        self._ready.clear()

    def shuffle(self, order: Callable[[list[Message]], None]) -> None:
        """What waits is put into another order."""
        waiting = list(self._ready)
        order(waiting)
        self._ready = deque(waiting)

    def _drop_surplus(self) -> None:
        if self._most_bytes is None:
            return
        size = sum(len(message.body) for message in self._ready)
        while size > self._most_bytes:
            size -= len(self._ready.popleft().body)

    def _drop_expired(self) -> None:
        """At the head only, as RabbitMQ does: what is behind a longer-lived message waits."""
        while self._ready:
            at = self._ready[0].expires_at
            if at is None or at > self._now():
                return
            self._ready.popleft()

    # -- consumers -----------------------------------------------------------------------------

    def add(self, consumer: Consumer) -> None:
        self.consumers.append(consumer)
        self.pump()

    def remove(self, consumer: Consumer) -> None:
        """The consumer's channel is gone: what it held comes back."""
        if consumer in self.consumers:
            self.consumers.remove(consumer)
        held = list(consumer.held.values())
        consumer.held.clear()
        if not self.gone:
            self.take_back(held)

    def pump(self) -> None:
        """Deliver what can be delivered."""
        while self._ready:
            self._drop_expired()
            consumer = self._next_consumer()
            if consumer is None or not self._ready:
                return
            consumer.deliver(self._ready.popleft())

    def _next_consumer(self) -> Consumer | None:
        """Whose turn it is: the first alone where one is to be active, else each in turn."""
        for consumer in self.consumers[:1] if self._single else self.consumers:
            if len(consumer.held) < consumer.prefetch:
                if not self._single and len(self.consumers) > 1:
                    self.consumers.remove(consumer)
                    self.consumers.append(consumer)
                return consumer
        return None


class Consumer:
    """The broker's side of a consumer: what it was sent and has not acknowledged."""

    def __init__(
        self, queue: Queue, prefetch: int, send: Callable[[Consumer, int, Message], None]
    ) -> None:
        self.queue = queue
        self.prefetch = prefetch
        self.held: dict[int, Message] = {}
        """By delivery tag, ascending."""
        self._send = send
        self._tags = itertools.count(1)

    def deliver(self, message: Message) -> None:
        tag = next(self._tags)
        self.held[tag] = message
        self._send(self, tag, message)

    def settle(self, tag: int, *, multiple: bool) -> None:
        """An acknowledgement has arrived. One for a tag that is not held changes nothing."""
        if multiple:
            for each in list(itertools.takewhile(lambda held: held <= tag, self.held)):
                del self.held[each]
        else:
            self.held.pop(tag, None)
        if not self.queue.gone:
            self.queue.pump()


def _properties(spec: QueueSpec) -> dict[str, object]:
    return {"durable": spec.durable, "exclusive": spec.exclusive, **spec.arguments}


def _matches(pattern: tuple[str, ...], words: list[str]) -> bool:
    """Whether a binding fits a key: ``*`` is one word, ``#`` any number of words."""
    if not pattern:
        return not words
    if pattern[0] == "#":
        return any(_matches(pattern[1:], words[skip:]) for skip in range(len(words) + 1))
    fits = bool(words) and pattern[0] in ("*", words[0])
    return fits and _matches(pattern[1:], words[1:])
