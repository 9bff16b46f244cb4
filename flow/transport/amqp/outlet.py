"""Publishing in order, with many messages in flight. Each outlet has a channel of its own."""

from __future__ import annotations

import asyncio
import uuid
from collections import deque

import aiormq
from aiormq import spec

from flow.errors import TransportError, Unroutable
from flow.topology import MAX_KEY_BYTES
from flow.transport.amqp.faults import CALL_ERRORS, mark_seen
from flow.transport.port import Publication

#: Messages handed to the broker and not confirmed yet; further ones wait in memory, in order.
WINDOW = 500

_PERSISTENT = 2


class AmqpOutlet:
    """See :class:`flow.transport.port.Outlet`.

    Order: each message has a task, tasks start in call order, and aiormq takes a fair lock around
    "number the message and put it on the wire", so the wire has them in call order too.
    """

    def __init__(self, channel: aiormq.Channel, user_id: str | None) -> None:
        self._channel = channel
        self._user_id = user_id
        self._waiting: deque[tuple[Publication, asyncio.Future[None]]] = deque()
        self._sending: dict[asyncio.Task[None], asyncio.Future[None]] = {}
        self._lost: list[asyncio.Future[None]] = []
        self._closed: str | None = None

    def publish(self, publication: Publication) -> asyncio.Future[None]:
        if len(publication.key.encode()) > MAX_KEY_BYTES:
            raise ValueError(f"routing key: expected at most 255 bytes, got {publication.key!r}")
        confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        confirmed.add_done_callback(mark_seen)  # the caller may drop it: log chunks
        self._waiting.append((publication, confirmed))
        if self._closed is None:
            self._pump()
        else:
            self._fail_all(self._closed)
        return confirmed

    def shut(self, reason: str) -> list[asyncio.Task[None]]:
        """Publish nothing more and fail what is unconfirmed. Returns the tasks still ending."""
        self._closed = reason
        self._fail_all(reason)
        tasks = list(self._sending)
        for task in tasks:
            task.cancel()
        return tasks

    def _fail_all(self, reason: str) -> None:
        unconfirmed = [*self._lost, *self._sending.values(), *(each for _, each in self._waiting)]
        self._lost.clear()
        self._waiting.clear()
        for future in unconfirmed:
            _fail(future, TransportError(f"closed before the broker confirmed: {reason}"))

    def _pump(self) -> None:
        while self._waiting and len(self._sending) < WINDOW:
            publication, confirmed = self._waiting.popleft()
            task = asyncio.create_task(self._send(publication, confirmed))
            self._sending[task] = confirmed
            task.add_done_callback(self._sent)

    def _sent(self, task: asyncio.Task[None]) -> None:
        del self._sending[task]
        self._pump()

    async def _send(self, publication: Publication, confirmed: asyncio.Future[None]) -> None:
        where = f"message to {publication.exchange} with key {publication.key!r}"
        try:
            await self._channel.basic_publish(
                publication.body,
                exchange=publication.exchange,
                routing_key=publication.key,
                properties=self._properties(publication),
                mandatory=publication.mandatory,
                wait=False,
            )
        except aiormq.PublishError:
            _fail(confirmed, Unroutable(f"{where}: no queue is bound under this key"))
        except aiormq.DeliveryError:
            _fail(confirmed, TransportError(f"{where}: a queue refused it; is it full?"))
        except (asyncio.CancelledError, *CALL_ERRORS):
            # The channel has closed, and the link is about to, with a better reason: shut() will
            # fail this message with it. (aiormq says CancelledError for a silent connection; the
            # task's own cancellation comes from shut(), when there is nothing left to do.)
            self._lost.append(confirmed)
        except Exception as error:  # noqa: BLE001 - told to the caller
            _fail(confirmed, error)
        else:
            if not confirmed.done():
                confirmed.set_result(None)

    def _properties(self, publication: Publication) -> spec.Basic.Properties:
        expiration = publication.expiration
        return spec.Basic.Properties(
            content_type="application/json",
            delivery_mode=_PERSISTENT,
            expiration=None if expiration is None else str(max(0, round(expiration * 1000))),
            headers=dict(publication.headers),
            # aiormq finds the future of a returned message by this id alone.
            message_id=uuid.uuid4().hex,
            # The broker checks that this is the login user, so the receiver can trust it.
            user_id=self._user_id,
        )


def _fail(future: asyncio.Future[None], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
