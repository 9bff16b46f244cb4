"""A proxy in front of Postgres that loses the answer to a chosen COMMIT.

The protocol is that of the PostgreSQL manual, "Frontend/Backend Protocol": each message is a type
byte and a length of four bytes that counts itself; what a client says before it is let in has no
type byte.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.proxy import Proxy, Pump, Side

_QUERY = b"Q"
#: Codes in the place of a protocol version: the client asks for encryption, and will say more.
_SSL_REQUEST, _GSS_REQUEST = 80877103, 80877104


@dataclass(slots=True)
class Frontend:
    """What a client says, cut into whole messages."""

    _buffer: bytearray = field(default_factory=bytearray)
    _let_in: bool = False

    def feed(self, chunk: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The messages that *chunk* completes: the text of a simple query (``b""`` for anything
        else), and the message as it is on the wire."""
        self._buffer += chunk
        while message := self._next():
            del self._buffer[: len(message)]
            if not self._let_in:
                code = int.from_bytes(message[4:8], "big")
                self._let_in = code not in (_SSL_REQUEST, _GSS_REQUEST)
                yield b"", message
            elif message[:1] == _QUERY:
                yield message[5:-1], message
            else:
                yield b"", message

    def _next(self) -> bytes:
        start = 1 if self._let_in else 0
        if len(self._buffer) < start + 4:
            return b""
        size = start + int.from_bytes(self._buffer[start : start + 4], "big")
        return bytes(self._buffer[:size]) if len(self._buffer) >= size else b""


class PostgresProxy(Proxy):
    """Forwards, until :meth:`lose_answer`: then it lets the COMMIT of the next fitting transaction
    through, waits until the server has answered, and closes the connection instead of telling."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self._statement: bytes | None = None
        #: The statements of which the answer to the COMMIT was lost, in order.
        self.lost: list[str] = []

    def lose_answer(self, statement: str) -> None:
        """Lose the answer to the COMMIT of the next transaction in which *statement* occurs."""
        self._statement = statement.encode()

    def _both_ways(self, near: Side, far: Side) -> tuple[Pump, Pump]:
        doomed = asyncio.Event()
        return self._ask(near[0], far[1], doomed), self._answer(far[0], near[1], doomed)

    async def _ask(
        self, client: asyncio.StreamReader, server: asyncio.StreamWriter, doomed: asyncio.Event
    ) -> None:
        frontend = Frontend()
        fits = False
        with contextlib.suppress(OSError):
            while chunk := await self._read(client):
                for text, message in frontend.feed(chunk):
                    wanted = self._statement
                    fits = fits or (wanted is not None and wanted in text)
                    if text == b"COMMIT" and fits and wanted is not None:
                        self._statement = None
                        doomed.set()
                        self.lost.append(wanted.decode())
                    fits = fits and text not in (b"COMMIT", b"ROLLBACK")
                    server.write(message)
                await server.drain()

    async def _answer(
        self, server: asyncio.StreamReader, client: asyncio.StreamWriter, doomed: asyncio.Event
    ) -> None:
        # The client has read the answers to all before, or it would not have sent COMMIT.
        with contextlib.suppress(OSError):
            while chunk := await self._read(server):
                if doomed.is_set():
                    return
                client.write(chunk)
                await client.drain()
