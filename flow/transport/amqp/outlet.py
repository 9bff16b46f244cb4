"""Publishing in order, with many messages in flight. Each outlet has a channel of its own."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import NamedTuple

import aiormq

from flow.errors import FlowError, TransportError, Unroutable
from flow.topology import MAX_KEY_BYTES
from flow.transport.amqp import frames
from flow.transport.amqp.connection import Connection
from flow.transport.amqp.faults import mark_seen
from flow.transport.amqp.tap import Tap
from flow.transport.port import Publication

#: Messages handed to the broker and not confirmed yet; further ones wait in memory, in order.
WINDOW = 500


class _Sent(NamedTuple):
    publication: Publication
    confirmed: asyncio.Future[None]

    @property
    def where(self) -> str:
        """Where it went, for a message."""
        return f"message to {self.publication.exchange} with key {self.publication.key!r}"


class AmqpOutlet(Tap):
    """See :class:`flow.transport.port.Outlet`. Nobody else publishes on its channel, on which the
    broker counts what is published from 1 (RabbitMQ manual, "Publisher Confirms")."""

    def __init__(
        self, connection: Connection, channel: aiormq.Channel, user_id: str | None
    ) -> None:
        super().__init__()
        self._connection = connection
        self._channel = channel.number
        self._user_id = user_id
        self._frame_max = connection.frame_max
        self._waiting: deque[_Sent] = deque()
        self._unconfirmed: dict[int, _Sent] = {}  # by the broker's count, ascending
        self._last = 0
        self._closing = False
        self._closed: str | None = None
        connection.tap(channel.number, self)

    def publish(self, publication: Publication) -> asyncio.Future[None]:
        if len(publication.key.encode()) > MAX_KEY_BYTES:
            raise ValueError(f"routing key: expected at most 255 bytes, got {publication.key!r}")
        confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        confirmed.add_done_callback(mark_seen)  # the caller may drop it: log chunks
        self._waiting.append(_Sent(publication, confirmed))
        if self._closed is None:
            self._pump()
        else:
            self._fail_all(self._closed)
        return confirmed

    def shut(self, reason: str) -> None:
        """Publish nothing more and fail what is unconfirmed."""
        self._closed = reason
        self._fail_all(reason)

    def _fail_all(self, reason: str) -> None:
        unconfirmed = [*self._unconfirmed.values(), *self._waiting]
        self._unconfirmed.clear()
        self._waiting.clear()
        for sent in unconfirmed:
            _settle(sent, TransportError(f"closed before the broker confirmed: {reason}"))

    def _pump(self) -> None:
        while self._waiting and len(self._unconfirmed) < WINDOW and not self._closing:
            sent = self._waiting.popleft()
            self._last += 1
            self._unconfirmed[self._last] = sent
            self._connection.send(
                frames.publish(
                    self._channel,
                    sent.publication,
                    # By this a message that comes back is known.
                    message_id=str(self._last),
                    # The broker checks that this is the login user, so the receiver can trust it.
                    user_id=self._user_id,
                    frame_max=self._frame_max,
                )
            )

    # -- from the broker -----------------------------------------------------------------------

    def begins_content(self, name: bytes) -> bool:
        return name == frames.RETURN

    def method(self, name: bytes, payload: bytes, /) -> bool:
        if name in (frames.ACK, frames.NACK):
            self._confirm(*frames.confirmed(payload), refused=name == frames.NACK)
            return True
        if name == frames.CLOSE:
            # The link is about to close, and shut() to tell why. What is said on a closed channel
            # ends the connection, which would look like the reason.
            self._closing = True
        return False

    def content(self, _method: bytes, header: bytes, _body: bytes, /) -> None:
        """A mandatory message has come back. The broker confirms it afterwards, as if it had been
        routed."""
        number = frames.properties(header).message_id or ""
        sent = self._unconfirmed.get(int(number)) if number.isdecimal() else None
        if sent is not None:
            _settle(sent, Unroutable(f"{sent.where}: no queue is bound under this key"))

    def _confirm(self, tag: int, multiple: bool, *, refused: bool) -> None:  # noqa: FBT001 - AMQP's
        tags = [tag]
        if multiple:
            tags = []
            for each in self._unconfirmed:
                if each > tag:
                    break
                tags.append(each)
        for each in tags:
            sent = self._unconfirmed.pop(each, None)
            if sent is None:
                continue
            full = f"{sent.where}: a queue refused it; is it full?" if refused else ""
            _settle(sent, TransportError(full) if refused else None)
        self._pump()


def _settle(sent: _Sent, failure: FlowError | None) -> None:
    if sent.confirmed.done():
        return
    if failure is None:
        sent.confirmed.set_result(None)
    else:
        sent.confirmed.set_exception(failure)
