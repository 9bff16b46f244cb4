"""Output of tasks on its way to flow.logs: pipe, pump, chunks.

A task's text is sent at once after a pause and in batches of at most BATCH seconds while it flows.
All tasks share a window of WINDOW unconfirmed chunks. While it is full, pipes are not read, which
slows a flood down at its source. A broker that is away or stalled must not stop a task: then pipes
are read on, the newest KEEP bytes of each task wait, and a line says how much is missing before.
Memory is bounded by KEEP per task either way.
"""

from __future__ import annotations

import asyncio
import codecs
import os
from collections import deque
from dataclasses import dataclass
from functools import partial

from flow import wire
from flow.topology import LOGS, log_key
from flow.transport.port import Outlet, Publication

CHUNK = 32 * 1024
WINDOW = 8
BATCH = 0.05
#: Bytes read ahead of the window, per task.
AHEAD = 2 * CHUNK
#: Bytes that wait, per task, while the broker takes nothing.
KEEP = 1024 * 1024
#: Seconds without a confirm after which the broker counts as away.
STALLED = 5.0
_READ = 64 * 1024
#: The upper two bits of a UTF-8 byte that does not begin a character.
_CONTINUATION = 0x80


class TaskLog:
    """The output of one try. Made by :meth:`LogSender.open`."""

    def __init__(self, sender: LogSender, task: wire.Task, token: int, limit: int) -> None:
        self.handed_over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done once the last chunk has been published (not: confirmed)."""
        self._sender = sender
        self._task = task
        self._token = token
        self._limit = limit
        self._key = log_key(sender.agent, task.dag_id, task.task_id)
        self._headers: dict[str, str | int] = {
            "run_id": task.run_id,
            "task_instance_id": task.task_instance_id,
            "try_number": task.try_number,
        }
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._buffer = bytearray()
        self._again: deque[wire.LogChunk] = deque()
        self._accepted = 0
        self._full = False
        self._offset = 0
        self._missing = 0
        self._sent_at = 0.0
        self._fd: int | None = None
        self._reading = False
        self._complete = False
        self._ended = False

    # -- from the pipe -------------------------------------------------------------------------

    def read_from(self, fd: int) -> None:
        """Pump from the read end of a pipe until its end; closes it."""
        os.set_blocking(fd, False)
        self._fd = fd
        self.resume()

    def note(self, text: str) -> None:
        """Add a line of the agent's own."""
        self._buffer += f"[flow: {text}]\n".encode()
        self._sender.notice(self)

    def complete(self) -> None:
        """The task has ended: once the pipe has too, the last chunk may go."""
        self._complete = True
        self._sender.notice(self)

    def resume(self) -> None:
        """Read the pipe (again), if it has not ended."""
        if self._fd is not None and not self._reading:
            self._sender.loop.add_reader(self._fd, self._on_readable)
            self._reading = True

    def _pause(self) -> None:
        if self._fd is not None and self._reading:
            self._sender.loop.remove_reader(self._fd)
            self._reading = False

    def _on_readable(self) -> None:
        if self._fd is None:
            return
        try:
            data = os.read(self._fd, _READ)
        except BlockingIOError:
            return
        self._feed(data)
        if not data:
            self._close()
        self._sender.notice(self)
        if len(self._buffer) > AHEAD and self._sender.may_pause(self):
            self._pause()

    def _feed(self, data: bytes) -> None:
        if self._full:
            return  # read and thrown away: the task must not block on a full pipe
        text = self._decoder.decode(data, final=not data).replace("\0", "\N{REPLACEMENT CHARACTER}")
        clean = text.encode()
        kept = _cut(clean, self._limit - self._accepted)
        self._accepted += len(kept)
        self._buffer += kept
        if len(kept) < len(clean):
            self._full = True
            self.note(f"output beyond {self._limit} bytes is not kept")
        surplus = len(self._buffer) - KEEP
        if surplus > 0:
            dropped = len(_cut(bytes(self._buffer[: surplus + 4]), surplus + 3))
            del self._buffer[:dropped]
            self._missing += dropped

    def _close(self) -> None:
        self._pause()
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    @property
    def _at_end(self) -> bool:
        return self._complete and self._fd is None

    # -- to the broker -------------------------------------------------------------------------

    def due_in(self, now: float) -> float | None:
        """Seconds until :meth:`take` should be called; None: it has nothing."""
        if self._again or len(self._buffer) >= CHUNK or (self._at_end and not self._ended):
            return 0.0
        if self._buffer:
            return max(0.0, self._sent_at + BATCH - now)
        return None

    def take(self, now: float) -> wire.LogChunk:
        """The next chunk: one to repeat, or new text, cut between characters."""
        if self._again:
            return self._again.popleft()
        self._sent_at = now
        if self._missing:
            line = f"[flow: {self._missing} bytes of output are missing: the broker was away]\n"
            self._buffer[:0] = line.encode()
            self._missing = 0
        piece = _cut(bytes(self._buffer[: CHUNK + 4]), CHUNK)
        del self._buffer[: len(piece)]
        self._ended = self._at_end and not self._buffer
        chunk = wire.LogChunk(
            task_instance_id=self._task.task_instance_id,
            try_number=self._task.try_number,
            token=self._token,
            run_id=self._task.run_id,
            offset=self._offset,
            text=piece.decode(),
            last=self._ended,
        )
        self._offset += len(piece)
        return chunk

    def publication(self, chunk: wire.LogChunk) -> Publication:
        """*chunk* as a message. Not mandatory: nobody need be listening."""
        return Publication(
            LOGS, self._key, wire.encode(chunk), mandatory=False, headers=self._headers
        )

    def published(self, chunk: wire.LogChunk) -> None:
        """*chunk* is on its way."""
        if chunk.last and not self.handed_over.done():
            self.handed_over.set_result(None)

    def repeat(self, chunk: wire.LogChunk) -> None:
        """Nobody knows whether *chunk* arrived: send it again, which changes nothing if it did."""
        self._again.append(chunk)

    def abandon(self) -> None:
        """Stop reading; what is unsent is lost."""
        self._close()


