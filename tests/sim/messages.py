"""What simulated processes publish: messages as they are, not encoded."""

from __future__ import annotations

from typing import NamedTuple

from flow.wire import Message


class Out(NamedTuple):
    """See :class:`flow.transport.port.Publication`; ``body`` is the message itself."""

    exchange: str
    key: str
    body: Message
    mandatory: bool = True
    expiration: float | None = None
