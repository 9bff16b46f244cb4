"""Pieces of bundles on their way to agents: each once, and every agent in its turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

from dispatcher.shipping import TURN, Shipping
from flow import topology, wire
from flow.errors import TransportError, Unroutable
from flow.transport.port import Publication
from tests.waiting import eventually

A, B = "a" * 64, "b" * 64


class FakeStore:
    """Has every piece of *A*."""

    def read_pieces(self, wanted: Iterable[tuple[str, int]]) -> dict[Any, tuple[int, bytes]]:
        return {name: (10**6, str(name[1]).encode()) for name in wanted if name[0] == A}


class FakeOutlet:
    """Confirms when told."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, wire.Piece | wire.NoPiece]] = []
        self.futures: list[asyncio.Future[None]] = []

    def publish(self, publication: Publication) -> asyncio.Future[None]:
        assert publication.exchange == topology.CONTROL
        message = wire.decode(publication.body)
        assert isinstance(message, wire.Piece | wire.NoPiece)
        self.sent.append((publication.key, message))
        self.futures.append(asyncio.get_running_loop().create_future())
        return self.futures[-1]

    def confirm(self, error: Exception | None = None) -> None:
        futures, self.futures = self.futures, []
        for future in futures:
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

    def numbers(self) -> list[tuple[str, int]]:
        return [(key, message.number) for key, message in self.sent]


def wanted(agent: str, *numbers: int, digest: str = A, session: int = 1) -> wire.PiecesWanted:
    pieces = tuple(wire.PieceName(digest, number) for number in numbers)
    return wire.PiecesWanted(agent=agent, session=session, bundle=B, pieces=pieces)


@asynccontextmanager
async def shipping() -> AsyncIterator[tuple[Shipping, FakeOutlet]]:
    async def call(method: Callable[..., Any], *arguments: Any) -> Any:
        return method(*arguments)

    outlet = FakeOutlet()
    made = Shipping(outlet, FakeStore(), call)  # type: ignore[arg-type]  # all that is used of it
    running = asyncio.create_task(made.run())
    yield made, outlet
    assert not running.done()
    running.cancel()
    await asyncio.wait({running})


async def test_pieces_are_sent_to_who_asked_and_what_is_missing_is_said() -> None:
    async with shipping() as (made, outlet):
        made.ask(wanted("node1", 0, session=5))
        made.ask(wanted("node1", 3, digest=B, session=5))
        await eventually(lambda: len(outlet.sent) == 2)
        assert outlet.sent == [
            ("agent.node1", wire.Piece(session=5, digest=A, number=0, size=10**6, data=b"0")),
            ("agent.node1", wire.NoPiece(session=5, digest=B, number=3)),
        ]
        outlet.confirm()


async def test_what_is_asked_for_again_while_it_waits_is_sent_once() -> None:
    async with shipping() as (made, outlet):
        made.ask(wanted("node1", 0))
        await eventually(lambda: len(outlet.sent) == 1)
        for _ in range(3):
            made.ask(wanted("node1", 1, 2))
        outlet.confirm()
        await eventually(lambda: len(outlet.sent) == 3)
        outlet.confirm()
        made.ask(wanted("node1", 1))
        await eventually(lambda: len(outlet.sent) == 4)
        assert [number for _, number in outlet.numbers()] == [0, 1, 2, 1]


async def test_agents_take_turns() -> None:
    async with shipping() as (made, outlet):
        made.ask(wanted("node1", *range(2 * TURN)))
        made.ask(wanted("node2", 7))
        await eventually(lambda: len(outlet.sent) == TURN)
        made.ask(wanted("node1", 1000))
        outlet.confirm()
        await eventually(lambda: len(outlet.sent) == TURN + 1)
        assert outlet.numbers()[-1] == ("agent.node2", 7)
        outlet.confirm()
        await eventually(lambda: len(outlet.sent) == 2 * TURN + 1)
        outlet.confirm()
        await eventually(lambda: len(outlet.sent) == 2 * TURN + 2)
        assert outlet.numbers()[-1] == ("agent.node1", 1000)


async def test_what_an_agent_that_is_gone_wanted_is_forgotten() -> None:
    async with shipping() as (made, outlet):
        made.ask(wanted("node1", *range(TURN + 1)))
        await eventually(lambda: len(outlet.sent) == TURN)
        outlet.confirm(Unroutable("no queue"))
        made.ask(wanted("node2", 0))
        await eventually(lambda: len(outlet.sent) == TURN + 1)
        assert outlet.numbers()[-1] == ("agent.node2", 0)
        outlet.confirm(TransportError("the link is closing"))
        made.ask(wanted("node1", 5))
        await eventually(lambda: outlet.numbers()[-1] == ("agent.node1", 5))