@dataclass(frozen=True, slots=True)
class _InFlight:
    log: TaskLog
    chunk: wire.LogChunk


class LogSender:
    """Shares one outlet among the logs of *agent*'s tasks, in turn."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, agent: str, *, window: int = WINDOW
    ) -> None:
        self.loop = loop
        self.agent = agent
        self._window = window
        self._outlet: Outlet | None = None
        self._logs: set[TaskLog] = set()
        self._turn: dict[TaskLog, None] = {}
        self._timers: dict[TaskLog, asyncio.TimerHandle] = {}
        self._in_flight: dict[int, _InFlight] = {}
        self._sent = 0
        self._moved_at = loop.time()
        self._idle: asyncio.Future[None] | None = None

    @property
    def attached(self) -> bool:
        """There is a broker to send to."""
        return self._outlet is not None

    def open(self, task: wire.Task, token: int, limit: int) -> TaskLog:
        """A log for one try; *limit* in bytes of UTF-8."""
        log = TaskLog(self, task, token, limit)
        self._logs.add(log)
        return log

    def attach(self, outlet: Outlet) -> None:
        """Chunks go out here from now on."""
        self._outlet = outlet
        self._moved_at = self.loop.time()
        for log in self._logs:
            self._turn[log] = None
        self._pump()

    def detach(self) -> None:
        """The outlet is gone; what it had not confirmed is repeated on the next one."""
        self._outlet = None
        for flying in self._in_flight.values():
            flying.log.repeat(flying.chunk)
        self._in_flight.clear()
        for log in self._logs:
            log.resume()

    async def finish(self, within: float) -> None:
        """Wait until everything is confirmed, at most *within* seconds; then give up."""
        if self._logs and self._outlet is not None:
            self._idle = self.loop.create_future()
            await asyncio.wait({self._idle}, timeout=within)
        for log in self._logs:
            log.abandon()
        for timer in self._timers.values():
            timer.cancel()

    def notice(self, log: TaskLog) -> None:
        """*log* has something new."""
        wait = log.due_in(self.loop.time())
        if wait is None or self._outlet is None:
            return
        if wait > 0:
            if log not in self._timers:
                self._timers[log] = self.loop.call_later(wait, self._timer, log)
            return
        self._turn[log] = None
        self._pump()

    def may_pause(self, log: TaskLog) -> bool:
        """Whether *log* may leave its pipe unread; it is resumed when the window moves, or when
        it turns out not to."""
        if self._outlet is None:
            return False
        left = self._moved_at + STALLED - self.loop.time()
        if left > 0:
            self.loop.call_later(left, log.resume)
        return left > 0

    def _timer(self, log: TaskLog) -> None:
        del self._timers[log]
        self.notice(log)

    def _pump(self) -> None:
        outlet = self._outlet
        while outlet is not None and self._turn and len(self._in_flight) < self._window:
            log = next(iter(self._turn))
            del self._turn[log]
            if log.due_in(self.loop.time()) != 0.0:
                self.notice(log)
                continue
            self._publish(outlet, log)
            if log.due_in(self.loop.time()) is not None:
                self._later(log)

    def _later(self, log: TaskLog) -> None:
        if log.due_in(self.loop.time()) == 0.0:
            self._turn[log] = None
        else:
            self.notice(log)

    def _publish(self, outlet: Outlet, log: TaskLog) -> None:
        chunk = log.take(self.loop.time())
        if not self._in_flight:
            self._moved_at = self.loop.time()
        self._sent += 1
        self._in_flight[self._sent] = _InFlight(log, chunk)
        future = outlet.publish(log.publication(chunk))
        log.published(chunk)
        future.add_done_callback(partial(self._done, self._sent))

    def _done(self, number: int, future: asyncio.Future[None]) -> None:
        if future.cancelled() or future.exception() is not None:
            return  # the link is closing: detach repeats it
        flying = self._in_flight.pop(number, None)
        if flying is None:
            return
        self._moved_at = self.loop.time()
        if flying.chunk.last:
            self._logs.discard(flying.log)
        elif len(self._in_flight) < self._window:
            flying.log.resume()
        self._pump()
        if not self._logs and self._idle is not None and not self._idle.done():
            self._idle.set_result(None)


def _cut(data: bytes, limit: int) -> bytes:
    """At most *limit* bytes of UTF-8 *data*, ending between characters."""
    if len(data) <= limit:
        return data
    end = max(limit, 0)
    while end > 0 and data[end] & 0xC0 == _CONTINUATION:
        end -= 1
    return data[:end]
