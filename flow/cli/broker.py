"""A short-lived connection to the broker, for one command."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from flow.errors import BrokerRefused, TransportError

if TYPE_CHECKING:
    import pika
    from pika.adapters.blocking_connection import BlockingChannel

    from flow.config import Config
    from flow.transport.tls import Tls

#: Seconds for each step of connecting, and for a broker that blocks publishers.
PATIENCE = 2.0
#: Of the URL's parameters, what a command has a use for.
_PARAMETERS = ("heartbeat",)
#: ACCESS_REFUSED, and NOT_ALLOWED for an unknown virtual host (AMQP 0-9-1, reply codes).
_REFUSED = (403, 530)


def tls_of(config: Config) -> Tls:
    """What the settings say of TLS."""
    from flow.transport.tls import Tls

    broker = config.broker
    return Tls(broker.ca_file, broker.cert_file, broker.key_file)


@contextmanager
def open_channel(url: str, tls: Tls | None = None) -> Iterator[BlockingChannel]:
    """A channel on a connection of its own, in confirm mode; both end with the block. *url* and
    *tls* are read as by :class:`flow.transport.amqp.AmqpBroker`.

    Raises :class:`BrokerRefused` or :class:`TransportError`, also for what fails inside the block.
    """
    import pika
    from pika import exceptions

    from flow.transport.tls import DEFAULT

    _silence()
    tls = (tls or DEFAULT).or_of(url)
    settings = _parameters(url, tls)
    settings.socket_timeout = settings.stack_timeout = PATIENCE
    settings.blocked_connection_timeout = PATIENCE
    settings.connection_attempts = 1
    settings.client_properties = {"connection_name": "flow command"}
    where = f"broker {settings.host}:{settings.port}"
    try:
        connection = pika.BlockingConnection(settings)
    except (exceptions.AMQPError, OSError) as error:
        if settings.ssl_options is not None:
            unsafe = tls.problem(_innermost(error), settings.host)
            if unsafe is not None:
                raise TransportError(f"{where}: {unsafe}") from error
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


def _parameters(url: str, tls: Tls) -> pika.ConnectionParameters:
    """pika refuses a URL without a password and parameters that it does not know."""
    import pika

    parts = urlsplit(url)
    known = [(name, text) for name, text in parse_qsl(parts.query) if name in _PARAMETERS]
    host = parts.netloc.rpartition("@")[2]
    plain = urlunsplit(parts._replace(netloc=host, query=urlencode(known)))
    settings: pika.ConnectionParameters = pika.URLParameters(plain)
    if parts.scheme == "amqps":
        settings.ssl_options = pika.SSLOptions(tls.context(), settings.host)
    if parts.scheme == "amqps" and tls.cert_file is not None and not parts.password:
        settings.credentials = pika.credentials.ExternalCredentials()
    elif parts.username:
        user, password = unquote(parts.username), unquote(parts.password or "guest")
        settings.credentials = pika.PlainCredentials(user, password)
    return settings


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
    """What happened, in the words of the broker where it said any."""
    inner = _innermost(error)
    words = getattr(inner, "reply_text", None)
    if words is None and len(inner.args) == 1:
        words = inner.args[0]
    return " ".join(str(words or inner).split()) or type(inner).__name__


def _innermost(error: BaseException) -> BaseException:
    """Dug out of the exceptions that pika wraps it in."""
    attempts = getattr(error, "exceptions", ())
    inner = attempts[-1] if attempts else getattr(error, "exception", None)
    if inner is None and len(error.args) == 1:
        inner = error.args[0]
    return _innermost(inner) if isinstance(inner, BaseException) else error


def _silence() -> None:
    """pika logs every failure it raises, with its traceback."""
    logger = logging.getLogger("pika")
    logger.propagate = False
    logger.addHandler(logging.NullHandler())
