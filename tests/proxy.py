"""A TCP proxy that misbehaves when told: it cuts, goes silent, delays, or refuses.

async with Proxy("127.0.0.1", 5672) as proxy:
    connect(proxy.through(url))
    proxy.hold()        # a partition: both sides stay connected and hear nothing
    proxy.hold(inward=False)  # a partition in one direction: nothing reaches the target
    proxy.release()     # it heals: what was sent meanwhile arrives, in order
    proxy.cut()         # every connection is reset
    proxy.cut_after(99) # the connection that carries the 99th byte from now on ends with it
    proxy.refuse()      # new ones are refused, old ones live on
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import Coroutine
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

_CHUNK = 65536

Side = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Pump = Coroutine[Any, Any, None]


class Proxy:
    """Forwards connections on a port of its own to *host*:*port*; with *tls* it speaks TLS to
    those who connect, and not to the target."""

    def __init__(self, host: str, port: int, *, tls: ssl.SSLContext | None = None) -> None:
        self._target = (host, port)
        self._tls = tls
        self._listener: socket.socket | None = None
        self._outward = asyncio.Event()
        self._inward = asyncio.Event()
        self.release()
        self._clients: set[asyncio.StreamReader] = set()
        self._left: int | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._near: set[asyncio.StreamWriter] = set()
        self._sessions: set[asyncio.Task[None]] = set()
        #: Where it listens; stays the same for its whole life.
        self.port = 0
        #: Seconds that each chunk is held back, in each direction.
        self.delay = 0.0

    @classmethod
    def to(cls, url: str, *, tls: ssl.SSLContext | None = None) -> Self:
        """A proxy in front of the server that *url* names with host and port."""
        parts = urlsplit(url)
        if parts.hostname is None or parts.port is None:
            raise ValueError(f"proxy target: expected a URL with host and port, got {url!r}")
        return cls(parts.hostname, parts.port, tls=tls)

    def through(self, url: str) -> str:
        """*url*, with this proxy in the place of its server."""
        parts = urlsplit(url)
        login, at, _ = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{login}{at}127.0.0.1:{self.port}"))

    @property
    def connections(self) -> int:
        """How many connections pass through it now."""
        return len(self._sessions)

    async def accept(self) -> None:
        """Listen (again)."""
        if self._listener is None:
            # Not asyncio's server: that one leaks the connection that it accepts in the same
            # turn of the loop as its close() (https://github.com/python/cpython/issues/109564).
            self._listener = socket.create_server(("127.0.0.1", self.port))
            self._listener.setblocking(False)
            asyncio.get_running_loop().add_reader(self._listener, self._accept_one, self._listener)
            self.port = self._listener.getsockname()[1]

    def refuse(self) -> None:
        """Refuse new connections; those that exist live on."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def hold(self, *, outward: bool = True, inward: bool = True) -> None:
        """Forward nothing, not even that a side has closed: to each side the other is silent.
        *outward*: towards the target; *inward*: towards those who connected."""
        for held, flowing in ((outward, self._outward), (inward, self._inward)):
            if held:
                flowing.clear()

    def release(self) -> None:
        """Forward again, beginning with what was held back."""
        self._outward.set()
        self._inward.set()

    def cut_after(self, count: int) -> None:
        """Forward *count* more bytes, of all connections and in both directions; the connection
        that carries the last of them ends behind it, in the middle of whatever it is."""
        self._left = count

    def inject(self, data: bytes) -> None:
        """Send *data* to those who connected, as if the target had."""
        for writer in self._near:
            writer.write(data)

    def cut(self) -> None:
        """Reset every connection, towards both sides."""
        for writer in self._writers:
            connection = writer.get_extra_info("socket")
            # Lingering for zero seconds makes the kernel send RST instead of FIN.
            with contextlib.suppress(OSError):  # it may be closed already
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        for session in self._sessions:
            session.cancel()

    async def close(self) -> None:
        """Cut everything and stop listening."""
        self.refuse()
        self.cut()
        await asyncio.gather(*self._sessions, return_exceptions=True)

    async def __aenter__(self) -> Self:
        await self.accept()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _accept_one(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):  # who asked has gone again
            return
        connection.setblocking(False)
        session = asyncio.create_task(self._serve(connection))
        self._sessions.add(session)
        session.add_done_callback(self._sessions.discard)
        # Also of one that was cancelled before it began.
        session.add_done_callback(lambda _: connection.close())

    async def _serve(self, connection: socket.socket) -> None:
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        loop = asyncio.get_running_loop()
        try:
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol, connection, ssl=self._tls
            )
        except OSError:  # among them what TLS has to object
            return
        try:
            await self._session(reader, asyncio.StreamWriter(transport, protocol, reader, loop))
        finally:
            transport.abort()

    async def _session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        self._near.add(writer)
        self._clients.add(reader)
        pair = [writer]
        pumps: list[asyncio.Task[None]] = []
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
            pair.append(far_writer)
            self._writers.add(far_writer)
            near, far = (reader, writer), (far_reader, far_writer)
            pumps += map(asyncio.create_task, self._both_ways(near, far))
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except OSError:
            pass  # the target refuses: then this side is closed too
        finally:
            for pump in pumps:
                pump.cancel()
            try:
                for each in pair:
                    each.close()
                for each in pair:
                    with contextlib.suppress(OSError):
                        await each.wait_closed()
            finally:
                self._writers.difference_update(pair)
                self._near.discard(writer)
                self._clients.discard(reader)

    def _both_ways(self, near: Side, far: Side) -> tuple[Pump, Pump]:
        """What forwards on one connection, which ends as soon as either of the two has ended."""
        return self._pump(near[0], far[1]), self._pump(far[0], near[1])

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while chunk := await self._read(reader):
                whole, chunk = chunk, self._allowed(chunk)
                writer.write(chunk)
                await writer.drain()
                if len(chunk) < len(whole):
                    return

    async def _read(self, reader: asyncio.StreamReader) -> bytes:
        """The next chunk once it may pass; empty when the side has closed and that may be known."""
        try:
            chunk = await reader.read(_CHUNK)
        except OSError:
            chunk = b""
        if self.delay:
            await asyncio.sleep(self.delay)
        await (self._outward if reader in self._clients else self._inward).wait()
        return chunk

    def _allowed(self, chunk: bytes) -> bytes:
        """What of *chunk* comes before a cut, if there is to be one."""
        if self._left is None:
            return chunk
        if self._left >= len(chunk):
            self._left -= len(chunk)
            return chunk
        before, self._left = self._left, None
        return chunk[:before]
