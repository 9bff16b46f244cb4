"""The keeper with real processes: what it starts, how it ends it, and what nothing escapes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from agent import processes
from agent.keeper_client import (
    Keeper,
    KeeperEvent,
    Lapsed,
    ProvenDead,
    StartFailed,
    StartTask,
    TaskExited,
    TaskStarted,
)
from agent.processes import prove_dead
from tests.waiting import eventually, until

LONE_AGENT = Path(__file__).with_name("lone_agent.py")
#: Leaves the task's process tree and session, ignores SIGTERM, and writes its pid to "$1".
ESCAPE = """(setsid sh -c 'trap "" TERM HUP; echo $$ > "$0"; while :; do sleep 60; done' "$1" &)"""
#: The same, with no trace of the task in its environment either.
VANISH = ESCAPE.replace("(setsid sh", "(env -i /usr/bin/setsid /bin/sh").replace(
    "sleep", "/bin/sleep"
)
AWAIT_PID = 'until [ -s "$1" ]; do sleep 0.01; done'


def boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def state_of(pid: int) -> str:
    process = processes.read_process(pid)
    assert process is not None
    return process.state


def sh(script: str, *arguments: object) -> list[str]:
    return ["/bin/sh", "-c", script, "sh", *map(str, arguments)]


@dataclass
class Bench:
    """A keeper, what it said, and what the tasks wrote."""

    state_id: str
    events: list[KeeperEvent] = field(default_factory=list)
    keeper: Keeper = field(init=False)
    outputs: dict[int, Path] = field(default_factory=dict)

    async def launch(self, session: int = 1) -> None:
        self.keeper = await Keeper.launch(
            state_id=self.state_id, session=session, on_event=self.events.append
        )

    def start(
        self,
        token: int,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: object = "/",
        output: Path | None = None,
        **options: Any,
    ) -> None:
        path = output or Path("/dev/null")
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.keeper.start(
            StartTask(
                token=token,
                argv=argv,
                env=env if env is not None else {"PATH": os.defpath},
                cwd=str(cwd),
                output_fd=fd,
                **options,
            )
        )

    def of(self, kind: type[KeeperEvent], token: int | None = None) -> list[Any]:
        return [
            event
            for event in self.events
            if isinstance(event, kind) and token in {None, getattr(event, "token", None)}
        ]

    async def get(self, kind: type[KeeperEvent], token: int | None = None) -> Any:
        await eventually(lambda: bool(self.of(kind, token)))
        return self.of(kind, token)[0]

    def left(self) -> set[int]:
        """The pids of all that carries the mark, but the keeper's own."""
        found = processes.marked(self.state_id)
        return {marked.process.pid for marked in found if not marked.keeper}


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench(uuid.uuid4().hex)
    await bench.launch()
    yield bench
    await bench.keeper.stop()
    assert not processes.marked(bench.state_id)


