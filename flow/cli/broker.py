"""A short-lived connection to the broker, for one command."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from flow.errors import BrokerRefused, TransportError

if TYPE_CHECKING:
    from pika.adapters.blocking_connection import BlockingChannel

#: Seconds for each step of connecting, and for a broker that blocks publishers.
PATIENCE = 2.0
#: ACCESS_REFUSED, and NOT_ALLOWED for an unknown virtual host (AMQP 0-9-1, reply codes).
_REFUSED = (403, 530)


@contextmanager
def open_channel(url: str) -> Iterator[BlockingChannel]:
    """A channel on a connection of its own, in confirm mode; both end with the block.

    Raises :class:`BrokerRefused` or :class:`TransportError`, also for what fails inside the block.
    """
    import pika
    from pika import exceptions

    _silence()
    settings = pika.URLParameters(url)
    settings.socket_timeout = settings.stack_timeout = PATIENCE
    settings.blocked_connection_timeout = PATIENCE
    settings.connection_attempts = 1
    settings.client_properties = {"connection_name": "flow command"}
    where = f"broker {settings.host}:{settings.port}"
    try:
        connection = pika.BlockingConnection(settings)
    except (exceptions.AMQPError, OSError) as error:
        raise _translated(where, error) from error
    try:
        try:
            channel = connection.channel()
            channel.confirm_delivery()
            yield channel
        finally:
            if connection.is_open:
                connection.close()
    except exceptions.AMQPError as error:
        # No OSError: inside the block that would be somebody else's, such as a closed stdout.
        raise _translated(where, error) from error


def _translated(where: str, error: BaseException) -> TransportError:
    from pika import exceptions

    text = _text(error)
    closed = (exceptions.ChannelClosedByBroker, exceptions.ConnectionClosedByBroker)
    logins = (exceptions.ProbableAuthenticationError, exceptions.ProbableAccessDeniedError)
    refused = isinstance(error, closed) and error.reply_code in _REFUSED
    if refused or isinstance(error, logins):
        return BrokerRefused(f"{where}: expected to be let in, got {text!r}; check broker.url")
    if isinstance(error, closed):
        return TransportError(f"{where}: expected it to do as told, got {text!r}")
    return TransportError(f"{where}: expected an answer, got {text!r}; is it running?")


def _text(error: BaseException) -> str:
    """What happened, dug out of the exceptions that pika wraps it in."""
    inner: object = getattr(error, "reply_text", None)  # the broker's own words
    if inner is None:
        attempts = getattr(error, "exceptions", ())
        inner = attempts[-1] if attempts else getattr(error, "exception", None)
    if inner is None and len(error.args) == 1:
        inner = error.args[0]
    if isinstance(inner, BaseException):
        return _text(inner)
    return " ".join(str(inner or error).split()) or type(error).__name__


def _silence() -> None:
    """pika logs every failure it raises, with its traceback."""
    logger = logging.getLogger("pika")
    logger.propagate = False
    logger.addHandler(logging.NullHandler())
