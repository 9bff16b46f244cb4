"""Trying a right at the broker without using it.

A probe must do no harm where the rights are wider than they should be, so each stops after the
broker's decision and before any effect (all tried on RabbitMQ 3.10, which decides in this order):

- a message is published inside a transaction that is rolled back;
- a consumer asks for a priority that is no number, which is refused after the right is granted;
- what is deleted, unbound or looked at has a name that nobody else has.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

from flow.errors import TransportError

if TYPE_CHECKING:
    from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection

#: ACCESS_REFUSED, NOT_FOUND (AMQP 0-9-1, reply codes).
_REFUSED, _NOT_FOUND = 403, 404
_PRECONDITION_FAILED, _RESOURCE_LOCKED = 406, 405

Act = Callable[["BlockingChannel"], object]


class Answer(Enum):
    """The broker's."""

    ALLOWED = auto()
    #: Allowed as well, but there is no such queue or exchange.
    MISSING = auto()
    REFUSED = auto()


@dataclass(frozen=True, slots=True)
class Attempt:
    """Something that a user may be allowed to do: ``what`` completes "may ..."."""

    what: str
    act: Act
    refusals: frozenset[int] = frozenset({_REFUSED})


def try_each(connection: BlockingConnection, attempts: Iterable[Attempt]) -> dict[str, Answer]:
    """The answer to each of *attempts*, by what it was. Each has a channel of its own, which a
    refusal closes. Raises :class:`~flow.errors.TransportError` for other answers, and what pika
    raises for a lost connection."""
    return {attempt.what: _try(connection, attempt) for attempt in attempts}


def _try(connection: BlockingConnection, attempt: Attempt) -> Answer:
    from pika import exceptions

    channel = connection.channel()
    try:
        attempt.act(channel)
    except exceptions.ChannelClosedByBroker as error:
        if error.reply_code in attempt.refusals:
            return Answer.REFUSED
        if error.reply_code == _NOT_FOUND:
            return Answer.MISSING
        if error.reply_code in (_PRECONDITION_FAILED, _RESOURCE_LOCKED):
            return Answer.ALLOWED
        raise TransportError(
            f"to {attempt.what}: expected to be allowed or refused, got {error.reply_text!r}"
        ) from error
    channel.close()
    return Answer.ALLOWED


def publishing(what: str, exchange: str, key: str) -> Attempt:
    """A message under *key*. It goes nowhere."""
    return Attempt(what, lambda channel: _publish(channel, exchange, key))


def forging(what: str, exchange: str, key: str) -> Attempt:
    """A message under one's own *key* that states another user. It goes nowhere."""
    stated = f"doctor-{secrets.token_hex(4)}"
    refusals = frozenset({_REFUSED, _PRECONDITION_FAILED})
    return Attempt(what, lambda channel: _publish(channel, exchange, key, stated), refusals)


def _publish(channel: BlockingChannel, exchange: str, key: str, user: str | None = None) -> None:
    import pika

    channel.tx_select()
    channel.basic_publish(exchange, key, b"flow doctor", pika.BasicProperties(user_id=user))
    channel.tx_rollback()


def reading(what: str, queue: str) -> Attempt:
    """Consuming, getting and purging are one right."""

    def act(channel: BlockingChannel) -> object:
        # Should a later RabbitMQ take it for a priority, the channel is closed with a message at
        # most, which the broker then puts back.
        channel.basic_qos(prefetch_count=1)
        return channel.basic_consume(queue, _nothing, arguments={"x-priority": "none"})

    return Attempt(what, act)


def _nothing(*_: Any) -> None:
    """Never called: nobody waits for deliveries."""


def binding(what: str, queue: str, exchange: str) -> Attempt:
    """To bind and to unbind are one right; there is no binding with this key."""
    key = f"!doctor-{secrets.token_hex(4)}"
    return Attempt(what, lambda channel: channel.queue_unbind(queue, exchange, key))


def making_queues(what: str, prefix: str) -> Attempt:
    """To declare and to delete are one right; nobody has a queue of this name."""
    name = f"{prefix}doctor-{secrets.token_hex(8)}"
    return Attempt(what, lambda channel: channel.queue_delete(name, if_unused=True, if_empty=True))


def making_exchanges(what: str) -> Attempt:
    """As :func:`making_queues`."""
    name = f"doctor-{secrets.token_hex(8)}"
    return Attempt(what, lambda channel: channel.exchange_delete(name, if_unused=True))
