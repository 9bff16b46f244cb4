from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from agent import processes
from agent.processes import Process, prove_dead
from tests.waiting import until

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def state_id() -> str:
    return uuid.uuid4().hex


@pytest.fixture
def start() -> Iterator[Start]:
    started = []

    def start(*argv: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        variables = {"PATH": os.defpath, **(env or {})}
        process = subprocess.Popen(argv, env=variables, start_new_session=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def marks(state_id: str, session: int) -> dict[str, str]:
    return {processes.MARK: processes.mark(state_id, session)}


def read(pid: int) -> Process:
    process = processes.read_process(pid)
    assert process is not None
    return process


def pids(found: tuple[processes.Marked, ...]) -> set[int]:
    return {marked.process.pid for marked in found}


def tree(*parents: tuple[int, int]) -> dict[int, Process]:
    return {
        pid: Process(pid, parent, pid, pid, "S", 1, 0, 9, kernel=False, name="x")
        for pid, parent in parents
    }


def test_descendants_are_the_roots_and_everything_below_them() -> None:
    found = tree((1, 0), (2, 1), (3, 2), (4, 1), (5, 4), (6, 5))
    assert processes.descendants(found, [2, 5]) == {2, 3, 5, 6}


def test_descendants_of_a_root_that_is_gone_are_still_found() -> None:
    assert processes.descendants(tree((3, 2)), [2]) == {2, 3}


def test_descendants_end_even_when_reused_pids_make_a_cycle() -> None:
    assert processes.descendants(tree((2, 3), (3, 2)), [2]) == {2, 3}


def test_a_program_name_may_hold_spaces_and_parentheses(tmp_path: Path, start: Start) -> None:
    odd = tmp_path / "a) S (b"
    odd.symlink_to("/bin/sleep")
    process = read(start(str(odd), "60").pid)
    assert process.name == "a) S (b"
    assert process.parent == os.getpid()
    assert process.session == process.group == process.pid


def test_a_pid_that_does_not_exist_is_no_process() -> None:
    assert processes.read_process(2**22 + 1) is None


def test_own_children_include_one_that_ended_until_it_is_reaped(start: Start) -> None:
    child = start("/bin/true")
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert child.pid in processes.own_children()
    child.wait()
    assert child.pid not in processes.own_children()


def test_marked_finds_the_sessions_below_the_given_one(state_id: str, start: Start) -> None:
    old, new = (start("sleep", "60", env=marks(state_id, session)) for session in (6, 7))
    until(lambda: len(processes.marked(state_id)) == 2)  # execve is over in both
    assert pids(processes.marked(state_id, below_session=7)) == {old.pid}
    assert pids(processes.marked(state_id)) == {old.pid, new.pid}
    assert pids(processes.marked(state_id, spare={old.pid})) == {new.pid}


@pytest.mark.parametrize("value", ["", "other:1", "{id}", "{id}:", "{id}:x", "x{id}:1", "{id}:1:1"])
def test_a_mark_that_is_not_this_agents_is_not_matched(
    value: str, state_id: str, start: Start
) -> None:
    child = start("sleep", "60", env={processes.MARK: value.format(id=state_id)})
    until(lambda: read(child.pid).environ_size is not None)
    assert processes.marked(state_id) == ()


def test_a_mark_in_another_variable_is_not_matched(state_id: str, start: Start) -> None:
    child = start("sleep", "60", env={f"X{processes.MARK}": processes.mark(state_id, 1)})
    until(lambda: read(child.pid).environ_size is not None)
    assert processes.marked(state_id) == ()


def test_an_empty_environment_is_known_to_be_empty(start: Start) -> None:
    child = start("/usr/bin/env", "-i", "/bin/sleep", "60")
    until(lambda: read(child.pid).environ_size == 0)
    assert processes.environment(read(child.pid)) == {}


def test_a_process_between_two_programs_prevents_the_proof(
    state_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = processes.environment
    looks = []

    def environment(process: Process) -> dict[str, str] | None:
        if process.pid != os.getppid():
            return real(process)
        looks.append(process)
        return None if len(looks) < 4 else {}

    monkeypatch.setattr(processes, "environment", environment)
    now = 0.0
    proof = prove_dead(state_id, 2, timeout=0, clock=lambda: now, pause=lambda _: None)
    name = read(os.getppid()).name
    assert proof.survivors[0].startswith(f"pid {os.getppid()} ({name}) state ")
    assert proof.survivors[0].endswith(", environment unknown")
    assert prove_dead(state_id, 2, timeout=60, clock=lambda: now, pause=lambda _: None).dead
    assert len(looks) >= 5


def test_a_keeper_is_told_from_a_task(state_id: str, start: Start) -> None:
    start("sleep", "60", env=marks(state_id, 1))
    keeper = start("sleep", "60", env={**marks(state_id, 1), processes.KEEPER: "1"})
    until(lambda: len(processes.marked(state_id)) == 2)
    assert [m.process.pid for m in processes.marked(state_id) if m.keeper] == [keeper.pid]


def test_a_zombie_is_not_counted(state_id: str, start: Start) -> None:
    child = start("/bin/true", env=marks(state_id, 1))
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert processes.marked(state_id) == ()


def test_a_process_whose_first_thread_ended_is_alive(state_id: str, start: Start) -> None:
    script = (
        "import ctypes, threading, time\n"
        "threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "ctypes.CDLL(None).pthread_exit(None)\n"
    )
    child = start(sys.executable, "-c", script, env=marks(state_id, 1))
    until(lambda: read(child.pid).state == "Z")
    assert pids(processes.marked(state_id)) == {child.pid}


def test_a_signal_never_reaches_a_later_process_with_the_same_pid(start: Start) -> None:
    child = start("sleep", "60")
    earlier = read(child.pid)._replace(started=read(child.pid).started - 1)
    assert not processes.send_signal(earlier, signal.SIGKILL)
    assert processes.send_signal(read(child.pid), signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL


def test_proof_ends_older_sessions_and_touches_nothing_else(state_id: str, start: Start) -> None:
    # It does not end by itself when its child is killed before it.
    script = 'trap "" TERM; sleep 60 & wait; sleep 60'
    old = start("sh", "-c", script, env=marks(state_id, 3))
    current = start("sleep", "60", env=marks(state_id, 4))
    foreign = start("sleep", "60", env=marks(uuid.uuid4().hex, 3))
    until(lambda: len(processes.marked(state_id)) == 3)  # sh has a child
    assert prove_dead(state_id, 4, timeout=10) == processes.Proof(dead=True, survivors=())
    assert old.wait() == -signal.SIGKILL
    assert current.poll() is None
    assert foreign.poll() is None
    assert pids(processes.marked(state_id)) == {current.pid}


def test_proof_includes_an_unmarked_child_of_a_marked_process(
    state_id: str, start: Start, tmp_path: Path
) -> None:
    pidfile = tmp_path / "pid"
    script = f"env -i /bin/sh -c 'echo $$ > {pidfile}; exec /bin/sleep 60' & wait"
    start("sh", "-c", script, env=marks(state_id, 1))
    until(lambda: pidfile.exists() and pidfile.read_text().endswith("\n"))
    child = read(int(pidfile.read_text()))
    assert prove_dead(state_id, 2, timeout=10).dead
    now = processes.read_process(child.pid)
    assert now is None or now.started != child.started or not processes.alive(now)


def test_proof_of_nothing_is_proof(state_id: str) -> None:
    assert prove_dead(state_id, 1, timeout=0).dead


def test_without_proof_the_survivors_are_named(state_id: str, start: Start) -> None:
    child = start("sleep", "60", env=marks(state_id, 1))
    until(lambda: bool(processes.marked(state_id)))
    proof = prove_dead(state_id, 2, timeout=0)  # SIGKILL is sent, but nobody waits for its effect
    assert not proof.dead
    assert proof.survivors[0].startswith(f"pid {child.pid} (sleep) state ")


def test_an_old_keeper_may_finish_its_killing_before_it_is_killed(
    state_id: str, start: Start, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    script = f"until [ -e {go} ]; do sleep 0.01; done"
    keeper = start("sh", "-c", script, env={**marks(state_id, 1), processes.KEEPER: "1"})
    until(lambda: bool(processes.marked(state_id)))

    def pause(_seconds: float) -> None:
        go.touch()
        keeper.poll()

    assert prove_dead(state_id, 2, timeout=60, clock=lambda: 0.0, pause=pause).dead
    assert keeper.wait() == 0


def test_an_old_keeper_that_does_not_finish_is_killed(state_id: str, start: Start) -> None:
    keeper = start("sleep", "60", env={**marks(state_id, 1), processes.KEEPER: "1"})
    until(lambda: bool(processes.marked(state_id)))
    keeper.send_signal(signal.SIGSTOP)
    assert prove_dead(state_id, 2, timeout=1).dead
    assert keeper.wait() == -signal.SIGKILL
