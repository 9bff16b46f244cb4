"""Log chunks from the broker into the log store."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from dispatcher.election import Inbox
from dispatcher.logstore import LogStore, LogStoreError
from flow import wire
from flow.errors import MessageError
from flow.senders import Senders
from flow.transport.port import Delivery

log = logging.getLogger("flow.dispatcher")

#: Seconds before a chunk that could not be stored is tried again; meanwhile the broker keeps the
#: rest, up to the bound of its queue.
RETRY_INTERVAL = 2.0


class LogIntake:
    """Stores each chunk under the run it belongs to, if its token is that of the try it names and
    it comes from the agent to whom that was granted.

    *owner* finds run and agent, or ``None`` where the token does not fit. Tokens are no secret:
    they grow with the clock.
    """

    def __init__(
        self,
        store: LogStore,
        owner: Callable[[wire.LogChunk], Awaitable[tuple[int, str] | None]],
        senders: Senders,
    ) -> None:
        self._store = store
        self._owner = owner
        self._senders = senders

    async def run(self, inbox: Inbox) -> None:
        """Store chunks in order until cancelled."""
        while True:
            delivery = await inbox.get()
            try:
                await self._keep(delivery)
            except MessageError as error:
                log.warning("dropped a log chunk with key %s: %s", delivery.routing_key, error)
            delivery.ack()

    async def _keep(self, delivery: Delivery) -> None:
        chunk = wire.decode(delivery.body)
        if not isinstance(chunk, wire.LogChunk):
            raise MessageError(f"expected a log chunk, got {type(chunk).__name__!r}")
        owner = await self._owner(chunk)
        if owner is None:
            raise MessageError(
                f"task instance {chunk.task_instance_id} has no try {chunk.try_number} "
                f"with token {chunk.token}"
            )
        run_pk, agent = owner
        self._senders.check_agent(agent, key=delivery.routing_key, user=delivery.user_id)
        place = run_pk, chunk.task_instance_id, chunk.try_number, chunk.offset
        problem = ""
        while True:
            try:
                await asyncio.to_thread(self._store.write, *place, chunk.text.encode())
            except LogStoreError as error:
                if str(error) != problem:  # said once, however long it takes
                    problem = str(error)
                    log.warning("%s; output waits at the broker until it can", problem)
                await asyncio.sleep(RETRY_INTERVAL)
            else:
                if problem:
                    log.warning("output of tasks is stored again")
                return
