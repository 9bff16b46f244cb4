"""One AMQP connection together with its socket."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, cast

import aiormq
from yarl import URL

from flow.transport.amqp.faults import mark_seen


class _Protocol(aiormq.Connection):
    #: A peer is dead after two silent heartbeat intervals (AMQP 0-9-1, section 4.2.7). aiormq
    #: waits for three, which would use up more than half of an agent's lease.
    HEARTBEAT_GRACE_MULTIPLIER = 2


class _Socket(aiormq.TransportFactory):
    """Opens the socket the way aiormq does, and keeps hold of it so that it can be aborted."""

    writer: asyncio.StreamWriter | None = None

    async def create(
        self, url: URL, **kwargs: Any
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        provider: aiormq.SSLContextProvider = kwargs.pop("ssl_context_provider")
        context = await provider.get_context() if url.scheme == "amqps" else None
        reader, self.writer = await asyncio.open_connection(
            url.host, url.port, ssl=context, **kwargs
        )
        return reader, self.writer


class Connection:
    """One TCP connection to the broker, which shows as *name* in the broker's listings."""

    def __init__(self, url: URL, name: str) -> None:
        self._socket = _Socket()
        self._opening: asyncio.Task[Any] | None = None
        self._protocol = _Protocol(
            url, client_properties={"connection_name": name}, transport_factory=self._socket
        )

    async def open(self, limit: float) -> None:
        """Connect and log in. Raises what aiormq raises, and TimeoutError after *limit* seconds;
        :meth:`shut` is due in any case."""
        # A task of its own, since aiormq ends calls with CancelledError when it loses the
        # connection, which must not look like a cancellation of our caller.
        self._opening = asyncio.create_task(self._protocol.connect())
        self._opening.add_done_callback(mark_seen)
        try:
            await asyncio.wait({self._opening}, timeout=limit)
        finally:
            self._opening.cancel()
        if not self._opening.done() or self._opening.cancelled():
            raise TimeoutError
        self._opening.result()

    async def channel(self, *, confirms: bool = False) -> aiormq.Channel:
        """Open a channel; with *confirms* the broker confirms each publish on it."""
        return cast(aiormq.Channel, await self._protocol.channel(publisher_confirms=confirms))

    def on_close(self, callback: Callable[[BaseException | None], None]) -> None:
        """Call *callback* with the cause once the connection has closed, by whichever side."""
        watch(self._protocol, callback)

    @property
    def blocked(self) -> bool:
        """The broker asked this connection to stop publishing.

        aiormq shows it only as ``ready()``, which waits while blocked: so take one step of it and
        see whether it waits.
        """
        step = self._protocol.ready()
        try:
            step.send(None)
        except StopIteration:
            return False
        step.close()
        return True

    async def shut(self, limit: float) -> None:
        """Close politely; a peer that does not answer within *limit* seconds is cut off. Never
        takes longer than twice *limit*. Safe in every state."""
        closing = asyncio.create_task(self._protocol.close())
        closing.add_done_callback(mark_seen)
        pending = {closing} if self._opening is None else {closing, self._opening}
        await asyncio.wait(pending, timeout=limit)
        writer = self._socket.writer
        if writer is not None:
            writer.transport.abort()
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(limit / 2):
                    await writer.wait_closed()
        await asyncio.wait(pending, timeout=limit / 2)
        for task in pending:
            task.cancel()


def watch(
    closable: aiormq.abc.AbstractChannel | aiormq.abc.AbstractConnection,
    callback: Callable[[BaseException | None], None],
) -> None:
    """Call *callback* with the cause once a connection or channel has closed."""

    def closed(future: asyncio.Future[object]) -> None:
        if future.cancelled():
            callback(asyncio.CancelledError())
        else:
            callback(future.exception())

    closable.closing.add_done_callback(closed)
