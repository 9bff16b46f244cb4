"""``flow tasks logs -f``: what is stored, then what comes, until the task has ended.

Live output comes from the broker to a queue of the command's own. That is bound *before* the
stored part is read, so nothing falls between the two; offsets tell what both have. Beside
``flow standalone`` the store is all there is, and looked at again and again.
"""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from flow.cli.broker import open_channel, tls_of
from flow.cli.invocation import Invocation
from flow.cli.pieces import Assembly
from flow.cli.wake import is_embedded
from flow.errors import MessageError, TransportError
from flow.states import TERMINAL
from flow.topology import QueueSpec, follower_queue, log_pattern, sender_of

if TYPE_CHECKING:
    from pika.adapters.blocking_connection import BlockingChannel

    from dispatcher.logstore import LogStore
    from dispatcher.store.reader import Reader
    from dispatcher.store.views import RunView, TaskView, TryView
    from flow.wire import LogChunk

#: Seconds between two looks at the database and the store.
_PAUSE = 0.3
#: Seconds for which output of a try that has ended, or of a gap, may still come.
_LATE = 2.0
#: What the broker keeps for a follower that stands still; the store has the rest.
_QUEUE_BYTES = 64 * 1024 * 1024
_PREFETCH = 64


@dataclass(frozen=True, slots=True)
class Heard:
    """A piece of output, and the agent it comes from."""

    agent: str
    chunk: LogChunk


def follow_log(
    invocation: Invocation, reader: Reader, run: RunView, task_id: str, try_number: int | None
) -> None:
    """Print a task's output while it comes: of *try_number*, or of its latest try and all that
    follow. Without the broker, what the dispatcher has stored."""
    from dispatcher.logstore import LogStore

    config = invocation.config()
    follower = Follower(invocation, reader, LogStore(config.logs.folder), run, task_id, try_number)
    if is_embedded(config):
        follower.follow(_ticks(), live=False)
        return
    spec = follower_queue(log_pattern(run.dag_id, task_id), secrets.token_hex(8))
    try:
        with open_channel(config.broker.url.reveal(), tls_of(config)) as channel:
            _bind(channel, spec)
            verify = config.dispatcher.verify_users
            follower.follow(_live(channel, spec.name, verify=verify), live=True)
    except TransportError as error:
        invocation.warn(f"{error}; following what is stored instead")
        follower.follow(_ticks(), live=False)


class Follower:
    """Follows one task instance through its tries."""

    def __init__(
        self,
        invocation: Invocation,
        reader: Reader,
        store: LogStore,
        run: RunView,
        task_id: str,
        try_number: int | None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._say = invocation.say
        self._clock = clock
        self._reader = reader
        self._store = store
        self._run = run
        self._task_id = task_id
        self._only = try_number
        self._task = reader.task(run, task_id, datetime.now(UTC))
        self._current = 0  # none yet: tries count from 1
        self._agent = ""
        self._output = Assembly(_write)
        self._later: dict[int, list[Heard]] = {}
        self._told = ""
        self._patient_until: float | None = None

    def follow(self, source: Iterator[Heard | None], *, live: bool) -> None:
        """Take chunks until the task has ended; ``None`` is a moment without one."""
        look_at = self._clock()
        for heard in source:
            if heard is not None:
                self._take(heard)
            if self._clock() >= look_at:
                if self._look(live=live):
                    return
                look_at = self._clock() + _PAUSE

    def _take(self, heard: Heard) -> None:
        chunk = heard.chunk
        if chunk.task_instance_id != self._task.pk:
            return  # the same task of another run
        if chunk.try_number == self._current:
            if heard.agent != self._agent:
                return  # not to be believed: the dispatcher, which receives it too, says so
            data = chunk.text.encode()
            self._output.add(chunk.offset, data)
            if chunk.last:
                self._output.ends_at(chunk.offset + len(data))
        elif chunk.try_number > self._current:
            self._later.setdefault(chunk.try_number, []).append(heard)

    def _look(self, *, live: bool) -> bool:
        """Compare with database and store; True once there is nothing more to come."""
        run = self._reader.run(self._run.dag_id, self._run.run_id) or self._run
        self._task = self._reader.task(run, self._task_id, datetime.now(UTC))
        tries = {item.try_number: item for item in self._reader.tries(self._task)}
        ended = self._task.state in TERMINAL
        if self._current == 0:
            wanted = self._only or max(tries, default=None)
            if wanted is None:
                self._tell_waiting(self._task)
                return ended
            self._begin(tries[wanted])
        if not live or self._output.has_gap:
            self._read_store()
        if not self._is_over(tries[self._current]):
            return False
        following = [number for number in tries if number > self._current]
        if self._only is None and following:
            self._begin(tries[min(following)])
            return False
        if self._only is None and not ended:
            self._tell_waiting(self._task)
            return False
        return True

    def _begin(self, item: TryView) -> None:
        self._current = item.try_number
        self._agent = item.agent
        self._output = Assembly(_write)
        self._patient_until = None
        self._say(f"{self._task_id}: try {item.try_number} on {item.agent}")
        self._read_store()
        for heard in self._later.pop(item.try_number, []):
            self._take(heard)

    def _read_store(self) -> None:
        pieces = self._store.stored(self._run.pk, self._task.pk, self._current, self._output.passed)
        for offset, data in pieces:
            self._output.add(offset, data)

    def _is_over(self, item: TryView) -> bool:
        """Whether everything of a try is printed, as far as it will come."""
        now = self._clock()
        if item.closed_at is None and not self._output.has_gap:
            self._patient_until = None
            return False
        if self._output.complete and item.closed_at is not None:
            return True
        if self._patient_until is None:
            age = (datetime.now(UTC) - item.closed_at).total_seconds() if item.closed_at else 0.0
            self._patient_until = now + min(_LATE, max(0.0, _LATE - age))
        if now < self._patient_until:
            return False
        self._read_store()
        while missing := self._output.give_up_gap():
            self._say(f"{self._task_id}: {missing} bytes of its output are missing here")
        self._patient_until = None if item.closed_at is None else self._patient_until
        return item.closed_at is not None

    def _tell_waiting(self, task: TaskView) -> None:
        text = f"{task.task_id}: {task.state}" + (f": {task.reason}" if task.reason else "")
        if text != self._told:
            self._say(text)
        self._told = text


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _ticks() -> Iterator[None]:
    while True:
        yield None
        time.sleep(_PAUSE)


def _bind(channel: BlockingChannel, spec: QueueSpec) -> None:
    arguments = {**spec.arguments, "x-max-length-bytes": _QUEUE_BYTES}
    channel.queue_declare(
        spec.name, durable=spec.durable, exclusive=spec.exclusive, arguments=arguments
    )
    channel.queue_bind(spec.name, spec.exchange, spec.key)


def _live(channel: BlockingChannel, queue: str, *, verify: bool) -> Iterator[Heard | None]:
    from flow.wire import LogChunk, decode

    channel.basic_qos(prefetch_count=_PREFETCH)
    yield None  # look at what is stored first
    for method, properties, body in channel.consume(queue, inactivity_timeout=_PAUSE):
        if method is None:
            yield None
            continue
        channel.basic_ack(method.delivery_tag)
        try:
            message = decode(body)
        except MessageError:
            continue  # not flow's: the dispatcher, which receives it too, says so
        agent = sender_of(method.routing_key)
        if verify and properties.user_id != agent:
            continue
        if isinstance(message, LogChunk):
            yield Heard(agent, message)
