"""Deliveries and their acknowledgement. Each consumer has a channel of its own."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping

import aiormq
from aiormq.abc import DeliveredMessage

from flow.transport.amqp.faults import CALL_ERRORS
from flow.transport.port import Delivery


class AmqpDelivery:
    """See :class:`flow.transport.port.Delivery`."""

    __slots__ = ("_consumer", "_message", "_tag")

    def __init__(self, consumer: Consumer, message: DeliveredMessage, tag: int) -> None:
        self._consumer = consumer
        self._message = message
        self._tag = tag

    @property
    def body(self) -> bytes:
        return self._message.body

    @property
    def routing_key(self) -> str:
        return self._message.routing_key or ""

    @property
    def headers(self) -> Mapping[str, object]:
        return self._message.header.properties.headers or {}

    @property
    def redelivered(self) -> bool:
        return bool(self._message.redelivered)

    @property
    def user_id(self) -> str | None:
        return self._message.header.properties.user_id

    def ack(self, *, multiple: bool = False) -> None:
        self._consumer.settle(self._tag, multiple=multiple)


class Consumer:
    """Hands deliveries on and sends their acknowledgements, in order, without making anyone wait.

    It remembers what is unacknowledged: acknowledging a tag that the broker does not know (any
    more) would make the broker close the channel.
    """

    def __init__(
        self,
        queue: str,
        channel: aiormq.Channel,
        on_delivery: Callable[[Delivery], None],
        on_crash: Callable[[Exception], None],
        *,
        prefetch: int,
        single_active: bool,
    ) -> None:
        self.queue = queue
        self._channel = channel
        self._on_delivery = on_delivery
        self._on_crash = on_crash
        self._prefetch = prefetch
        self._single_active = single_active
        self._delivered = 0
        self._hungry_at: int | None = None
        self._unsettled: dict[int, None] = {}  # delivery tags, ascending
        self._acks: deque[tuple[int, bool]] = deque()
        self._sending: asyncio.Task[None] | None = None
        self._closed = False

    async def receive(self, message: DeliveredMessage) -> None:
        """Take one message from the channel."""
        tag = message.delivery_tag
        if self._closed or tag is None:
            return
        self._unsettled[tag] = None
        self._delivered += 1
        try:
            self._on_delivery(AmqpDelivery(self, message, tag))
        except Exception as error:  # noqa: BLE001 - told to the link, which closes with it
            # aiormq would only log it, and the message would stay unacknowledged for ever.
            self._on_crash(error)

    def passed_over(self, waiting: int) -> bool:
        """Look at it while *waiting* messages are ready in its queue: true when some were ready at
        the look before as well, and it had room for one all the time, and none has come.

        A broker hands a ready message to any consumer with room, so it has forgotten this one. It
        shows only so where others consume from the queue too, which an AMQP client cannot tell
        apart; while nothing waits, being forgotten harms nobody. Of a queue with a single active
        consumer, one that has never got anything may be another's stand-in.
        """
        served = self._delivered > 0 or not self._single_active
        hungry = waiting > 0 and served and len(self._unsettled) < self._prefetch
        before, self._hungry_at = self._hungry_at, self._delivered if hungry else None
        return hungry and before == self._delivered

    def settle(self, tag: int, *, multiple: bool) -> None:
        """Acknowledge *tag* (``multiple``: and everything before it) if that is still open."""
        if self._closed:
            return
        if multiple:
            # The broker must know the tag itself: name the last open one.
            settled = []
            for open_tag in self._unsettled:
                if open_tag > tag:
                    break
                settled.append(open_tag)
        else:
            settled = [tag] if tag in self._unsettled else []
        if not settled:
            return
        for open_tag in settled:
            del self._unsettled[open_tag]
        self._acks.append((settled[-1], multiple))
        if self.sending is None:
            self._sending = asyncio.create_task(self._send_acks())

    @property
    def sending(self) -> asyncio.Task[None] | None:
        """Done once every acknowledgement so far has been handed to the socket; ``None``: there
        are none on their way."""
        return None if self._sending is None or self._sending.done() else self._sending

    def shut(self) -> list[asyncio.Task[None]]:
        """Neither deliver nor acknowledge any more. Returns the tasks that are still ending."""
        self._closed = True
        self._acks.clear()
        sending = self.sending
        if sending is None:
            return []
        sending.cancel()
        return [sending]

    async def _send_acks(self) -> None:
        try:
            while self._acks:
                tag, multiple = self._acks.popleft()
                # Waiting for the socket at the last one only keeps the buffers bounded, and lets
                # ``sending`` tell that everything is out.
                await self._channel.basic_ack(tag, multiple, wait=not self._acks)
        except CALL_ERRORS:
            # The channel has closed, and with it the link, whose owner is told the reason; the
            # broker delivers these messages again.
            self._acks.clear()
