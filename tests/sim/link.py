"""A connection to the model broker, with both of its ends.

Like flow's AMQP transport it consists of two connections: on one are consumers, their
acknowledgements and calls, on the other are publishes and their confirms.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from flow.errors import TransportError, Unroutable
from flow.topology import QueueSpec
from tests.sim.pipe import Pipe, Receive
from tests.sim.queues import Consumer, Message, Queue
from tests.sim.schedule import Cancellable

if TYPE_CHECKING:
    from tests.sim.broker import ModelBroker

Outcome = Callable[[TransportError | None], None]
Answer = Callable[[Any], None]
"""Takes what a call came to; a :class:`TransportError` is its failure."""
LOST = "closed before the broker confirmed"


class Outgoing(Protocol):
    """What can be published: :class:`flow.transport.port.Publication`, or alike."""

    @property
    def exchange(self) -> str: ...
    @property
    def key(self) -> str: ...
    @property
    def body(self) -> Any: ...
    @property
    def mandatory(self) -> bool: ...
    @property
    def expiration(self) -> float | None: ...


class Delivery:
    """A message in the client's hands."""

    __slots__ = ("_consumer", "_link", "_tag", "message", "redelivered")

    def __init__(self, link: Link, consumer: Consumer, tag: int, message: Message) -> None:
        self.message = message
        self.redelivered = message.redelivered  # the message itself may be delivered once more
        self._link = link
        self._consumer = consumer
        self._tag = tag

    def ack(self, *, multiple: bool = False) -> None:
        """Settle it; harmless twice, and after the link has closed."""
        if self._link.open:
            settle = partial(self._consumer.settle, self._tag, multiple=multiple)
            self._link.commands.send(settle)


