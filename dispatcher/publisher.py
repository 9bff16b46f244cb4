"""The dispatcher's way out: tasks to queues, replies to agents, markers and probes to itself."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable
from typing import Any

import msgspec

from dispatcher.core.state import Effects
from flow import topology, wire
from flow.errors import FlowError, TransportError, Unroutable
from flow.names import QUEUE
from flow.transport.port import Link, Outlet, Publication

log = logging.getLogger("flow.dispatcher")

#: Queues made in one reign because agents asked for them: an agent gone astray must not fill the
#: broker with queues.
MAX_WANTED = 1000


class Publisher:
    """Publishes on one outlet of one link. Nothing it does can be lost for good: tasks are rows in
    state queued, replies are asked for again, and a failed marker ends with its link."""

    def __init__(self, link: Link, outlet: Outlet, reign: int) -> None:
        self._link = link
        self._outlet = outlet
        self._reign = reign
        self._declared: set[str] = set()
        self._repairs: set[asyncio.Task[None]] = set()
        self._wanted: set[str] = set()

    async def declare(self, queues: set[str]) -> None:
        """Make sure that the task queues exist, whether or not an agent serves them yet."""
        for queue in sorted(queues - self._declared):
            await self._link.declare(topology.task_queue(queue))
            self._declared.add(queue)

    def want(self, queues: Iterable[str]) -> None:
        """Have the task queues of an agent made, without waiting: it may have no right to."""
        missing = {queue for queue in queues if QUEUE.problem(queue) is None} - self._declared
        if len(self._wanted | missing) > MAX_WANTED:
            log.warning("agents want more than %d queues that no DAG names", MAX_WANTED)
        elif missing:
            self._wanted |= missing
            self._aside(self._make(missing))

    async def declare_again(self, queue: str) -> None:
        """The queue vanished from the broker."""
        self._declared.discard(queue)
        await self.declare({queue})

    def carry_out(self, effects: Effects) -> None:
        """Send everything in *effects*, without waiting."""
        for note in effects.notes:
            log.info(note)
        for agent, reply in _joined(effects.replies):
            self.reply(agent, reply)
        for task in effects.publications:
            self.publish_task(task)
        for number in effects.markers:
            marker = wire.Marker(reign=self._reign, number=number)
            self._send(topology.EVENTS, topology.MARKER_KEY, marker, self._reply_done)

    def reply(self, agent: str, reply: wire.Reply) -> None:
        """Send one reply, without waiting."""
        self._send(topology.CONTROL, topology.agent_key(agent), reply, self._reply_done)

    def publish_task(self, task: wire.Task) -> None:
        """Ring the bell for *task*; a queue that vanished is declared again."""

        def done(future: asyncio.Future[None]) -> None:
            if isinstance(_failure(future), Unroutable):
                self._aside(self._repair(task))

        self._send(topology.TASKS, task.queue, task, done)

    async def close(self) -> None:
        """End what is still under way for this link."""
        for repair in self._repairs:
            repair.cancel()
        await asyncio.gather(*self._repairs, return_exceptions=True)

    def _aside(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._repairs.add(task)
        task.add_done_callback(self._repairs.discard)

    async def _make(self, queues: set[str]) -> None:
        try:
            await self.declare(queues)
        except FlowError as error:
            # The agent says hello again with its next connection.
            log.warning("queue %s cannot be declared: %s", ", ".join(sorted(queues)), error)

    async def _repair(self, task: wire.Task) -> None:
        log.warning("queue %s did not exist at the broker: declared again", task.queue)
        try:
            await self.declare_again(task.queue)
        except FlowError as error:
            # The row stays queued: the reconciler or the next reign publishes it.
            log.warning("queue %s cannot be declared: %s", task.queue, error)
        else:
            self.publish_task(task)

    def _reply_done(self, future: asyncio.Future[None]) -> None:
        failure = _failure(future)
        if failure is not None:
            # An agent that is not connected asks again when it is.
            log.debug("not delivered: %s", failure)

    def _send(self, exchange: str, key: str, message: wire.Message, done: Any) -> None:
        publication = Publication(exchange, key, wire.encode(message))
        self._outlet.publish(publication).add_done_callback(done)


def _joined(replies: Iterable[tuple[str, wire.Reply]]) -> list[tuple[str, wire.Reply]]:
    """All answers to results of one session in one message, in the place of the first of them."""
    joined: list[tuple[str, wire.Reply]] = []
    places: dict[tuple[str, int, str], int] = {}
    for agent, reply in replies:
        if isinstance(reply, wire.Answered):
            whom = (agent, reply.session, reply.incarnation)
            place = places.setdefault(whom, len(joined))
            if place < len(joined):
                before = joined[place][1]
                assert isinstance(before, wire.Answered)
                tokens = (*before.tokens, *reply.tokens)
                joined[place] = (agent, msgspec.structs.replace(before, tokens=tokens))
                continue
        joined.append((agent, reply))
    return joined


def _failure(future: asyncio.Future[None]) -> TransportError | None:
    """How a publish ended, when it ended in a way that is expected of a broker."""
    if future.cancelled():
        return TransportError("publish: cancelled")
    error = future.exception()
    if error is None or isinstance(error, TransportError):
        return error
    raise error