class Witness:
    """A process known by the pid that it wrote to a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._process: processes.Process | None = None

    def seen(self) -> bool:
        if self._process is None and self.path.exists():
            text = self.path.read_text()
            self._process = processes.read_process(int(text)) if text.endswith("\n") else None
        return self._process is not None

    def dead(self) -> bool:
        assert self._process is not None, "it was never seen"
        now = processes.read_process(self._process.pid)
        return now is None or now.started != self._process.started or not processes.alive(now)


# -- starting ----------------------------------------------------------------------------------


async def test_a_task_that_ends_well_is_reported_with_its_times(bench: Bench) -> None:
    before = time.time()
    bench.start(7, ["true"])
    exited = await bench.get(TaskExited, 7)
    started = bench.of(TaskStarted, 7)[0]
    assert (exited.exit_code, exited.signal, exited.reason) == (0, None, "")
    assert before - 0.1 <= started.started_at <= exited.ended_at <= time.time() + 0.1
    assert 0 <= exited.duration < 20
    assert 0 < exited.cpu < 5
    assert bench.events.index(started) < bench.events.index(exited)


async def test_exit_codes_and_signals_are_told_apart(bench: Bench) -> None:
    bench.start(1, sh("exit 3"))
    bench.start(2, sh("kill -9 $$"))
    one, two = await bench.get(TaskExited, 1), await bench.get(TaskExited, 2)
    assert (one.exit_code, one.signal) == (3, None)
    assert (two.exit_code, two.signal) == (None, signal.SIGKILL)


async def test_a_task_has_exactly_its_environment_and_its_marks(
    bench: Bench, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    env = {"PATH": os.defpath, "NAME": "grüße", processes.KEEPER: "1", "FLOW_TOKEN": "forged"}
    bench.start(5, ["env"], env=env, output=output)
    await bench.get(TaskExited, 5)
    assert sorted(output.read_text().splitlines()) == sorted(
        [
            f"PATH={os.defpath}",
            "NAME=grüße",
            "FLOW_TOKEN=5",
            f"FLOW_AGENT_MARK={bench.state_id}:1",
        ]
    )


async def test_a_task_has_three_descriptors_a_session_and_default_signals(
    bench: Bench, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    script = (
        "import os\n"
        "print(sorted(int(fd) for fd in os.listdir('/proc/self/fd'))[:-1])\n"
        "print(os.readlink('/proc/self/fd/0'), os.getsid(0) == os.getpid(), os.getcwd())\n"
        "status = dict(l.split(':\\t') for l in open('/proc/self/status') if ':\\t' in l)\n"
        # Of the classic signals; glibc's posix_spawn ignores two real-time ones of its own.
        "print(int(status['SigBlk'], 16), int(status['SigIgn'], 16) & 0x7fffffff)\n"
    )
    bench.start(1, [sys.executable, "-I", "-S", "-c", script], cwd=tmp_path, output=output)
    await bench.get(TaskExited, 1)
    by_python = 1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1  # which ignores these itself
    assert output.read_text().splitlines() == [
        "[0, 1, 2]",
        f"/dev/null True {tmp_path}",
        f"0 {by_python}",
    ]


async def test_output_is_complete_with_that_of_grandchildren(bench: Bench, tmp_path: Path) -> None:
    output = tmp_path / "out"
    script = "echo one; echo two >&2; sh -c 'sh -c \"seq 3 20000\"'"
    bench.start(1, sh(script), output=output)
    await bench.get(TaskExited, 1)
    assert output.read_text().split() == ["one", "two", *map(str, range(3, 20001))]


async def test_a_pipe_ends_once_the_task_has_exited(bench: Bench) -> None:
    reading, writing = os.pipe2(os.O_CLOEXEC)
    task = StartTask(
        token=1,
        argv=sh("echo hello; sleep 60 &"),
        env={"PATH": os.defpath},
        cwd="/",
        output_fd=writing,
    )
    bench.keeper.start(task)
    await bench.get(TaskExited, 1)
    os.set_blocking(reading, False)
    assert os.read(reading, 100) == b"hello\n"
    assert os.read(reading, 100) == b""
    os.close(reading)


async def test_a_command_larger_than_a_socket_buffer_starts(bench: Bench, tmp_path: Path) -> None:
    output = tmp_path / "out"
    arguments = ["x" * 100_000] * 6
    bench.start(1, ["sh", "-c", "echo $#", "sh", *arguments], output=output)
    await bench.get(TaskExited, 1)
    assert output.read_text() == "6\n"


async def test_what_cannot_start_says_why(bench: Bench, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/no/such/shell\n")
    script.chmod(0o755)
    plain = tmp_path / "plain"
    plain.write_text("echo")
    bench.start(1, ["true"], cwd=tmp_path / "nowhere")
    bench.start(2, ["no-such-program"], env={"PATH": "/usr/bin:/bin"})
    bench.start(3, [str(script)])
    bench.start(4, [str(plain)])
    bench.start(5, ["sh", "-c", "a\0b"])
    bench.start(6, ["sh", "x" * 200_000])
    bench.start(7, [])
    reasons = [(await bench.get(StartFailed, token)).reason for token in range(1, 8)]
    not_runnable = "command: expected a program that can run, got"
    assert reasons == [
        (
            f"cwd: expected a directory that exists on this node, got '{tmp_path}/nowhere' "
            "(No such file or directory); create it or change cwd"
        ),
        (
            "command: expected a program in PATH '/usr/bin:/bin', got 'no-such-program' "
            "(not found); install it on this node or give its full path"
        ),
        (
            f"{not_runnable} '{script}' (the interpreter in its first line, or its loader, "
            "is not on this node)"
        ),
        f"{not_runnable} '{plain}' (Permission denied); is it on this node and executable?",
        "command: expected arguments and variables that exec takes, got embedded null byte",
        (
            "command: expected arguments and variables that are together shorter than exec's "
            "limit, got Argument list too long"
        ),
        "command: expected a program and its arguments, got an empty list",
    ]
    bench.start(8, ["true"])
    await bench.get(TaskExited, 8)


async def test_a_token_is_not_started_twice(bench: Bench) -> None:
    bench.start(1, ["sleep", "60"])
    bench.start(1, ["true"])
    assert (await bench.get(StartFailed, 1)).reason == "token 1 has a process already"


async def test_two_hundred_tasks_at_once_all_end(bench: Bench) -> None:
    for token in range(200):
        bench.start(token, sh(f"exit {token % 7}"))
    await eventually(lambda: len(bench.of(TaskExited)) == 200)
    assert {e.token: e.exit_code for e in bench.of(TaskExited)} == {t: t % 7 for t in range(200)}


async def test_descriptors_do_not_leak(bench: Bench) -> None:
    def count() -> list[int]:
        folders = (Path("/proc/self/fd"), Path(f"/proc/{bench.keeper.pid}/fd"))
        return [len(list(folder.iterdir())) for folder in folders]

    before = count()
    for token in range(50):
        bench.start(token, ["true"] if token % 2 else ["no-such-program"])
    await eventually(lambda: len(bench.of(TaskExited)) + len(bench.of(StartFailed)) == 50)
    assert count() == before


# -- ending ------------------------------------------------------------------------------------


@pytest.mark.parametrize("escape", [ESCAPE, VANISH], ids=["detached", "without environment"])
async def test_what_escaped_dies_when_the_task_ends(
    escape: str, bench: Bench, tmp_path: Path
) -> None:
    witness = Witness(tmp_path / "pid")
    gate = tmp_path / "gate"
    script = f'{escape}; until [ -e "$2" ]; do sleep 0.01; done'
    bench.start(1, sh(script, witness.path, gate))
    await eventually(witness.seen)
    gate.touch()
    exited = await bench.get(TaskExited, 1)
    assert witness.dead()
    assert (exited.exit_code, exited.reason) == (0, "")


@pytest.mark.parametrize("escape", [ESCAPE, VANISH], ids=["detached", "without environment"])
async def test_what_escaped_and_ignores_sigterm_dies_when_the_task_is_killed(
    escape: str, bench: Bench, tmp_path: Path
) -> None:
    witness = Witness(tmp_path / "pid")
    bench.start(1, sh(f'trap "" TERM; {escape}; while :; do sleep 60; done', witness.path))
    await eventually(witness.seen)
    bench.keeper.kill(1, 0.3, "cancelled by ada")
    exited = await bench.get(TaskExited, 1)
    assert witness.dead()
    assert (exited.exit_code, exited.signal) == (None, signal.SIGKILL)
    assert exited.reason == "cancelled by ada"
    assert exited.duration >= 0.3


async def test_another_tasks_daemons_live_on(bench: Bench, tmp_path: Path) -> None:
    witness = Witness(tmp_path / "pid")
    bench.start(1, sh(f"{ESCAPE}; sleep 60", witness.path))
    await eventually(witness.seen)
    for token in range(2, 6):
        bench.start(token, sh("setsid sleep 60 & sleep 60 &"))
        await bench.get(TaskExited, token)
    assert not witness.dead()
    assert not bench.of(TaskExited, 1)


async def test_sigterm_reaches_the_whole_tree_and_each_process_may_tidy_up(
    bench: Bench, tmp_path: Path
) -> None:
    tidy = f"trap 'echo $0 >> {tmp_path}/tidied; exit 0' TERM; echo $0 >> {tmp_path}/ready"
    wait = "while :; do sleep 0.01; done"
    script = f"{tidy}; setsid sh -c '{tidy.replace(chr(39), chr(34))}; {wait}' child & {wait}"
    bench.start(1, ["sh", "-c", script, "main"])
    ready, tidied = tmp_path / "ready", tmp_path / "tidied"
    await eventually(lambda: ready.exists() and len(ready.read_text().split()) == 2)
    bench.keeper.kill(1, 60, "enough")
    exited = await bench.get(TaskExited, 1)
    assert sorted(tidied.read_text().split()) == ["child", "main"]
    assert (exited.exit_code, exited.reason) == (0, "enough")


async def test_a_stopped_task_is_continued_to_act_on_sigterm(bench: Bench) -> None:
    bench.start(1, sh("kill -STOP $$; sleep 60"))
    pid = (await bench.get(TaskStarted, 1)).pid

    def stopped() -> bool:
        process = processes.read_process(pid)
        return process is not None and process.state == "T"

    await eventually(stopped)
    bench.keeper.kill(1, 60, "cancelled")
    assert (await bench.get(TaskExited, 1)).signal == signal.SIGTERM


async def test_a_success_before_the_kill_stays_a_success(bench: Bench, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    bench.start(1, sh('until [ -e "$1" ]; do sleep 0.01; done', gate))
    pid = (await bench.get(TaskStarted, 1)).pid
    os.kill(bench.keeper.pid, signal.SIGSTOP)  # it learns of the end and of the kill together

    def ended() -> bool:
        process = processes.read_process(pid)
        return process is not None and process.state == "Z"

    gate.touch()
    await eventually(ended)
    bench.keeper.kill(1, 0, "too late")
    os.kill(bench.keeper.pid, signal.SIGCONT)
    exited = await bench.get(TaskExited, 1)
    assert (exited.exit_code, exited.reason) == (0, "")


async def test_a_second_kill_shortens_the_grace_and_keeps_the_reason(bench: Bench) -> None:
    bench.start(1, sh('trap "" TERM; echo; while :; do sleep 60; done'))
    await bench.get(TaskStarted, 1)
    bench.keeper.kill(1, 3600, "first")
    bench.keeper.kill(1, 0, "second")
    assert (await bench.get(TaskExited, 1)).reason == "first"


async def test_a_kill_of_an_unknown_token_is_nothing(bench: Bench) -> None:
    bench.keeper.kill(99, 0, "cancelled")
    bench.start(1, ["true"])
    assert (await bench.get(TaskExited, 1)).exit_code == 0


async def test_a_timeout_ends_the_task_with_its_tree(bench: Bench, tmp_path: Path) -> None:
    witness = Witness(tmp_path / "pid")
    script = f'trap "" TERM; {ESCAPE}; while :; do sleep 60; done'
    bench.start(1, sh(script, witness.path), timeout=0.5, grace=0.2)
    await eventually(witness.seen)
    exited = await bench.get(TaskExited, 1)
    assert exited.reason == "execution_timeout 0.5 s reached"
    assert exited.signal == signal.SIGKILL
    assert exited.duration >= 0.7
    assert witness.dead()


async def test_a_fork_storm_is_ended(bench: Bench, tmp_path: Path) -> None:
    # 200 processes in sessions of their own; ten of them go on replacing themselves.
    storm = tmp_path / "storm.py"
    storm.write_text(
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "for number in range(200):\n"
        "    if os.fork() == 0:\n"
        "        os.setsid()\n"
        "        end = time.monotonic() + 60\n"
        "        while time.monotonic() < end:\n"
        "            if number % 20 == 0 and os.fork():\n"
        "                os._exit(0)\n"
        "            time.sleep(0.002)\n"
        "        os._exit(0)\n"
        "print('raging', flush=True)\n"
        "time.sleep(60)\n"
    )
    output = tmp_path / "out"
    bench.start(1, [sys.executable, "-I", "-S", str(storm)], output=output)
    await eventually(lambda: output.exists() and output.read_text() == "raging\n")
    bench.keeper.kill(1, 0, "cancelled")
    await bench.get(TaskExited, 1)
    assert bench.left() == set()


# -- the lease ---------------------------------------------------------------------------------


async def test_a_lapse_kills_and_refuses_starts_until_the_next_session(
    bench: Bench, tmp_path: Path
) -> None:
    witness = Witness(tmp_path / "pid")
    bench.start(1, sh(f'trap "" TERM; {ESCAPE}; while :; do sleep 60; done', witness.path))
    await eventually(witness.seen)
    bench.keeper.set_deadline(boottime() + 0.2)
    assert await bench.get(Lapsed) == Lapsed(1, (1,))
    assert await bench.get(ProvenDead) == ProvenDead(1)
    assert witness.dead()
    bench.keeper.set_deadline(boottime() + 60)
    bench.start(2, ["true"])
    refused = await bench.get(StartFailed, 2)
    assert refused.reason == "the lease lapsed: nothing starts in session 1 any more"
    bench.keeper.begin_session(2)
    bench.start(3, ["sleep", "60"])
    await bench.get(TaskStarted, 3)
    found = processes.marked(bench.state_id, below_session=3)
    assert [m.session for m in found if not m.keeper] == [2]
    assert not bench.of(TaskExited, 1)


async def test_a_lapse_with_nothing_running_is_proven_at_once(bench: Bench) -> None:
    bench.keeper.set_deadline(0.0)
    assert await bench.get(ProvenDead) == ProvenDead(1)
    assert bench.of(Lapsed) == [Lapsed(1, ())]


async def test_a_later_deadline_in_time_prevents_the_lapse(bench: Bench) -> None:
    bench.start(1, ["sleep", "1"])
    bench.keeper.set_deadline(boottime() + 0.5)
    bench.keeper.set_deadline(boottime() + 60)
    assert (await bench.get(TaskExited, 1)).exit_code == 0
    assert not bench.of(Lapsed)


async def test_a_keeper_that_was_stopped_reads_the_newer_deadline_before_it_acts_on_the_old_one(
    bench: Bench, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    bench.start(1, sh('until [ -e "$1" ]; do sleep 0.01; done', gate))
    bench.start(2, sh('until [ -e "$1" ]; do sleep 0.01; done; sleep 0.5', gate))
    await bench.get(TaskStarted, 1)
    await bench.get(TaskStarted, 2)
    old = boottime() + 1.0
    bench.keeper.set_deadline(old)
    await asyncio.sleep(0.2)  # read, and waited for
    os.kill(bench.keeper.pid, signal.SIGSTOP)
    await eventually(lambda: state_of(bench.keeper.pid) == "T")
    bench.keeper.set_deadline(boottime() + 60.0)
    gate.touch()  # the end of the first task interrupts the keeper's poll
    await eventually(lambda: boottime() > old + 0.1)
    os.kill(bench.keeper.pid, signal.SIGCONT)
    assert (await bench.get(TaskExited, 1)).exit_code == 0
    assert (await bench.get(TaskExited, 2)).exit_code == 0
    assert not bench.of(Lapsed)


async def test_a_task_to_keep_survives_the_lapse_and_is_reported(
    bench: Bench, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    bench.start(1, sh('until [ -e "$1" ]; do sleep 0.01; done; exit 5', gate), keep=True)
    bench.start(2, ["sleep", "60"])
    await bench.get(TaskStarted, 2)
    bench.keeper.set_deadline(0.0)
    assert await bench.get(Lapsed) == Lapsed(1, (2,))
    await bench.get(ProvenDead)
    bench.keeper.begin_session(2)
    assert not bench.of(TaskExited, 1)
    gate.touch()
    assert (await bench.get(TaskExited, 1)).exit_code == 5


# -- losing one another ------------------------------------------------------------------------


@pytest.fixture
def lone_agent() -> Iterator[Callable[..., Awaitable[tuple[subprocess.Popen[str], str]]]]:
    agents = []

    async def start(
        tasks: list[list[str]], keep: Sequence[int] = (), lease: float | None = None
    ) -> tuple[subprocess.Popen[str], str]:
        state_id = uuid.uuid4().hex
        wanted = {"state_id": state_id, "tasks": tasks, "keep": list(keep), "lease": lease}
        agent = subprocess.Popen(
            [sys.executable, str(LONE_AGENT), json.dumps(wanted)],
            stdout=subprocess.PIPE,
            text=True,
        )
        agents.append((agent, state_id))
        return agent, state_id

    yield start
    for agent, state_id in agents:
        agent.kill()
        agent.communicate()
        until(lambda mine=state_id: not processes.marked(mine))  # type: ignore[misc]


async def test_an_agent_that_is_killed_takes_all_its_tasks_with_it(
    lone_agent: Callable[..., Any], tmp_path: Path
) -> None:
    witnesses = [Witness(tmp_path / name) for name in ("detached", "vanished", "kept")]
    agent, state_id = await lone_agent(
        [
            sh(f"{ESCAPE}; sleep 60", witnesses[0].path),
            sh(f"{VANISH}; sleep 60", witnesses[1].path),
            sh('echo $$ > "$1"; sleep 60', witnesses[2].path),
        ],
        keep=[2],
    )
    await eventually(lambda: all(witness.seen() for witness in witnesses))
    agent.kill()
    killed = time.monotonic()
    await eventually(lambda: all(witness.dead() for witness in witnesses))
    await eventually(lambda: not processes.marked(state_id))
    assert time.monotonic() - killed < 1.0


async def test_a_keeper_sees_its_agents_death_though_a_fork_holds_the_channel(
    tmp_path: Path,
) -> None:
    # A child that the agent forks without exec (multiprocessing does) inherits its end.
    state_id = uuid.uuid4().hex
    gate = tmp_path / "gate"
    script = (
        f"import os, sys, time; sys.path.insert(0, {str(LONE_AGENT.parents[2])!r})\n"
        "import agent.keeper_client as client\n"
        f"process, end = client._spawn({state_id!r}, 1)\n"
        "end.recv(100)\n"  # it is ready
        "if os.fork():\n"
        "    os.kill(os.getpid(), 9)\n"
        f"while not os.path.exists({str(gate)!r}): time.sleep(0.01)\n"
    )
    try:
        await asyncio.to_thread(subprocess.run, [sys.executable, "-c", script], check=False)
        await eventually(lambda: not processes.marked(state_id))
    finally:
        gate.touch()


async def test_a_stopped_agents_tasks_end_at_the_deadline(
    lone_agent: Callable[..., Any], tmp_path: Path
) -> None:
    mortal, kept = Witness(tmp_path / "mortal"), Witness(tmp_path / "kept")
    agent, _ = await lone_agent(
        [
            sh(f"{ESCAPE}; sleep 60", mortal.path),
            sh('echo $$ > "$1"; sleep 60', kept.path),
        ],
        keep=[1],
        lease=1.5,
    )
    await eventually(lambda: mortal.seen() and kept.seen())
    agent.send_signal(signal.SIGSTOP)
    await eventually(mortal.dead)
    assert not kept.dead()
    agent.kill()
    await eventually(kept.dead)


async def test_signals_meant_for_the_agent_do_not_end_the_keeper(bench: Bench) -> None:
    bench.start(1, ["sleep", "60"])
    await bench.get(TaskStarted, 1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        os.kill(bench.keeper.pid, number)
    bench.start(2, ["true"])
    await bench.get(TaskExited, 2)
    assert not bench.of(TaskExited, 1)
    assert os.getsid(bench.keeper.pid) == bench.keeper.pid


async def test_a_lost_keeper_is_noticed_and_what_it_left_is_proven_dead(tmp_path: Path) -> None:
    bench = Bench(uuid.uuid4().hex)
    await bench.launch()
    bench.start(1, sh(ESCAPE + "; sleep 60", tmp_path / "pid"))
    witness = Witness(tmp_path / "pid")
    await eventually(witness.seen)
    os.kill(bench.keeper.pid, signal.SIGKILL)
    await asyncio.wait_for(bench.keeper.lost, 20)
    bench.start(2, ["true"])
    proof = await asyncio.to_thread(prove_dead, bench.state_id, 2, 10.0)
    assert proof.dead
    assert witness.dead()
    await bench.keeper.stop()


async def test_stop_kills_what_runs_and_is_safe_twice(tmp_path: Path) -> None:
    bench = Bench(uuid.uuid4().hex)
    await bench.launch()
    witness = Witness(tmp_path / "pid")
    bench.start(1, sh(f'trap "" TERM; {VANISH}; while :; do sleep 60; done', witness.path))
    await eventually(witness.seen)
    await bench.keeper.stop()
    await bench.keeper.stop()
    assert witness.dead()
    assert not processes.marked(bench.state_id)
    assert not bench.keeper.lost.done()
    assert (await bench.get(TaskExited, 1)).reason == "the agent stopped"


async def test_an_exception_in_one_event_does_not_lose_the_next() -> None:
    bench = Bench(uuid.uuid4().hex)
    problems: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))

    def on_event(event: KeeperEvent) -> None:
        bench.events.append(event)
        if not bench.of(TaskExited):
            raise LookupError("in the agent")

    bench.keeper = await Keeper.launch(state_id=bench.state_id, session=1, on_event=on_event)
    bench.start(1, ["true"])
    await bench.get(TaskExited, 1)
    await bench.keeper.stop()
    assert [type(problem["exception"]) for problem in problems] == [LookupError]


async def test_a_flood_of_starts_does_not_stall_the_event_loop(bench: Bench) -> None:
    os.kill(bench.keeper.pid, signal.SIGSTOP)  # it reads nothing: the socket fills up
    begun = time.monotonic()
    for token in range(100):
        bench.start(token, ["true"], env={"PATH": os.defpath, "FILLER": "x" * 100_000})
    assert time.monotonic() - begun < 5
    os.kill(bench.keeper.pid, signal.SIGCONT)
    await eventually(lambda: len(bench.of(TaskExited)) == 100)
