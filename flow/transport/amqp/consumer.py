"""Deliveries and their acknowledgement. Each consumer has a channel of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import aiormq
from aiormq.abc import DeliveredMessage

from flow.transport.amqp import frames
from flow.transport.amqp.connection import Connection
from flow.transport.amqp.tap import Tap
from flow.transport.port import Delivery


class AmqpDelivery:
    """See :class:`flow.transport.port.Delivery`."""

    __slots__ = ("_consumer", "_header", "body", "redelivered", "routing_key", "tag")

    def __init__(self, consumer: Consumer, method: bytes, header: bytes, body: bytes) -> None:
        self._consumer = consumer
        self._header = header
        self.tag, self.redelivered, self.routing_key = frames.delivered(method)
        self.body = body

    @property
    def headers(self) -> Mapping[str, object]:
        return frames.headers(self._header)

    @property
    def user_id(self) -> str | None:
        return frames.properties(self._header).user_id

    def ack(self, *, multiple: bool = False) -> None:
        self._consumer.settle(self.tag, multiple=multiple)


class Consumer(Tap):
    """Hands deliveries on and sends their acknowledgements, in order, without making anyone wait.

    It remembers what is unacknowledged: acknowledging a tag that the broker does not know (any
    more) would make the broker close the channel.
    """

    def __init__(
        self,
        queue: str,
        connection: Connection,
        channel: aiormq.Channel,
        on_delivery: Callable[[Delivery], None],
        on_crash: Callable[[Exception], None],
        *,
        prefetch: int,
        single_active: bool,
    ) -> None:
        super().__init__()
        self.queue = queue
        self._connection = connection
        self._channel = channel
        self._on_delivery = on_delivery
        self._on_crash = on_crash
        self._prefetch = prefetch
        self._single_active = single_active
        self._delivered = 0
        self._hungry_at: int | None = None
        self._unsettled: dict[int, None] = {}  # delivery tags, ascending
        self._closed = False

    async def begin(self) -> None:
        """Have the broker deliver. Raises what aiormq raises."""
        self._connection.tap(self._channel.number, self)
        await self._channel.basic_qos(prefetch_count=self._prefetch)
        await self._channel.basic_consume(self.queue, _never)

    def begins_content(self, name: bytes) -> bool:
        return name == frames.DELIVER

    def method(self, name: bytes, _payload: bytes, /) -> bool:
        if name == frames.CLOSE:
            self._closed = True  # what is said on a closed channel ends the connection
        return False

    def content(self, method: bytes, header: bytes, body: bytes, /) -> None:
        """A message is here."""
        if self._closed:
            return
        try:
            delivery = AmqpDelivery(self, method, header, body)
            self._unsettled[delivery.tag] = None
            self._delivered += 1
            self._on_delivery(delivery)
        except Exception as error:  # noqa: BLE001 - told to the link, which closes with it
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
        self._connection.send(frames.ack(self._channel.number, settled[-1], multiple=multiple))

    def shut(self) -> None:
        """Neither deliver nor acknowledge any more."""
        self._closed = True


async def _never(message: DeliveredMessage) -> None:
    raise AssertionError(f"aiormq was shown a delivery: {message!r}")
