"""Results on disk, and messages set aside."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import threading
from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest

from agent.core import events as on
from agent.spool import Spool
from agent.spooling import Spooling
from flow import wire
from tests.unit.agent_world import finished


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_was_written_is_loaded_by_token(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for token in (10, 9):
        assert spool.write([finished(token)]) == {}
    assert Spool(tmp_path).load() == (finished(9), finished(10))


def test_a_result_keeps_every_field(tmp_path: Path) -> None:
    full = msgspec.structs.replace(finished(7), state="failed", exit_code=3, reason="exit code 3 ü")
    Spool(tmp_path).write([full])
    assert Spool(tmp_path).load() == (full,)


def test_a_dropped_result_is_gone_and_dropping_it_again_is_harmless(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.write([finished(7)])
    spool.drop(7)
    spool.drop(7)
    assert spool.load() == ()


def test_results_that_are_written_together_fail_one_by_one(tmp_path: Path) -> None:
    (tmp_path / "8.json.new").symlink_to("/dev/full")
    spool = Spool(tmp_path)
    failed = spool.write(finished(token) for token in (7, 8, 9))
    assert failed.keys() == {8}
    assert (failed[8].errno, failed[8].filename) == (errno.ENOSPC, str(tmp_path / "8.json"))
    assert spool.load() == (finished(7), finished(9))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["7.json", "9.json"]


def test_results_that_are_written_together_are_synced_with_their_folder_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []
    fsync = os.fsync

    def seen(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", seen)
    Spool(tmp_path).write(finished(token) for token in (7, 8, 9))
    assert sorted(synced[:-1]) == ["7.json.new", "8.json.new", "9.json.new"]
    assert synced[-1] == tmp_path.name


async def test_what_comes_while_the_disk_is_busy_is_written_together(tmp_path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()
    batches: list[list[int]] = []

    class SlowSpool(Spool):
        def write(self, results: Iterable[wire.Finished]) -> dict[int, OSError]:
            written = list(results)
            batches.append([result.token for result in written])
            begun.set()
            assert go_on.wait(20)
            failed = super().write(written)
            return failed | {9: OSError(errno.ENOSPC, "full")} if len(written) > 1 else failed

    told: list[on.Event] = []
    tasks: set[asyncio.Task[None]] = set()
    loop = asyncio.get_running_loop()
    spooling = Spooling(
        SlowSpool(tmp_path), told.append, lambda work: tasks.add(loop.create_task(work))
    )
    spooling.write(finished(7))
    await asyncio.to_thread(begun.wait, 20)
    for token in (8, 9, 10):
        spooling.write(finished(token))
    spooling.drop(8)  # before it is written: it must not appear afterwards
    spooling.drop(7)
    go_on.set()
    await asyncio.wait(tasks, timeout=20)
    assert batches == [[7], [8, 9, 10]]
    assert told == [on.Spooled(7), on.Spooled(8), on.Spooled(9, "full"), on.Spooled(10)]
    assert names(tmp_path) == ["10.json", "9.json"]
    assert len(tasks) == 1
    spooling.drop(9)
    spooling.drop(10)
    await asyncio.wait(tasks, timeout=20)
    assert names(tmp_path) == []


def test_a_write_that_a_crash_cut_short_is_forgotten(tmp_path: Path) -> None:
    (tmp_path / "7.json.new").write_bytes(b'{"type": "fini')
    assert Spool(tmp_path).load() == ()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"{", wire.encode(wire.Wake())])
def test_a_damaged_result_is_set_aside_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    (tmp_path / "7.json").write_bytes(content)
    Spool(tmp_path).write([finished(8)])
    with caplog.at_level(logging.ERROR):
        assert Spool(tmp_path).load() == (finished(8),)
    assert "7.json is no result and was renamed to 7.bad" in caplog.text
    assert (tmp_path / "7.bad").read_bytes() == content
