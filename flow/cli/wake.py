"""The bell after a request: without it the dispatcher finds the request within a poll interval."""

from __future__ import annotations

from flow.cli.broker import open_channel
from flow.errors import TransportError
from flow.topology import EVENTS, WAKE_KEY


def wake(url: str) -> TransportError | None:
    """Tell the leading dispatcher to look for requests now; what went wrong, if anything: it
    costs a second, not the request."""
    from flow.wire import Wake, encode

    try:
        with open_channel(url) as channel:
            channel.basic_publish(EVENTS, WAKE_KEY, encode(Wake()))
    except TransportError as error:
        return error
    return None