class Link:
    """``open`` is what the client knows, ``served`` what the broker knows. All callbacks reach the
    client through *receive*."""

    def __init__(
        self, broker: ModelBroker, name: str, delay: Callable[[], float], receive: Receive
    ) -> None:
        clock = broker.clock
        self.name = name
        self.open = True
        self.served = True
        self.reason = ""
        self.receive = receive
        self.on_closed: Callable[[str], None] = lambda _: None
        self.on_blocked: Callable[[float], None] = lambda _: None
        self.on_crash: Callable[[str, Exception], None] | None = None
        """Where a receiver's exception goes; None: to whoever runs the world."""
        self.commands = Pipe(clock, delay)
        self.publishes = Pipe(clock, delay)
        self.answers = Pipe(clock, delay, receive)
        self.confirms = Pipe(clock, delay, receive)
        self._broker = broker
        self._numbers = itertools.count(1)
        self._unconfirmed: dict[int, Outcome] = {}
        self._calls: dict[int, tuple[str, Answer]] = {}
        self._consumers: list[Consumer] = []
        self._blocked = False
        self._said_blocked: float | None = None
        self._proof: Cancellable | None = None

    # -- the client's side ---------------------------------------------------------------------

    def declare(self, spec: QueueSpec, done: Answer) -> None:
        self._call(f"declare queue {spec.name}", lambda: self._broker.declare(spec, self), done)

    def consume(
        self, queue: str, on_delivery: Callable[[Delivery], None], prefetch: int, done: Answer
    ) -> None:
        where = f"consume from {queue}"

        def begin() -> None:
            found = self._broker.find(where, queue, self)
            consumer = Consumer(found, prefetch, partial(self._send, on_delivery))
            self._consumers.append(consumer)
            found.add(consumer)

        self._call(where, begin, done)

    def ready_count(self, queue: str, done: Answer) -> None:
        where = f"look at queue {queue}"

        def count() -> int | None:
            if queue not in self._broker.queues:
                return None
            return self._broker.find(where, queue, self).ready_count()

        self._call(where, count, done)

    def publish(self, publication: Outgoing, done: Outcome) -> None:
        """Hand a message over; *done* gets None once it is confirmed as routed."""
        if not self.open:
            done(TransportError(f"{LOST}: {self.reason}"))
            return
        number = next(self._numbers)
        self._unconfirmed[number] = done
        self.publishes.send(partial(self._arrived, number, publication))
        if self._blocked:
            self._say_blocked()

    def close(self, reason: str = "closed by this side", keep: int | None = None) -> None:
        """Close from this side. *keep*: only so many frames that are on their way still arrive."""
        if not self.open:
            return
        for pipe in (self.commands, self.publishes):
            if keep is not None:
                pipe.lose(keep)
        self.commands.send(self._end_serving)
        self.shut(reason)

    def shut(self, reason: str) -> None:
        """The client knows that it is over."""
        if not self.open:
            return
        self.open, self.reason = False, reason
        self.commands.close()
        self.publishes.close()
        unconfirmed, self._unconfirmed = self._unconfirmed, {}
        calls, self._calls = self._calls, {}
        for done in unconfirmed.values():
            done(TransportError(f"{LOST}: {reason}"))
        for what, answer in calls.values():
            answer(TransportError(f"{what}: {reason}"))
        self.on_closed(reason)

    def vanish(self, keep: int) -> None:
        """The client's machine is off: of what is on its way *keep* frames arrive, nobody is
        told."""
        self.open = False
        for pipe in (self.commands, self.publishes):
            pipe.lose(keep)
            pipe.close()

    def _call(self, what: str, operation: Callable[[], Any], done: Answer) -> None:
        if not self.open:
            done(TransportError(f"{what}: link is closed: {self.reason}"))
            return
        number = next(self._numbers)
        self._calls[number] = (what, done)
        self.commands.send(partial(self._perform, number, operation))

    def _answered(self, number: int, answer: Any) -> None:
        _, done = self._calls.pop(number, ("", None))
        if done is not None:
            done(answer)

    def _confirmed(self, number: int, error: TransportError | None) -> None:
        done = self._unconfirmed.pop(number, None)
        if done is not None:
            done(error)

    def _delivered(
        self, on_delivery: Callable[[Delivery], None], queue: Queue, delivery: Delivery
    ) -> None:
        if not self.open:
            return
        if self.on_crash is None:
            on_delivery(delivery)
            return
        try:
            on_delivery(delivery)
        except Exception as error:  # noqa: BLE001 - told to the link, which closes with it
            self.on_crash(queue.spec.name, error)
            self.close(f"receiver of {queue.spec.name} failed: {error!r}")

    # -- the broker's side ---------------------------------------------------------------------

    def _perform(self, number: int, operation: Callable[[], Any]) -> None:
        if not self.served:
            return
        try:
            answer = operation()
        except TransportError as error:
            answer = error
        self.answers.send(partial(self._answered, number, answer))

    def _arrived(self, number: int, publication: Outgoing) -> None:
        error = None
        if not self._broker.route(publication) and publication.mandatory:
            error = Unroutable(
                f"message to {publication.exchange} with key {publication.key!r}: "
                "no queue is bound under this key"
            )
        self.confirms.send(partial(self._confirmed, number, error))

    def _send(
        self,
        on_delivery: Callable[[Delivery], None],
        consumer: Consumer,
        tag: int,
        message: Message,
    ) -> None:
        delivery = Delivery(self, consumer, tag, message)
        self.answers.send(partial(self._delivered, on_delivery, consumer.queue, delivery))

    def drop(self, reason: str, keep: int = 0, *, publishes: int = 0) -> None:
        """The broker ends it: only *keep* frames on their way to the client arrive, and only so
        many *publishes* on their way to the broker."""
        if not self.served:
            return
        self.commands.lose(0)
        self.publishes.lose(publishes)
        self.confirms.lose(keep)
        self.answers.lose(keep)
        self._end_serving()
        self.answers.send(partial(self.shut, reason))
        self.answers.close()
        self.confirms.close()

    def deafen(self, queue: str) -> bool:
        """The broker forgets a consumer without a word; whether there was one."""
        for consumer in self._consumers:
            if consumer.queue.spec.name == queue and consumer in consumer.queue.consumers:
                consumer.queue.consumers.remove(consumer)
                consumer.queue.pump()
                return True
        return False

    def consumes(self, queue: Queue) -> bool:
        return any(consumer.queue is queue for consumer in self._consumers)

    def _end_serving(self) -> None:
        if not self.served:
            return
        self.served = False
        self.unblock()
        self._broker.forget(self)
        consumers, self._consumers = self._consumers, []
        for consumer in consumers:
            consumer.queue.remove(consumer)

    # -- alarms --------------------------------------------------------------------------------

    def block(self) -> None:
        """The broker stops reading what this link publishes. It says so once there is something,
        and then goes on to show that it is there."""
        if not self._blocked:
            self._blocked = True
            self.publishes.hold()
            if self.publishes.in_flight:
                self._say_blocked()

    def unblock(self) -> None:
        if not self._blocked:
            return
        self._blocked, self._said_blocked = False, None
        if self._proof is not None:
            self._proof.cancel()
        self.publishes.release()

    def _say_blocked(self) -> None:
        if self._said_blocked is None and self.served:
            self._said_blocked = self._broker.clock.now
            self.confirms.send(partial(self._tell_blocked, 0.0))
            self._prove_later()

    def _prove_later(self) -> None:
        clock = self._broker.clock

        def prove() -> None:
            if self._said_blocked is not None:
                proven = clock.now - self._said_blocked
                self.confirms.send(partial(self._tell_blocked, proven))
                self._prove_later()

        self._proof = clock.at(clock.now + self._broker.proof_interval, prove)

    def _tell_blocked(self, proven: float) -> None:
        if self.open:
            self.on_blocked(proven)
