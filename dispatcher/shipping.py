"""Sends bundles to agents, piece by piece.

An agent asks for few pieces at a time, and here one agent's pieces wait for those of another to be
confirmed by the broker: so no bundle, however large, stands in the way of grants for long. What is
asked for twice while it waits is sent once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from dispatcher.store import Store
from flow import topology, wire
from flow.errors import TransportError, Unroutable
from flow.transport.port import Outlet, Publication

#: Pieces sent to one agent before it is the next one's turn: what an agent asks for at once.
TURN = 64


class Shipping:
    """One reign's. *outlet* is its own; *on_thread* runs store calls apart from the writer."""

    def __init__(
        self, outlet: Outlet, store: Store, on_thread: Callable[..., Awaitable[Any]]
    ) -> None:
        self._outlet = outlet
        self._store = store
        self._on_thread = on_thread
        self._wanted: dict[str, dict[tuple[str, int], int]] = {}
        """Per agent: (digest, number) to the session that wants it, in the order of asking."""
        self._turns: deque[str] = deque()
        self._asked = asyncio.Event()

    def ask(self, message: wire.PiecesWanted) -> None:
        """An agent wants pieces; they are sent in its turn."""
        if message.agent not in self._wanted:
            self._wanted[message.agent] = {}
            self._turns.append(message.agent)
        for piece in message.pieces:
            self._wanted[message.agent][piece.digest, piece.number] = message.session
        self._asked.set()

    async def run(self) -> None:
        """Send until cancelled. Raises :class:`~flow.errors.StoreError`."""
        while True:
            await self._asked.wait()
            if not self._turns:
                self._asked.clear()
                continue
            agent = self._turns.popleft()
            waiting = self._wanted.pop(agent)
            now = {name: waiting.pop(name) for name in list(waiting)[:TURN]}
            if await self._send(agent, now) and waiting:
                # What came in meanwhile goes behind what has waited.
                waiting.update(self._wanted.get(agent, {}))
                if agent not in self._wanted:
                    self._turns.append(agent)
                self._wanted[agent] = waiting

    async def _send(self, agent: str, wanted: dict[tuple[str, int], int]) -> bool:
        """Whether the agent is there."""
        found = await self._on_thread(self._store.read_pieces, wanted)
        sent = []
        for (digest, number), session in wanted.items():
            reply: wire.Reply
            if (digest, number) in found:
                size, data = found[digest, number]
                reply = wire.Piece(
                    session=session, digest=digest, number=number, size=size, data=data
                )
            else:
                reply = wire.NoPiece(session=session, digest=digest, number=number)
            sent.append(self._outlet.publish(_publication(agent, reply)))
        outcomes = await asyncio.gather(*sent, return_exceptions=True)
        for outcome in outcomes:
            if outcome is not None and not isinstance(outcome, TransportError):
                raise outcome
        return not any(isinstance(outcome, Unroutable) for outcome in outcomes)


def _publication(agent: str, reply: wire.Reply) -> Publication:
    return Publication(topology.CONTROL, topology.agent_key(agent), wire.encode(reply))
