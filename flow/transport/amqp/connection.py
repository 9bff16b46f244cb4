"""One AMQP connection together with its socket."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from typing import Any, cast

import aiormq
from yarl import URL

from flow.transport.amqp.faults import mark_seen
from flow.transport.amqp.greeting import Greeting
from flow.transport.amqp.holding import Holding
from flow.transport.amqp.tap import Tap, TappedReader


class _Protocol(aiormq.Connection):
    #: A peer is dead after two silent heartbeat intervals (AMQP 0-9-1, section 4.2.7). aiormq
    #: waits for three, which would use up more than half of an agent's lease.
    HEARTBEAT_GRACE_MULTIPLIER = 2


class _Socket(aiormq.TransportFactory):
    """Opens the socket as aiormq and ``asyncio.open_connection`` do, and keeps hold of it so that
    it can be aborted."""

    reader: TappedReader | None = None
    writer: asyncio.StreamWriter | None = None

    def __init__(self, holding: Holding) -> None:
        self._holding = holding

    async def create(
        self, url: URL, **kwargs: Any
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        provider: aiormq.SSLContextProvider = kwargs.pop("ssl_context_provider")
        context = await provider.get_context() if url.scheme == "amqps" else None
        loop = asyncio.get_running_loop()
        self.reader = reader = TappedReader(self._holding)
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await loop.create_connection(
            lambda: protocol, url.host or "", url.port or 0, ssl=context, **kwargs
        )
        self.writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        return reader, self.writer


class Connection:
    """One TCP connection to the broker, which shows as *name* in the broker's listings; with TLS
    as *context* has it."""

    def __init__(self, url: URL, name: str, context: ssl.SSLContext | None = None) -> None:
        self._watchers: list[Callable[[float | None], None]] = []
        self._holding = Holding(self._held)
        self._socket = _Socket(self._holding)
        self._opening: asyncio.Task[Any] | None = None
        self._unsent: list[bytes] = []
        self._protocol = _Protocol(
            url,
            context=context,
            client_properties={"connection_name": name},
            transport_factory=self._socket,
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
        self._holding.timeout = self._protocol.connection_tune.heartbeat

    @property
    def greeting(self) -> Greeting:
        """What the broker has said of itself; for one that is open."""
        said = self._protocol.server_properties
        writer = self._socket.writer
        encrypted: ssl.SSLObject | None = None
        if writer is not None:
            encrypted = writer.get_extra_info("ssl_object")
        return Greeting(
            product=str(said.get("product", "an unknown broker")),
            version=str(said.get("version", "of an unknown version")),
            heartbeat=int(self._protocol.connection_tune.heartbeat),
            certificate=None if encrypted is None else encrypted.getpeercert(binary_form=True),
        )

    async def channel(self, *, confirms: bool = False) -> aiormq.Channel:
        """Open a channel; with *confirms* the broker confirms each publish on it."""
        return cast(aiormq.Channel, await self._protocol.channel(publisher_confirms=confirms))

    def tap(self, channel: int, tap: Tap) -> None:
        """Show *tap* what comes on *channel*, from now on; for a connection that is open."""
        if self._socket.reader is not None:
            self._socket.reader.tap(channel, tap)

    @property
    def frame_max(self) -> int:
        """The largest frame, in bytes, as agreed with the broker."""
        return int(self._protocol.connection_tune.frame_max)

    def send(self, frames: bytes) -> None:
        """Write whole frames, after all that was written before. What one turn of the event loop
        sends goes out in one call of the kernel."""
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self.flush)
        self._unsent.append(frames)

    def flush(self) -> None:
        """Hand everything that :meth:`send` has got to the socket now."""
        unsent, self._unsent = self._unsent, []
        writer = self._socket.writer
        if unsent and writer is not None and not writer.transport.is_closing():
            writer.transport.write(b"".join(unsent))

    def on_close(self, callback: Callable[[BaseException | None], None]) -> None:
        """Call *callback* with the cause once the connection has closed, by whichever side."""
        watch(self._protocol, callback)

    def watch_held(self, callback: Callable[[float | None], None]) -> None:
        """Call *callback* as :class:`~flow.transport.amqp.holding.Holding` says, from now on."""
        self._watchers.append(callback)

    def _held(self, proven: float | None) -> None:
        for callback in self._watchers:
            callback(proven)

    @property
    def blocked(self) -> bool:
        """The broker holds back what is published here."""
        return self._holding.held

    @property
    def held_reason(self) -> str:
        """Why, in the broker's words."""
        return self._holding.reason

    async def shut(self, limit: float) -> None:
        """Close politely; a peer that does not answer within *limit* seconds is cut off. Never
        takes longer than twice *limit*. Safe in every state."""
        self.flush()
        closing = asyncio.create_task(self._protocol.close())
        closing.add_done_callback(mark_seen)
        pending = {closing} if self._opening is None else {closing, self._opening}
        await asyncio.wait(pending, timeout=limit)
        writer = self._socket.writer
        if writer is not None:
            # One that was closed twice, as aiormq does when TLS fails, is on its way out, and
            # has forgotten its protocol, which Python 3.11.2 (Debian 12) stumbles over.
            with contextlib.suppress(AttributeError):
                writer.transport.abort()
            # A task of its own: aiormq waits for the same future, and when it gives up, the future
            # is cancelled (StreamWriter.wait_closed), which must not look like a cancellation of
            # our caller. An agent that took it for one never connected again.
            gone = asyncio.create_task(writer.wait_closed())
            gone.add_done_callback(mark_seen)
            await asyncio.wait({gone}, timeout=limit / 2)
            gone.cancel()
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
