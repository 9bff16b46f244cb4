"""The output of tasks on the terminal while they run, each line behind its task's name."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from flow.cli.pieces import Assembly
from flow.errors import MessageError
from flow.topology import LOGS, QueueSpec, follower_queue
from flow.transport.port import Delivery
from flow.wire import LogChunk, decode

if TYPE_CHECKING:
    from flow.cli.embedded import Embedded

#: Chunks that are handed over and not printed yet; the queue keeps what comes meanwhile.
_PREFETCH = 8
_QUEUE_BYTES = 64 * 1024 * 1024
#: A line that is longer is shown in pieces.
_LONGEST_LINE = 64 * 1024


class Console:
    """Prints what the tasks of *system* write. A terminal that stands still holds nothing up but
    the printing."""

    def __init__(self, system: Embedded) -> None:
        self._system = system
        spec = follower_queue("#", "console")
        bounded = {**spec.arguments, "x-max-length-bytes": _QUEUE_BYTES}
        self._spec = QueueSpec(
            spec.name, spec.exchange, spec.key, durable=False, exclusive=True, arguments=bounded
        )
        self._inbox: asyncio.Queue[Delivery] = asyncio.Queue()
        self._names: dict[int, str] = {}
        self._lines: dict[tuple[int, int], Lines] = {}

    async def attach(self) -> None:
        """Receive from now on."""
        await self._system.link.declare(self._spec)
        receive = self._inbox.put_nowait
        await self._system.link.consume(self._spec.name, receive, prefetch=_PREFETCH)

    async def run(self) -> None:
        """Print until cancelled. Raises :class:`OSError` when stdout is gone."""
        while True:
            delivery = await self._inbox.get()
            try:
                chunk = decode(delivery.body)
            except MessageError:
                chunk = None  # the dispatcher, which receives it too, says so
            if isinstance(chunk, LogChunk):
                lines = await self._lines_of(chunk)
                await asyncio.to_thread(lines.take, chunk)
            delivery.ack()

    async def settled(self) -> None:
        """Return once everything that was written is printed."""
        await self._system.settled(LOGS, self._spec.name)

    async def _lines_of(self, chunk: LogChunk) -> Lines:
        key = chunk.task_instance_id, chunk.try_number
        if key not in self._lines:
            self._lines[key] = Lines(await self._name(chunk), _write)
        return self._lines[key]

    async def _name(self, chunk: LogChunk) -> str:
        if chunk.task_instance_id not in self._names:
            reader = self._system.reader
            run = await self._system.read(reader.find_run, chunk.run_id)
            for task in await self._system.read(reader.tasks, run, datetime.now(UTC)):
                mapped = f"[{task.map_index}]" if task.map_index >= 0 else ""
                self._names[task.pk] = f"{task.task_id}{mapped}"
        return self._names[chunk.task_instance_id]


class Lines:
    """One try's output as lines of ``<name> | <text>``."""

    def __init__(self, name: str, write: Callable[[bytes], object]) -> None:
        self._prefix = f"{name} | ".encode()
        self._write = write
        self._rest = b""
        self._assembly = Assembly(self._pass)

    def take(self, chunk: LogChunk) -> None:
        """A chunk, in order; one that comes again changes nothing. Blocks."""
        self._assembly.add(chunk.offset, chunk.text.encode())
        if chunk.last and self._rest:
            self._print([self._rest])
            self._rest = b""

    def _pass(self, data: bytes) -> None:
        *lines, rest = (self._rest + data).split(b"\n")
        while len(rest) > _LONGEST_LINE:
            lines.append(rest[:_LONGEST_LINE])
            rest = rest[_LONGEST_LINE:]
        self._rest = rest
        self._print(lines)

    def _print(self, lines: list[bytes]) -> None:
        if lines:
            self._write(b"".join(self._prefix + line + b"\n" for line in lines))


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
