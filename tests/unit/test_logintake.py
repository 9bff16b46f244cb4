"""Log chunks on their way into a store that cannot be written for a while."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from dispatcher.election import Inbox
from dispatcher.logintake import LogIntake
from dispatcher.logstore import LogStore
from flow import wire
from tests.waiting import eventually


class Chunk:
    """A delivery; ``acked`` once it is settled."""

    routing_key = "dag.task"
    headers: dict[str, object] = {}  # noqa: RUF012 -- nobody writes to it
    redelivered = False
    user_id = None

    def __init__(self, offset: int, text: str) -> None:
        self.acked = False
        self.body = wire.encode(
            wire.LogChunk(
                task_instance_id=2, try_number=1, token=3, run_id="r", offset=offset, text=text
            )
        )

    def ack(self, *, multiple: bool = False) -> None:
        assert not multiple
        self.acked = True


async def _owner(_: wire.LogChunk) -> int | None:
    return 1


async def test_a_store_that_takes_nothing_is_named_once_and_nothing_that_came_is_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dispatcher.logintake.RETRY_INTERVAL", 0.01)
    folder = tmp_path / "logs"
    folder.write_text("no folder")
    store, inbox = LogStore(folder), Inbox()
    chunks = [Chunk(0, "one "), Chunk(4, "two")]
    for chunk in chunks:
        inbox.put(chunk)
    intake = asyncio.ensure_future(LogIntake(store, _owner).run(inbox))
    with caplog.at_level(logging.WARNING):
        await eventually(lambda: "cannot be written" in caplog.text)
        await asyncio.sleep(0.05)  # several tries more
        assert [chunk.acked for chunk in chunks] == [False, False]
        folder.unlink()
        await eventually(lambda: chunks[-1].acked)
    assert store.read(1, 2, 1) == b"one two"
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith(f"{folder}/1/2/1.log: cannot be written: ")
    assert first.endswith("; output waits at the broker until it can")
    assert second == "output of tasks is stored again"
    intake.cancel()
    await asyncio.wait({intake})
    store.close()
