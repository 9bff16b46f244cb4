"""The keeper with a cgroup per task, on this machine's own cgroups: membership, kills, proof.

Limits need controllers of version 2; they are tried on a machine that has them, by tests.vm.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from agent import processes
from agent.cgroups import prove_empty
from agent.keeper import cgroups
from agent.keeper.cgroups import Cgroup, name_of
from agent.keeper_client import Keeper, StartFailed, TaskExited, TaskStarted
from agent.processes import prove_dead
from tests.cgroup_world import delegated
from tests.integration.test_keeper import AWAIT_PID, VANISH, Bench, Witness, sh
from tests.waiting import eventually, until


@pytest.fixture
def top() -> Iterator[Path]:
    with delegated() as folder:
        yield folder


class HeldBench(Bench):
    """A bench whose tasks get cgroups."""

    top: Path

    async def launch(self, session: int = 1) -> None:
        self.keeper = await Keeper.launch(
            state_id=self.state_id,
            session=session,
            on_event=self.events.append,
            cgroups=self.top,
        )

    def cgroup(self, token: int) -> Path:
        return self.top / name_of(self.state_id, 1, token)


@pytest.fixture
async def bench(top: Path) -> AsyncIterator[HeldBench]:
    bench = HeldBench(uuid.uuid4().hex)
    bench.top = top
    await bench.launch()
    yield bench
    await bench.keeper.stop()
    assert not processes.marked(bench.state_id)


async def test_a_task_is_born_in_a_cgroup_that_ends_with_it(
    bench: HeldBench, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    bench.start(7, ["/bin/cat", "/proc/self/cgroup"], output=output)
    exited = await bench.get(TaskExited, 7)
    assert exited.exit_code == 0
    assert f"/task-{bench.state_id}-1-7\n" in output.read_text()
    assert exited.cpu_seconds > 0
    assert not bench.cgroup(7).exists()


async def test_the_keeper_stays_outside(bench: HeldBench) -> None:
    bench.start(1, ["/bin/sleep", "600"])
    started = await bench.get(TaskStarted, 1)
    assert Cgroup(str(bench.cgroup(1))).pids() == {started.pid}
    assert Cgroup(str(bench.top / "agent")).pids() == {bench.keeper.pid}


async def test_a_program_that_is_not_there_leaves_no_cgroup(bench: HeldBench) -> None:
    bench.start(1, ["/nowhere"])
    failed = await bench.get(StartFailed, 1)
    assert failed.reason.startswith("command: expected a program that can run")
    assert not bench.cgroup(1).exists()


async def test_a_cgroup_that_cannot_be_made_is_said(bench: HeldBench) -> None:
    bench.cgroup(1).mkdir()
    bench.start(1, ["/bin/true"])
    failed = await bench.get(StartFailed, 1)
    assert failed.reason == "this node could not make a cgroup for the task: File exists"


async def test_a_limit_that_cannot_be_set_ends_the_task(bench: HeldBench) -> None:
    bench.start(1, ["/bin/sleep", "600"], limits={"memory.most": "5"})
    exited = await bench.get(TaskExited, 1)
    assert exited.signal == 9
    assert exited.reason == (
        "it cannot be held to its limits: memory.most=5: No such file or directory"
    )


async def test_what_left_tree_session_and_environment_dies_with_its_task_alone(
    bench: HeldBench, tmp_path: Path
) -> None:
    mine, other = Witness(tmp_path / "mine"), Witness(tmp_path / "other")
    bench.start(1, sh(f"{VANISH}; {AWAIT_PID}", mine.path))
    bench.start(2, sh(f"{VANISH}; sleep 600", other.path))
    await eventually(lambda: mine.seen() and other.seen())
    await bench.get(TaskExited, 1)
    assert mine.dead()
    # Without cgroups it might be any task's, and would have died with the first.
    assert not other.dead()
    bench.keeper.kill(2, 0.0, "enough")
    await bench.get(TaskExited, 2)
    assert other.dead()


async def test_sigterm_reaches_what_has_vanished(bench: HeldBench, tmp_path: Path) -> None:
    ready, told = tmp_path / "ready", tmp_path / "told"
    polite = f"trap 'echo TERM > {told}; exit' TERM; echo > {ready}; while :; do sleep 0.01; done"
    bench.start(1, sh(f'(env -i /usr/bin/setsid /bin/sh -c "{polite}" &) ; sleep 600'))
    await eventually(ready.exists)
    bench.keeper.kill(1, 20.0, "enough")
    await eventually(told.exists)
    await bench.get(TaskExited, 1)


async def test_cgroups_of_the_tasks_own_end_with_it(bench: HeldBench) -> None:
    own = bench.cgroup(1)
    script = 'mkdir -p "$1/a/b" "$1/c"; (echo 0 > "$1/a/b/cgroup.procs"; exec sleep 600) & wait'
    bench.start(1, sh(script, own))
    inner = Cgroup(str(own / "a" / "b"))
    await eventually(lambda: bool(inner.pids()))
    assert inner.pids() < Cgroup(str(own)).pids()
    bench.keeper.kill(1, 0.0, "enough")
    await bench.get(TaskExited, 1)
    assert not own.exists()


async def test_a_task_is_not_over_before_its_cgroup_is_empty(bench: HeldBench) -> None:
    bench.start(1, ["/bin/sleep", "600"])
    await bench.get(TaskStarted, 1)
    # Below this process, not below the keeper: only the cgroup tells of it. It does not mind the
    # SIGTERM that ends the task's own process at once.
    stubborn = ["/bin/sh", "-c", "trap '' TERM; echo; exec sleep 600"]
    with subprocess.Popen(stubborn, stdout=subprocess.PIPE) as stranger:
        assert stranger.stdout is not None
        stranger.stdout.readline()
        (bench.cgroup(1) / "cgroup.procs").write_text(str(stranger.pid))
        bench.keeper.kill(1, 1.0, "enough")
        await bench.get(TaskExited, 1)
        ended = stranger.poll()
        stranger.kill()
    assert ended == -9
    assert not bench.cgroup(1).exists()


async def test_a_hundred_tasks_at_once_are_all_measured_and_tidied_up(bench: HeldBench) -> None:
    for token in range(1, 101):
        bench.start(token, ["/bin/true"])
    await eventually(lambda: len(bench.of(TaskExited)) == 100)
    assert all(event.cpu_seconds > 0 for event in bench.of(TaskExited))
    assert [path.name for path in bench.top.iterdir() if path.is_dir()] == ["agent"]


async def test_what_no_mark_shows_is_found_by_its_cgroup(bench: HeldBench, tmp_path: Path) -> None:
    lost = Witness(tmp_path / "lost")
    bench.start(1, sh(f"{VANISH}; sleep 600", lost.path))
    await eventually(lost.seen)
    bench.keeper.destroy()
    await bench.keeper.lost
    assert (await asyncio.to_thread(prove_dead, bench.state_id, 2, 20.0)).dead
    assert not lost.dead(), "it has no mark: only its cgroup tells of it"
    assert (await asyncio.to_thread(prove_empty, bench.top, "another", 2, 20.0)).dead
    assert (await asyncio.to_thread(prove_empty, bench.top, bench.state_id, 1, 20.0)).dead
    assert not lost.dead(), "it is of another agent, or of the session that goes on"
    assert (await asyncio.to_thread(prove_empty, bench.top, bench.state_id, 2, 20.0)).dead
    assert lost.dead()
    assert not bench.cgroup(1).exists()


def test_what_does_not_die_is_named(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with _sleeper(top / "task-x-1-5") as sleeper:
        monkeypatch.setattr(Cgroup, "kill", lambda _: None)
        proof = prove_empty(top, "x", 2, 0.1)
        assert proof.survivors == (f"pid {sleeper.pid} (sleep) state S in {top}/task-x-1-5",)
        sleeper.kill()


def test_an_older_kernel_without_cgroup_kill_has_its_members_signalled(
    top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(path: str, value: str) -> None:
        raise FileNotFoundError(path, value)

    with _sleeper(top / "task-x-1-5") as sleeper, _sleeper(top / "task-x-1-6") as spared:
        monkeypatch.setattr(cgroups, "write", write)
        Cgroup(str(top / "task-x-1-5")).kill()
        assert sleeper.wait() == -9
        assert spared.poll() is None
        spared.kill()


def _sleeper(folder: Path) -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    script = 'echo 0 > "$0/cgroup.procs"; exec sleep 600'
    sleeper = subprocess.Popen(["/bin/sh", "-c", script, str(folder)])
    until(lambda: (folder / "cgroup.procs").read_text() == f"{sleeper.pid}\n")
    until(lambda: Path(f"/proc/{sleeper.pid}/comm").read_text() == "sleep\n")
    until(lambda: "S" in Path(f"/proc/{sleeper.pid}/stat").read_text().split()[2])
    return sleeper


def test_an_agent_takes_what_is_delegated_to_it_and_finds_it_again(top: Path) -> None:
    script = f"""
        from pathlib import Path
        from agent.cgroups import claim
        from agent.keeper.cgroups import enter
        enter({str(top)!r})
        first = claim()
        assert Path("/proc/self/cgroup").read_text().rstrip().endswith("/{top.name}/agent")
        assert claim() == first
        print(first.top)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{top}\n"


def test_an_agent_takes_along_what_is_in_the_cgroup_already(top: Path) -> None:
    with _sleeper(top) as sleeper:
        script = f"""
            from agent.cgroups import claim
            from agent.keeper.cgroups import enter
            enter({str(top)!r})
            claim()
        """
        subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True)
        assert Cgroup(str(top / "agent")).pids() == {sleeper.pid}
        sleeper.kill()


def test_an_agent_leaves_alone_what_is_not_delegated_to_it(top: Path) -> None:
    os.removexattr(top, "user.delegate")
    script = f"""
        from agent.cgroups import claim
        from agent.keeper.cgroups import enter
        enter({str(top)!r})
        print(claim().told())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True
    )
    assert done.stdout == (
        "no cgroup per task, so none can be held to memory, cpus, pids: its cgroup "
        f"{top} is not delegated to it; its unit needs Delegate=memory pids cpu\n"
    )
