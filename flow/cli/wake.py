"""The bell after a request: without it the dispatcher finds the request within a poll interval.

Over SQLite the dispatcher may be part of `flow standalone`, which listens in its home folder. A
broker that was set up by hand is asked where it does not; the default one, which need not exist,
is not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flow.cli.broker import open_channel, tls_of
from flow.errors import TransportError
from flow.topology import EVENTS, WAKE_KEY

if TYPE_CHECKING:
    from flow.config import Config
    from flow.transport.tls import Tls


def wake(config: Config) -> TransportError | None:
    """Tell the leading dispatcher to look for requests now; what went wrong, if anything: it
    costs a second, not the request."""
    if config.database.is_sqlite:
        from flow.cli.wakesocket import ring

        failure = ring(config.home)
        if failure is None or not _has_broker(config):
            return failure
    return wake_by_broker(config.broker.url.reveal(), tls_of(config))


def is_embedded(config: Config) -> bool:
    """Whether there is no broker to be asked, as far as can be told: `flow standalone` runs, or
    would be the one to run."""
    if not config.database.is_sqlite:
        return False
    from flow.cli.wakesocket import ring

    return not _has_broker(config) or ring(config.home) is None


def wake_by_broker(url: str, tls: Tls | None = None) -> TransportError | None:
    """Ring the bell at the broker; what went wrong, if anything."""
    from flow.wire import Wake, encode

    try:
        with open_channel(url, tls) as channel:
            channel.basic_publish(EVENTS, WAKE_KEY, encode(Wake()))
    except TransportError as error:
        return error
    return None


def _has_broker(config: Config) -> bool:
    return "broker.url" in config.sources
