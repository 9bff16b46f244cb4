"""What dispatcher and agent need from a broker. One contract suite holds every implementation.

A :class:`Link` lives once: when anything about it breaks (connection, channel, a consumer that the
broker cancelled), the whole link closes with a reason, and its owner connects anew and builds
everything again from one function. There is no hidden recovery.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from flow.topology import QueueSpec


@dataclass(frozen=True, slots=True)
class Publication:
    """One message to publish. Always persistent; ``expiration`` in seconds."""

    exchange: str
    key: str
    body: bytes
    mandatory: bool = True
    expiration: float | None = None
    headers: Mapping[str, str | int] = field(default_factory=dict)


class Delivery(Protocol):
    """A message in the hands of a consumer, unacknowledged until :meth:`ack`."""

    @property
    def body(self) -> bytes: ...
    @property
    def routing_key(self) -> str: ...
    @property
    def headers(self) -> Mapping[str, object]: ...
    @property
    def redelivered(self) -> bool: ...
    @property
    def user_id(self) -> str | None:
        """The broker-validated user of the publisher, if it stated one."""

    def ack(self, *, multiple: bool = False) -> None:
        """Settle this delivery (``multiple``: and all earlier ones of its consumer). Does not
        wait. Doing it twice, or after the link has closed, is harmless."""


class Outlet(Protocol):
    """One ordered way out (an AMQP channel of its own)."""

    def publish(self, publication: Publication) -> asyncio.Future[None]:
        """Hand the message over now, in call order; the future is done once the broker has
        confirmed it as routed. It fails with :class:`~flow.errors.Unroutable` when a mandatory
        message fits no queue, with :class:`~flow.errors.TransportError` when the link closes
        first: then nobody knows whether it arrived. The future may be dropped.

        Raises :class:`ValueError` when the key is longer than AMQP's 255 bytes."""


class Link(Protocol):
    """One live connection."""

    async def declare(self, queue: QueueSpec) -> None:
        """Make sure that flow's exchanges, the queue and its binding exist. Doing it again is
        harmless. Raises :class:`~flow.errors.BrokerRefused` when the queue exists with other
        arguments, or without the right to declare it; the link lives on.

        Who declares nothing but exclusive queues needs no right to declare exchanges, as long as
        somebody else has done so."""

    async def consume(
        self, queue: str, on_delivery: Callable[[Delivery], None], *, prefetch: int
    ) -> None:
        """Receive from *queue*, at most *prefetch* unacknowledged, in order, until the link
        closes. *on_delivery* must not block, may be called before this returns, and ends the link
        when it raises."""

    async def outlet(self) -> Outlet: ...

    async def ready_count(self, queue: str) -> int | None:
        """How many messages wait in *queue*, unacknowledged ones not counted; ``None``: no such
        queue."""

    @property
    def user(self) -> str | None:
        """The user whom what is published here states as :attr:`Delivery.user_id`."""

    @property
    def blocked(self) -> bool:
        """The broker holds back what this link publishes (memory or disk alarm). It says so when
        something is published, not before."""

    def watch_blocked(self, callback: Callable[[float], None]) -> None:
        """From now on call *callback* with 0.0 whenever the broker begins to hold back what this
        link publishes, and again and again while it does, with a lower bound of the seconds for
        which that has been proven: by what the broker has sent, never by when it came. Ask before
        publishing anything. *callback* must not block or raise."""

    async def wait_closed(self) -> str:
        """Return the reason once the link is closed, by whichever side."""

    async def close(self) -> None:
        """Close; unacknowledged deliveries go back to their queues in order. Safe twice."""


class Broker(Protocol):
    """Where links come from."""

    async def connect(self, name: str) -> Link:
        """Open a link that shows as *name* in the broker's listings.

        Raises :class:`~flow.errors.BrokerRefused` when the broker says no,
        :class:`~flow.errors.TransportError` when it cannot be reached.
        """
