"""Where running tasks ask: one Unix socket per token, in the folder of its job.

The socket says who asks. A line of JSON is a request, and a line is its answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec

from agent.core.events import Asked
from flow import wire

log = logging.getLogger(__name__)

_LONGEST_REQUEST = 1024 * 1024
_BACKLOG = 64


class _Request(msgspec.Struct, frozen=True):
    wanted: tuple[wire.Wanted, ...]


_request = msgspec.json.Decoder(_Request)


class TaskServer:
    """Passes requests of tasks to *post*, and their answers back."""

    def __init__(
        self,
        post: Callable[[Asked], None],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._post = post
        self._spawn = spawn
        self._numbers = itertools.count(1)
        self._listening: dict[int, socket.socket] = {}
        self._serving: dict[int, asyncio.Server] = {}
        self._waiting: dict[int, asyncio.Future[wire.Answer]] = {}

    def open(self, token: int, path: Path) -> None:
        """Listen at *path* for the task of *token*. Raises OSError."""
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            _bind(listening, path)
            listening.listen(_BACKLOG)
            listening.setblocking(False)  # noqa: FBT003  positional only
        except OSError:
            listening.close()
            raise
        # From here on a task can connect; it is heard as soon as the loop gets round to it.
        self._listening[token] = listening
        self._spawn(self._serve(token, listening))

    def close(self, token: int) -> None:
        """The task has ended; its socket goes with its folder. Safe twice."""
        listening = self._listening.pop(token, None)
        server = self._serving.pop(token, None)
        if server is not None:
            server.close()
        elif listening is not None:
            listening.close()

    def answer(self, request: int, answer: wire.Answer) -> None:
        """Pass the dispatcher's answer on."""
        future = self._waiting.pop(request, None)
        if future is not None and not future.done():
            future.set_result(answer)

    async def _serve(self, token: int, listening: socket.socket) -> None:
        if token not in self._listening:
            return  # ended before it could ask
        self._serving[token] = await asyncio.start_unix_server(
            lambda reader, writer: self._hear(token, reader, writer),
            sock=listening,
            limit=_LONGEST_REQUEST,
        )
        if token not in self._listening:
            self.close(token)

    async def _hear(
        self, token: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        number = next(self._numbers)
        try:
            try:
                wanted = _request.decode(await reader.readline()).wanted
            except (ValueError, msgspec.DecodeError) as error:
                await _say(
                    writer, {"error": f"request: expected what flow's runtime asks: {error}"}
                )
                return
            future = self._waiting[number] = asyncio.get_running_loop().create_future()
            self._post(Asked(token, number, wanted))
            answer = await _answer_for(reader, future)
            if answer is not None:
                await _say(writer, {"values": answer.values, "error": answer.error})
        except OSError as error:
            log.debug("a task stopped listening: %s", error)
        finally:
            self._waiting.pop(number, None)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def _answer_for(
    reader: asyncio.StreamReader, future: asyncio.Future[wire.Answer]
) -> wire.Answer | None:
    """Wait, for as long as the task does: the end of its stream is the end of its patience."""
    gone = asyncio.ensure_future(reader.read(1))
    either: set[asyncio.Future[Any]] = {future, gone}
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    gone.cancel()
    with contextlib.suppress(asyncio.CancelledError, OSError):
        await gone
    return future.result() if future.done() else None


async def _say(writer: asyncio.StreamWriter, answer: dict[str, Any]) -> None:
    writer.write(msgspec.json.encode(answer) + b"\n")
    await writer.drain()


def _bind(listening: socket.socket, path: Path) -> None:
    """Bind to a path of any length: unix(7) allows 107 bytes, so through its folder."""
    opened = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        listening.bind(f"/proc/self/fd/{opened}/{path.name}")
    finally:
        os.close(opened)
