"""What an agent makes of a disk that takes nothing. /dev/full takes nothing (full(4))."""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
from pathlib import Path

import pytest

from agent import processes
from agent.core import events as on
from agent.disk import is_fault, probe, told
from agent.jobs import JobFolder, write_job
from agent.operators import CannotPrepare, Preparer
from agent.output import LogSender
from agent.runner import Limits, Runner
from agent.session import StateDirectory, write_durably
from flow import wire
from tests.unit.agent_world import task
from tests.waiting import eventually


def fill(path: Path) -> None:
    """The file of that name cannot be written from now on, as on a disk that is full."""
    path.symlink_to("/dev/full")


def test_a_disk_with_room_passes_and_nothing_stays_of_the_try(tmp_path: Path) -> None:
    folders = [tmp_path / "spool", tmp_path / "new" / "cache"]
    assert probe(folders) == ""
    assert [list(folder.iterdir()) for folder in folders] == [[], []]


def test_a_full_disk_is_told_with_the_file_and_nothing_stays_of_the_try(tmp_path: Path) -> None:
    fill(tmp_path / "probe.new")
    assert probe([tmp_path]) == f"No space left on device: {tmp_path}/probe"
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_names_its_file_and_keeps_the_old_content(tmp_path: Path) -> None:
    file = tmp_path / "file"
    write_durably(file, b"old")
    fill(tmp_path / "file.new")
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_durably(file, b"new")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(file))
    assert file.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_faults_of_the_disk_are_known_by_their_number(number: int) -> None:
    assert is_fault(OSError(number, "x"))


def test_other_errors_are_no_fault_of_the_disk() -> None:
    assert not is_fault(OSError(errno.EACCES, "x"))
    assert not is_fault(OSError(errno.EMFILE, "x"))
    assert not is_fault(CannotPrepare("x"))


def test_what_is_told_can_be_sent() -> None:
    error = OSError(errno.ENOSPC, "No space left on device", b"/tmp/\xff")
    wire.encode(wire.Heartbeat(agent="a", session=1, lease=1.0, suspended=told(error)))


def test_a_job_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path)
    fill(folder.job)
    grant = wire.Grant(session=1, task_instance_id=1, try_number=1, token=11)
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_job(folder, task(), grant, {})
    assert caught.value.filename == str(folder.job)


class Bench:
    """A runner without a keeper, and what it posts."""

    def __init__(self, home: Path) -> None:
        self.posted: list[on.Event] = []
        self.state = StateDirectory.open(home, "node1")
        self.background: set[asyncio.Task[None]] = set()
        self.runner = Runner(
            state=self.state,
            preparer=Preparer("node1", {}, self.state.work, (), "/bin/bash"),
            logs=LogSender(asyncio.get_running_loop(), "node1"),
            limits=Limits(kill_grace=0.1, proof=1.0, log_max_bytes=1000),
            post=self.posted.append,
            spawn=lambda work: self.background.add(asyncio.ensure_future(work)),
            wall=lambda: 1.0,
        )


@pytest.mark.parametrize(
    ("error", "fails"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/w/11"), True),
        (OSError(errno.EMFILE, "Too many open files"), False),
    ],
)
async def test_a_start_that_the_disk_prevents_says_so_and_is_no_failure_of_the_task(
    tmp_path: Path, error: OSError, *, fails: bool
) -> None:
    bench = Bench(tmp_path)
    grant = wire.Grant(session=1, task_instance_id=1, try_number=1, token=11)
    bench.runner.refuse(task(), grant, error)
    *disk, ended = bench.posted
    assert disk == ([on.DiskFailed("No space left on device: /w/11")] if fails else [])
    assert isinstance(ended, on.ProcessEnded)
    assert ended.fault
    bench.state.close()


async def test_no_session_begins_until_it_can_be_written_down(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.runner.SESSION_RETRY", 0.01)
    bench = Bench(tmp_path)
    blocked = bench.state.path / "session.json.new"
    blocked.mkdir()  # neither written nor removed, until it is gone
    with caplog.at_level(logging.ERROR):
        session = asyncio.ensure_future(bench.runner._next_session(0))
        await eventually(lambda: "no session can begin" in caplog.text)
        await asyncio.sleep(0.05)
        assert caplog.text.count("no session can begin") == 1
        assert not session.done()
    blocked.rmdir()
    assert await asyncio.wait_for(session, 10) == 1
    bench.state.close()


async def test_what_a_dead_keeper_left_is_ended_before_the_disk_takes_a_session(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path)
    blocked = bench.state.path / "session.json.new"
    first = bench.state.next_session()
    blocked.mkdir()
    mark = processes.mark(bench.state.state_id, first)
    left = await asyncio.create_subprocess_exec("sleep", "60", env={processes.MARK: mark})
    fence = asyncio.ensure_future(bench.runner.fence(0))
    try:
        assert await asyncio.wait_for(left.wait(), 10) == -signal.SIGKILL
        assert not fence.done(), "no session can begin"
    finally:
        fence.cancel()
        await asyncio.gather(fence, return_exceptions=True)
    bench.state.close()


def test_an_agent_starts_although_its_lock_file_cannot_say_who_it_is(tmp_path: Path) -> None:
    StateDirectory.open(tmp_path, "node1").close()
    lock = tmp_path / "agents" / "node1" / "lock"
    lock.unlink()
    fill(lock)
    StateDirectory.open(tmp_path, "node1").close()
