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
from flow.senders import Senders
from tests.waiting import eventually


class Chunk:
    """A delivery; ``acked`` once it is settled."""

    routing_key = "node1.dag.task"
    headers: dict[str, object] = {}  # noqa: RUF012 -- nobody writes to it
    redelivered = False

    def __init__(self, offset: int, text: str, *, user: str | None = None) -> None:
        self.acked = False
        self.user_id = user
        self.body = wire.encode(
            wire.LogChunk(
                task_instance_id=2, try_number=1, token=3, run_id="r", offset=offset, text=text
            )
        )

    def ack(self, *, multiple: bool = False) -> None:
        assert not multiple
        self.acked = True


async def _owner(_: wire.LogChunk) -> tuple[int, str] | None:
    return 1, "node1"


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
    intake = asyncio.ensure_future(LogIntake(store, _owner, Senders()).run(inbox))
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


@pytest.mark.parametrize(
    ("agent", "user", "verify", "reason"),
    [
        ("node2", "node1", False, "expected its name to begin the routing key, got "),
        ("node1", None, True, "expected the broker user 'node1', got None"),
        ("node1", "node2", True, "expected the broker user 'node1', got 'node2'"),
        ("node1", "node1", True, None),
        ("node1", None, False, None),
    ],
)
async def test_only_the_agent_that_runs_a_try_writes_its_log(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    agent: str,
    user: str | None,
    verify: bool,
    reason: str | None,
) -> None:
    async def owner(_: wire.LogChunk) -> tuple[int, str]:
        return 1, agent

    store, inbox = LogStore(tmp_path), Inbox()
    chunk = Chunk(0, "text", user=user)
    inbox.put(chunk)
    intake = asyncio.ensure_future(LogIntake(store, owner, Senders(verify)).run(inbox))
    await eventually(lambda: chunk.acked)
    assert store.read(1, 2, 1) == (b"text" if reason is None else None)
    assert reason is None or reason in caplog.text
    intake.cancel()
    await asyncio.wait({intake})
    store.close()
