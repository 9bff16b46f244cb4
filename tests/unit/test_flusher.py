"""One transaction for all that is pending, then everything else, in order."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from dispatcher.core.records import CloseIntent, Write
from dispatcher.core.state import Effects
from dispatcher.flusher import Flusher
from flow.errors import EpochLost
from tests.unit.core_world import START
from tests.waiting import eventually


class FakeDelivery:
    def __init__(self, name: str, log: list[str]) -> None:
        self.body = name.encode()
        self.routing_key = name
        self.headers: Mapping[str, object] = {}
        self.redelivered = False
        self.user_id: str | None = None
        self._log = log

    def ack(self, *, multiple: bool = False) -> None:
        assert multiple
        self._log.append(f"ack {self.routing_key}")


def wrote(number: int) -> Effects:
    return Effects(writes=[CloseIntent(intent_id=number, at=START)], notes=[f"note {number}"])


class Stage:
    """A flusher between a database that takes its time and a list of what happened."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.failure: Exception | None = None
        self.flusher = Flusher(self.commit, self.carry_out)

    async def commit(self, writes: Sequence[Write]) -> None:
        numbers = [write.intent_id for write in writes if isinstance(write, CloseIntent)]
        self.log.append(f"begin {numbers}")
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        self.log.append(f"commit {numbers}")

    def carry_out(self, effects: Effects) -> None:
        self.log += effects.notes

    def delivery(self, name: str) -> FakeDelivery:
        return FakeDelivery(name, self.log)


async def test_acks_and_messages_follow_the_commit() -> None:
    stage = Stage()
    running = asyncio.ensure_future(stage.flusher.run())
    stage.flusher.add(wrote(1), stage.delivery("d1"))
    await eventually(lambda: "note 1" in stage.log)
    assert stage.log == ["begin [1]", "commit [1]", "ack d1", "note 1"]
    running.cancel()


async def test_what_comes_during_a_flush_goes_into_the_next_one_together() -> None:
    stage = Stage()
    stage.gate.clear()
    running = asyncio.ensure_future(stage.flusher.run())
    stage.flusher.add(wrote(1), stage.delivery("d1"))
    await eventually(lambda: stage.log == ["begin [1]"])
    stage.flusher.add(wrote(2), stage.delivery("d2"))
    stage.flusher.add(wrote(3), stage.delivery("d3"))
    stage.gate.set()
    await eventually(lambda: "note 3" in stage.log)
    assert stage.log[4:] == ["begin [2, 3]", "commit [2, 3]", "ack d3", "note 2", "note 3"]
    running.cancel()


async def test_a_failed_commit_acks_nothing_sends_nothing_and_ends_the_reign() -> None:
    stage = Stage()
    stage.failure = EpochLost("another dispatcher leads")
    stage.flusher.add(wrote(1), stage.delivery("d1"))
    with pytest.raises(EpochLost):
        await stage.flusher.run()
    assert stage.log == ["begin [1]"]


async def test_an_event_that_writes_nothing_costs_no_transaction() -> None:
    stage = Stage()
    running = asyncio.ensure_future(stage.flusher.run())
    stage.flusher.add(Effects(notes=["heard"]), stage.delivery("d1"))
    await eventually(lambda: "heard" in stage.log)
    assert stage.log == ["ack d1", "heard"]
    running.cancel()
