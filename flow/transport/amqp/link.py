"""One live link: two connections, their channels, and one end for all of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import aiormq

from flow.errors import TransportError
from flow.topology import EXCHANGES, QueueSpec
from flow.transport.amqp.connection import Connection, watch
from flow.transport.amqp.consumer import Consumer
from flow.transport.amqp.faults import CALL_ERRORS, closing_reason, mark_seen, refusal
from flow.transport.amqp.outlet import AmqpOutlet
from flow.transport.port import Delivery, Outlet

log = logging.getLogger(__name__)
T = TypeVar("T")


class AmqpLink:
    """See :class:`flow.transport.port.Link`.

    Consuming and publishing have a connection each: the broker stops reading from a connection
    that publishes while it has an alarm, and acknowledgements must not be stuck behind that.
    """

    def __init__(
        self,
        consuming: Connection,
        publishing: Connection,
        *,
        user_id: str | None,
        check_interval: float,
        call_limit: float,
        close_limit: float,
    ) -> None:
        self._consuming = consuming
        self._publishing = publishing
        self._user_id = user_id
        self._check_interval = check_interval
        self._call_limit = call_limit
        self._close_limit = close_limit
        self._consumers: list[Consumer] = []
        self._outlets: list[AmqpOutlet] = []
        self._calls: set[asyncio.Task[Any]] = set()
        self._established: list[Consumer] = []  # those that the broker has confirmed
        self._single_active: set[str] = set()  # queues of which one consumer is served
        self._exchanges_declared = False
        self._reason: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._ending: asyncio.Task[None] | None = None
        self._checker = asyncio.create_task(self._check_consumers())
        for connection in consuming, publishing:
            connection.on_close(self._ender("connection"))
        publishing.watch_held(self._log_held)

    # -- the port ----------------------------------------------------------------------------

    async def declare(self, queue: QueueSpec) -> None:
        async def declare(channel: aiormq.Channel) -> None:
            await channel.queue_declare(
                queue.name,
                durable=queue.durable,
                exclusive=queue.exclusive,
                arguments=dict(queue.arguments),
            )
            await channel.queue_bind(queue.name, queue.exchange, queue.key)

        what = f"declare queue {queue.name}"
        await self._declare_exchanges(what, make=not queue.exclusive)
        await self._call(what, self._aside(declare))
        if queue.arguments.get("x-single-active-consumer"):
            self._single_active.add(queue.name)

    async def _declare_exchanges(self, what: str, *, make: bool) -> None:
        """Once per link. Whoever does not *make* them makes do with those that are there: an
        agent may have no right to, and RabbitMQ's log would name every attempt."""
        if self._exchanges_declared:
            return

        async def exist(channel: aiormq.Channel) -> bool:
            try:
                for exchange in EXCHANGES:
                    await channel.exchange_declare(exchange, passive=True)
            except aiormq.ChannelNotFoundEntity:
                return False
            except aiormq.ChannelAccessRefused:
                # From RabbitMQ 4.3 on one may not even look without any right to an exchange.
                return True
            return True

        async def declare(channel: aiormq.Channel) -> None:
            for exchange in EXCHANGES:
                await channel.exchange_declare(exchange, exchange_type="topic", durable=True)

        if make or not await self._call(what, self._aside(exist)):
            await self._call(what, self._aside(declare))
            self._exchanges_declared = True

    async def consume(
        self, queue: str, on_delivery: Callable[[Delivery], None], *, prefetch: int
    ) -> None:
        await self._call(f"consume from {queue}", self._consume(queue, on_delivery, prefetch))

    async def outlet(self) -> Outlet:
        channel = await self._call("open an outlet", self._publishing.channel(confirms=True))
        outlet = AmqpOutlet(self._publishing, channel, self._user_id)
        self._outlets.append(outlet)
        watch(channel, self._ender("publish channel"))
        return outlet

    async def ready_count(self, queue: str) -> int | None:
        async def count(channel: aiormq.Channel) -> int | None:
            try:
                found = await channel.queue_declare(queue, passive=True)
            except aiormq.ChannelNotFoundEntity:
                return None
            return found.message_count

        return await self._call(f"look at queue {queue}", self._aside(count))

    @property
    def user(self) -> str | None:
        return self._user_id

    @property
    def blocked(self) -> bool:
        return not self._reason.done() and self._publishing.blocked

    def watch_blocked(self, callback: Callable[[float], None]) -> None:
        def held(proven: float | None) -> None:
            if proven is not None and not self._reason.done():
                callback(proven)

        self._publishing.watch_held(held)

    def _log_held(self, proven: float | None) -> None:
        if proven is None:
            log.warning("the broker's alarm is over: it takes messages again")
        elif proven == 0.0:
            why = self._publishing.held_reason
            log.warning("the broker has an alarm (%s) and takes no messages until it is over", why)

    async def wait_closed(self) -> str:
        reason = await asyncio.shield(self._reason)
        await self._ended()
        return reason

    async def close(self) -> None:
        self._end("closed by this side")
        await self._ended()

    # -- one end for everything --------------------------------------------------------------

    def _ender(self, channel: str) -> Callable[[BaseException | None], None]:
        return lambda error: self._end(closing_reason(channel, error))

    def _end(self, reason: str) -> None:
        """Close everything, because of *reason*. Only the first reason counts."""
        if self._reason.done():
            return
        self._reason.set_result(reason)
        self._checker.cancel()
        leftovers: list[asyncio.Task[Any]] = [self._checker, *self._calls]
        for outlet in self._outlets:
            outlet.shut(reason)
        for consumer in self._consumers:
            consumer.shut()
        self._ending = asyncio.create_task(self._shut_connections(leftovers))

    async def _shut_connections(self, leftovers: list[asyncio.Task[Any]]) -> None:
        shuts = (each.shut(self._close_limit) for each in (self._consuming, self._publishing))
        await asyncio.gather(*shuts)
        if leftovers:
            await asyncio.wait(leftovers, timeout=self._close_limit)

    async def _ended(self) -> None:
        if self._ending is not None:
            await asyncio.shield(self._ending)

    # -- calls to the broker -----------------------------------------------------------------

    async def _call(self, what: str, operation: Coroutine[Any, Any, T]) -> T:
        """Do *operation* unless the link closes or the broker is silent for too long.

        It runs as a task of its own, since aiormq ends calls with CancelledError when it loses
        the connection, which must not look like a cancellation of our caller.
        """
        if self._reason.done():
            operation.close()
            raise TransportError(f"{what}: link is closed: {self._reason.result()}")
        task = asyncio.create_task(operation)
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        task.add_done_callback(mark_seen)
        either: set[asyncio.Future[Any]] = {task, self._reason}
        try:
            await asyncio.wait(
                either, timeout=self._call_limit, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            task.cancel()
        if task.done() and not self._reason.done():
            error = None if task.cancelled() else task.exception()
            if error is None and not task.cancelled():
                return task.result()
            if isinstance(error, aiormq.AMQPChannelError):
                raise refusal(what, error) from error
            if error is not None and not isinstance(error, CALL_ERRORS):
                raise error
            # The connection has gone under the call: the link is about to tell why.
            await asyncio.wait({self._reason}, timeout=1.0)
        reason = self._reason.result() if self._reason.done() else "the broker does not answer"
        raise TransportError(f"{what}: {reason}")

    async def _aside(self, operation: Callable[[aiormq.Channel], Coroutine[Any, Any, T]]) -> T:
        """Do *operation* on a channel of its own: a refusal closes that channel only. It is on
        the consuming connection, to which exclusive queues belong."""
        channel = await self._consuming.channel()
        try:
            return await operation(channel)
        finally:
            await channel.close()

    async def _consume(
        self, queue: str, on_delivery: Callable[[Delivery], None], prefetch: int
    ) -> None:
        channel = await self._consuming.channel()
        if self._reason.done():
            return  # nobody waits for this call any more, and nobody would shut the consumer

        def crashed(error: Exception) -> None:
            asyncio.get_running_loop().call_exception_handler(
                {"message": f"receiver of {queue} failed", "exception": error}
            )
            self._end(f"receiver of {queue} failed: {error!r}")

        def cancelled(_: object) -> None:
            self._end(f"broker cancelled consumer of {queue}")

        consumer = Consumer(
            queue,
            self._consuming,
            channel,
            on_delivery,
            crashed,
            prefetch=prefetch,
            single_active=queue in self._single_active,
        )
        channel.on_consumer_cancel_callbacks.add(cancelled)
        self._consumers.append(consumer)
        try:
            await consumer.begin()
        except BaseException:
            self._consumers.remove(consumer)
            consumer.shut()
            await channel.close()
            raise
        watch(channel, self._ender(f"channel of consumer of {queue}"))
        self._established.append(consumer)

    async def _check_consumers(self) -> None:
        """Notice a consumer that the broker has forgotten, or passes over, without telling."""
        while True:
            # Consumers that are new since then have the next turn: a replica may count late.
            consumers = list(self._established)
            await asyncio.sleep(self._check_interval)
            for consumer in consumers:
                queue = consumer.queue
                try:
                    found = await self._call(f"check {queue}", self._aside(_looker(queue)))
                except TransportError as error:
                    self._end(str(error))
                    return
                if found.consumer_count == 0:
                    self._end(f"broker has no consumer of {queue} any more")
                    return
                if consumer.passed_over(found.message_count or 0):
                    self._end(f"broker delivers nothing from {queue}, although messages wait there")
                    return


def _looker(
    queue: str,
) -> Callable[[aiormq.Channel], Coroutine[Any, Any, aiormq.spec.Queue.DeclareOk]]:
    async def look(channel: aiormq.Channel) -> aiormq.spec.Queue.DeclareOk:
        return await channel.queue_declare(queue, passive=True)

    return look
