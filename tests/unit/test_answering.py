"""Requests of running tasks are answered from the database, each once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from dispatcher.answering import ANSWER_BYTES, Answering
from dispatcher.core.state import Lookup
from flow import wire
from flow.errors import StoreError
from tests.waiting import eventually

WANTED = (wire.Wanted(kind="xcom", name="a", key="k"), wire.Wanted(kind="variable", name="v"))


class Court:
    """A store that answers, and the replies that went out."""

    def __init__(self) -> None:
        self.values: list[str | None] = ["1", None]
        self.failure: Exception | None = None
        self.calls: list[tuple[int, Sequence[wire.Wanted], int]] = []
        self.replies: list[tuple[str, wire.Reply]] = []
        self.answering = Answering(
            self,  # type: ignore[arg-type]  # all that is used of it
            self.on_reader,
            lambda agent, reply: self.replies.append((agent, reply)),
        )

    def find_values(
        self, run_pk: int, wanted: Sequence[wire.Wanted], limit: int
    ) -> list[str | None]:
        self.calls.append((run_pk, wanted, limit))
        if self.failure is not None:
            raise self.failure
        return self.values

    async def on_reader(self, call: Callable[..., Any], *args: Any) -> Any:
        await asyncio.sleep(0)
        return call(*args)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        task = asyncio.ensure_future(self.answering.run())
        yield task
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def lookup(request: int = 5, agent: str = "node1") -> Lookup:
    return Lookup(agent=agent, session=3, request=request, run_pk=7, wanted=WANTED)


async def test_a_request_is_answered_with_what_was_found() -> None:
    court = Court()
    async with court.running():
        court.answering.take([lookup()])
        await eventually(lambda: bool(court.replies))
    assert court.calls == [(7, WANTED, ANSWER_BYTES)]
    answer = wire.Answer(session=3, request=5, values=((msgspec.Raw(b"1"),), ()))
    assert court.replies == [("node1", answer)]


async def test_the_same_request_twice_is_answered_once_and_others_in_their_order() -> None:
    court = Court()
    court.answering.take([lookup(5), lookup(6), lookup(5), lookup(5, "node2")])
    async with court.running():
        await eventually(lambda: len(court.replies) == 3)
        court.answering.take([lookup(5)])
        await eventually(lambda: len(court.replies) == 4)
    sent = [
        (agent, reply.request) for agent, reply in court.replies if isinstance(reply, wire.Answer)
    ]
    assert sent == [("node1", 5), ("node1", 6), ("node2", 5), ("node1", 5)]


async def test_a_database_that_is_away_ends_the_reign() -> None:
    court = Court()
    court.failure = StoreError("away")
    async with court.running() as task:
        court.answering.take([lookup()])
        with pytest.raises(StoreError, match="away"):
            await task
    assert court.replies == []
