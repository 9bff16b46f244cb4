"""Tasks from zygotes, on the real keeper: no different from fresh ones, and as surely dead."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from agent import processes
from agent.cgroups import prove_empty
from agent.keeper.cgroups import name_of
from agent.keeper_client import (
    Keeper,
    Lapsed,
    ProvenDead,
    StartFailed,
    TaskExited,
    TaskStarted,
    Unfit,
)
from agent.processes import prove_dead
from tests.cgroup_world import delegated
from tests.integration.test_keeper import Witness, boottime
from tests.integration.zygote_bench import ZygoteBench
from tests.waiting import eventually, until

#: What a process can see of itself. What must differ between any two tasks is left out.
PROBE = """
import atexit, gc, json, logging, os, resource, signal, sys, threading, time
opened = sorted(os.listdir("/proc/self/fd"))
environ = dict(os.environ)
for name in ("FLOW_TOKEN", "FLOW_TASK_INSTANCE_ID", "FLOW_TASK_SOCKET"):
    assert str(int(os.environ["FLOW_TOKEN"])) in environ.pop(name)
    assert os.environ[name] == os.popen(f"echo ${name}").read().strip()
stat = open("/proc/self/stat").read().rpartition(")")[2].split()
shown = dict(x.split("=", 1) for x in open("/proc/self/environ").read().split(chr(0)) if x)
atexit.register(print, "at exit")
threading.Timer(0.05, print, ["a thread"]).start()
global unclosed
unclosed = open("unclosed", "w"); unclosed.write("written")
os.symlink(os.path.abspath("unclosed"), os.environ["LINK"] + os.environ["FLOW_TOKEN"])
def handled(number):
    handler = signal.getsignal(number)
    return handler if handler is None or isinstance(handler, int) else handler.__name__
print("out"); print("err", file=sys.stderr)
token = os.environ["FLOW_TOKEN"]
links = [os.readlink(f"/proc/self/fd/{fd}") for fd in (0, 1, 2)]
where = "FLOW_AGENT_MARK"
return {
    "environ": environ, "argv": sys.argv, "path": sys.path, "opened": opened,
    "main": sys.modules["__main__"].__file__, "name": __name__, "top": TOP,
    "links": [link.partition(f"{token}.out")[0] for link in links],
    "private": os.listdir(".") == ["unclosed"] and os.path.basename(os.getcwd()) == token,
    "group": os.getpgrp() == os.getpid(), "session": os.getsid(0) == os.getpid(),
    "parent": open(f"/proc/{os.getppid()}/comm").read(),
    "umask": os.popen("umask").read(), "nice": os.nice(0),
    "limits": resource.getrlimit(resource.RLIMIT_NOFILE),
    "signals": [str(handled(number)) for number in range(1, 32)],
    "mask": len(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
    "threads": threading.active_count(),
    "main thread": threading.main_thread().native_id == os.getpid(),
    "logging": [logging.getLogger().level, len(logging.getLogger().handlers)],
    "stdin": sys.stdin.read(), "encoding": (sys.stdout.encoding, sys.stdout.write_through),
    "flags": str(sys.flags), "gc": gc.isenabled(), "cpu": time.process_time() < 5,
    "shown": int(shown["FLOW_TOKEN"]) == int(token) and shown[where] == os.environ[where],
}
"""
TOP = """
import os
print("read")
TOP = os.environ["SETTING"]
os.environ["ADDED"] = "by the file"
"""


async def launched(root: Path, bench: ZygoteBench) -> AsyncIterator[ZygoteBench]:
    bench.root = root
    await bench.launch()
    yield bench
    await bench.keeper.stop()
    assert not processes.marked(bench.state_id)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[ZygoteBench]:
    async for made in launched(tmp_path, ZygoteBench(uuid.uuid4().hex)):
        yield made


async def test_a_task_from_a_zygote_sees_what_a_fresh_one_sees(
    bench: ZygoteBench, tmp_path: Path
) -> None:
    bench.write(PROBE, TOP)
    env = {"SETTING": "grüße", "LINK": str(tmp_path / "link-")}
    fresh = await bench.run(env=env, warm=None)
    await bench.heat(env=env)
    warm = await bench.run(env=env)
    assert bench.result(warm) == bench.result(fresh)
    for token in (fresh, warm):
        assert bench.output(token).read_text() == "read\nout\nerr\na thread\nat exit\n"
        assert (tmp_path / f"link-{token}").read_text() == "written"
        (exited,) = bench.of(TaskExited, token)
        assert (exited.exit_code, exited.signal) == (0, None)
    assert not bench.of(Unfit)
    assert len(bench.zygotes()) == 1


async def test_forks_have_random_numbers_of_their_own(bench: ZygoteBench) -> None:
    bench.write("import uuid; return [random.random(), str(uuid.uuid4())]", "import random")
    await bench.heat()
    one, two = bench.result(await bench.run()), bench.result(await bench.run())
    assert one[0] != two[0]
    assert one[1] != two[1]


async def test_exit_codes_and_signals_of_forks_are_seen(bench: ZygoteBench) -> None:
    bench.write("import os, sys; os._exit(7)")
    await bench.heat()
    (exited,) = bench.of(TaskExited, await bench.run())
    assert (exited.exit_code, exited.signal) == (7, None)
    bench.write("import os; os.kill(os.getpid(), 9)", "# another file")
    (exited,) = bench.of(TaskExited, await bench.run())
    assert exited.exit_code == 7, "a zygote has the file as it was when it was read: bundles differ"


async def test_a_file_that_meddles_with_the_zygotes_socket_only_loses_it(
    bench: ZygoteBench,
) -> None:
    bench.write("return 1", "import os; os.write(3, b'{')")
    for _ in range(4):
        token = await bench.run()
        assert bench.of(TaskExited, token)
    assert not bench.of(Unfit)


@pytest.mark.parametrize(
    ("top", "reason"),
    [
        (
            "import threading as t; t.Thread(target=t.Event().wait, daemon=True).start()",
            "it starts threads",
        ),
        ("import socket; kept = socket.socket()", "it leaves open: socket:["),
        ("import subprocess; subprocess.Popen(['/bin/sleep', '60'])", "it starts processes"),
        ("import os; os.system('setsid /bin/sleep 60 &')", "it starts processes"),
        (
            "import multiprocessing; lock = multiprocessing.Lock()",
            "it has memory that forks would share",
        ),
        ("import signal; signal.alarm(600)", "it sets a timer"),
        ("import os; os.chdir('/')", "it changes the working directory"),
        (
            "from pathlib import Path; where = Path('x').resolve()",
            "it looks at the working directory",
        ),
        ("open('written', 'w').close()", "it writes files into the working directory"),
        ("import random; random.seed(1)", "it uses or seeds random numbers"),
        ("import os; run = os.environ.get('FLOW_RUN_ID')", "it looks at the variable FLOW_RUN_ID"),
        ("import os; run = 'FLOW_RUN_ID' in os.environ", "it looks at the variable FLOW_RUN_ID"),
        ("import os; os.environ['FLOW_TOKEN'] = '3'", "it looks at the variable FLOW_TOKEN"),
        ("import os; every = dict(os.environ)", "it goes through all environment variables"),
        ("print('x' * 70000)", "it prints more than 65536 bytes"),
        ("raise ValueError('wrong')", "x.py:2: ValueError: wrong"),
    ],
)
async def test_a_file_of_which_forks_would_differ_gets_fresh_interpreters(
    bench: ZygoteBench, top: str, reason: str
) -> None:
    bench.write("return 1", top)
    await bench.run()
    await bench.run()
    unfit = await bench.get(Unfit)
    assert unfit.reason.startswith(reason)
    assert json.loads(unfit.about)["file"] == "x.py"
    await eventually(lambda: not bench.left())  # with what it has started
    for _ in range(3):
        token = await bench.run()
        assert len(bench.of(TaskExited, token)) == 1
    assert len(bench.of(Unfit)) == 1
    assert not bench.left()


async def test_tasks_of_other_files_folders_and_environments_have_other_zygotes(
    bench: ZygoteBench, tmp_path: Path
) -> None:
    bench.write("import os; return [os.getcwd(), NAME]", "import os; NAME = os.environ['NAME']")
    for name in ("one", "two"):
        await bench.heat(env={"NAME": name})
        assert bench.result(await bench.run(env={"NAME": name}))[1] == name
    here = str(tmp_path)
    await bench.heat(env={"NAME": "two"}, cwd=here)
    assert bench.result(await bench.run(env={"NAME": "two"}, cwd=here)) == [here, "two"]
    assert len(bench.zygotes()) == 3


async def test_a_cwd_that_is_gone_fails_the_start_as_of_a_fresh_one(
    bench: ZygoteBench, tmp_path: Path
) -> None:
    bench.write("return 1")
    folder = tmp_path / "folder"
    folder.mkdir()
    await bench.heat(cwd=str(folder))
    folder.rmdir()
    warm, fresh = bench.begin(cwd=str(folder)), bench.begin(cwd=str(folder), warm=None)
    reasons = {(await bench.get(StartFailed, token)).reason for token in (warm, fresh)}
    assert len(reasons) == 1
    assert "expected a directory that exists" in reasons.pop()


# -- ends --------------------------------------------------------------------------------------

ESCAPES = """
import os, signal, subprocess, sys, time
for number, clear in enumerate((False, True)):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            if clear:
                script = f'trap "" TERM; echo $$ > {WHERE}{number}; /bin/sleep 600'
                os.execve("/bin/sh", ["sh", "-c", script], {})
            with open(f"{WHERE}{number}", "w") as file:
                print(os.getpid(), file=file)
            time.sleep(600)
        os._exit(0)
    os.wait()
while not all(os.path.exists(f"{WHERE}{n}") and os.path.getsize(f"{WHERE}{n}") for n in (0, 1)):
    time.sleep(0.01)
print("ready")
time.sleep(600)
"""


async def escaped(bench: ZygoteBench) -> tuple[int, list[Witness]]:
    """A warm task with two children that have left its tree, one of them its environment, too."""
    where = bench.root / "pid"
    go = bench.root / "go"
    wait = f"import os\nif not os.path.exists({str(go)!r}): return 1\nWHERE = {str(where)!r}\n"
    bench.write(wait + ESCAPES)
    await bench.heat()
    go.touch()
    token = bench.begin()
    witnesses = [Witness(Path(f"{where}{number}")) for number in (0, 1)]
    await eventually(lambda: all(witness.seen() for witness in witnesses))
    assert bench.is_warm(token)
    return token, witnesses


async def test_a_kill_reaches_what_a_warm_task_has_detached(bench: ZygoteBench) -> None:
    token, witnesses = await escaped(bench)
    bench.keeper.kill(token, 0.2, "cancelled")
    exited = await bench.get(TaskExited, token)
    assert (exited.signal, exited.reason) == (signal.SIGTERM, "cancelled")
    assert all(witness.dead() for witness in witnesses)
    assert bench.zygotes(), "it was not the task's"


async def test_what_a_warm_task_has_detached_ends_with_it(bench: ZygoteBench) -> None:
    token, witnesses = await escaped(bench)
    os.kill(bench.pid(token), signal.SIGKILL)
    exited = await bench.get(TaskExited, token)
    assert exited.signal == signal.SIGKILL
    assert all(witness.dead() for witness in witnesses)


async def test_a_lapse_ends_zygotes_and_the_next_session_has_its_own(bench: ZygoteBench) -> None:
    token, witnesses = await escaped(bench)
    old = bench.zygotes() + bench.standbys()
    for process in old:
        os.kill(process.pid, signal.SIGSTOP)  # else they would end by themselves
    bench.keeper.set_deadline(boottime())
    await bench.get(ProvenDead)
    assert bench.of(Lapsed)[0].tokens == (token,)
    assert not bench.left()
    assert all(witness.dead() for witness in witnesses)
    assert not any(processes.read_process(one.pid) == one for one in old)
    bench.keeper.begin_session(2)
    (bench.root / "go").unlink()
    await bench.heat()
    found = [mark for mark in processes.marked(bench.state_id) if not mark.keeper]
    assert found
    assert {mark.session for mark in found} == {2}


async def test_a_keepers_death_leaves_nothing_that_is_not_found(bench: ZygoteBench) -> None:
    token, witnesses = await escaped(bench)
    pid = bench.pid(token)
    bench.keeper.destroy()
    await bench.keeper.lost
    # What cleared its environment is found through its ancestors; those are dead with the keeper.
    os.kill(int(witnesses[1].path.read_text()), signal.SIGKILL)
    proof = await asyncio.to_thread(prove_dead, bench.state_id, 2, 20.0)
    assert proof.dead, proof
    assert witnesses[0].dead()
    assert processes.read_process(pid) is None or not processes.marked(bench.state_id)


async def test_a_task_outlives_its_zygote_and_the_next_one_does_without(
    bench: ZygoteBench,
) -> None:
    token, witnesses = await escaped(bench)
    (zygote,), standbys = bench.zygotes(), bench.standbys()
    os.kill(zygote.pid, signal.SIGKILL)
    await eventually(lambda: not bench.zygotes() and not bench.standbys())
    assert not any(processes.read_process(one.pid) == one for one in (zygote, *standbys))
    assert not any(witness.dead() for witness in witnesses)
    assert not bench.of(TaskExited, token)
    (bench.root / "go").unlink()
    await bench.heat()
    again = await bench.run()
    assert len(bench.of(TaskStarted, again)) == len(bench.of(TaskExited, again)) == 1
    bench.keeper.kill(token, 0.0, "over")
    await bench.get(TaskExited, token)


async def test_a_standby_that_died_is_not_taken(bench: ZygoteBench) -> None:
    bench.write("return 1")
    await bench.heat()
    (standby,) = bench.standbys()
    os.kill(standby.pid, signal.SIGKILL)
    # One that is killed when it has its task already is a task that was killed.
    await eventually(lambda: standby.pid not in {one.pid for one in bench.standbys()})
    token = await bench.run()
    (exited,) = bench.of(TaskExited, token)
    assert (exited.exit_code, exited.signal) == (0, None)
    assert bench.result(token) == 1


async def test_tasks_do_not_wait_for_a_zygote_that_does_not_fork(bench: ZygoteBench) -> None:
    bench.write("return 1")
    await bench.heat()
    (zygote,) = bench.zygotes()
    os.kill(zygote.pid, signal.SIGSTOP)
    tokens = [bench.begin() for _ in range(3)]  # there is a standby for one
    for token in tokens:
        await bench.get(TaskExited, token)
        assert bench.result(token) == 1
    assert processes.read_process(zygote.pid) is None


async def test_what_waits_for_a_fork_can_be_killed_and_lapses(bench: ZygoteBench) -> None:
    bench.write(
        "import time; time.sleep(600 if open(GO).read() else 0)", f"GO = {str(bench.root / 'go')!r}"
    )
    (bench.root / "go").write_text("")
    await bench.heat()
    (bench.root / "go").write_text("now")
    (zygote,) = bench.zygotes()
    os.kill(zygote.pid, signal.SIGSTOP)
    runs, killed, lapsed, kept = (
        bench.begin(),
        bench.begin(),
        bench.begin(),
        bench.begin(keep=True),
    )
    await bench.get(TaskStarted, runs)
    bench.keeper.kill(killed, 0.0, "cancelled")
    assert (await bench.get(TaskExited, killed)).reason == "cancelled"
    bench.keeper.set_deadline(boottime())
    assert set((await bench.get(Lapsed)).tokens) == {runs, lapsed}
    assert "the lease lapsed" in (await bench.get(StartFailed, kept)).reason
    await bench.get(ProvenDead)
    assert not bench.left()
    assert not bench.of(TaskStarted, lapsed)


async def test_many_at_once_are_all_forked(bench: ZygoteBench) -> None:
    bench.write("return 1")
    await bench.heat()
    tokens = [bench.begin() for _ in range(20)]
    for token in tokens:
        exited = await bench.get(TaskExited, token)
        assert (exited.exit_code, bench.result(token)) == (0, 1)
    assert len(bench.zygotes()) == 1
    assert len({bench.pid(token) for token in tokens}) == len(tokens)
    await eventually(lambda: len(bench.standbys()) == 1)


# -- cgroups -----------------------------------------------------------------------------------


class HeldBench(ZygoteBench):
    """Its tasks get cgroups."""

    top: Path

    async def launch(self, session: int = 1) -> None:
        self.keeper = await Keeper.launch(
            state_id=self.state_id, session=session, on_event=self.events.append, cgroups=self.top
        )


@pytest.fixture
def top() -> Iterator[Path]:
    with delegated() as folder:
        yield folder


def cgroup_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cgroup").read_text()


def folders(top: Path) -> list[str]:
    return [folder.name for folder in top.iterdir() if folder.is_dir()]


@pytest.fixture
async def held(top: Path, tmp_path: Path) -> AsyncIterator[HeldBench]:
    bench = HeldBench(uuid.uuid4().hex)
    bench.top = top
    async for made in launched(tmp_path, bench):
        assert isinstance(made, HeldBench)
        yield made
    assert folders(top) == ["agent"]


async def test_a_warm_task_is_in_a_cgroup_of_its_own_with_all_that_it_starts(
    held: HeldBench,
) -> None:
    held.write(
        "import os; own = '/proc/self/cgroup'\n"
        "return [open(own).read(), os.popen(f'cat {own}').read()]"
    )
    await held.heat()
    token = await held.run()
    own = f"/{name_of(held.state_id, 1, token)}\n"
    assert all(own in text for text in held.result(token))
    (zygote,) = held.zygotes()
    assert own not in cgroup_of(zygote.pid)
    assert f"/task-{held.state_id}-1-" in cgroup_of(zygote.pid)


async def test_a_warm_task_that_cannot_be_held_to_its_limits_does_not_begin(
    held: HeldBench,
) -> None:
    held.write("print('begun')")
    await held.heat()
    token = await held.run(limits={"memory.most": "5"})
    (exited,) = held.of(TaskExited, token)
    assert exited.signal == signal.SIGKILL
    assert exited.reason.startswith("it cannot be held to its limits: memory.most=5")
    assert held.output(token).read_text() == ""


async def test_a_kill_reaches_what_has_left_a_warm_tasks_tree_by_its_cgroup(
    held: HeldBench,
) -> None:
    token, witnesses = await escaped(held)
    held.keeper.kill(token, 0.0, "cancelled")
    await held.get(TaskExited, token)
    assert all(witness.dead() for witness in witnesses)


async def test_nothing_of_a_dead_keepers_zygotes_is_left(held: HeldBench, top: Path) -> None:
    _, witnesses = await escaped(held)
    held.keeper.destroy()
    await held.keeper.lost
    assert (await asyncio.to_thread(prove_dead, held.state_id, 2, 20.0)).dead
    assert (await asyncio.to_thread(prove_empty, top, held.state_id, 2, 20.0)).dead
    assert all(witness.dead() for witness in witnesses)
    assert not held.left()


# -- an agent that dies ------------------------------------------------------------------------

LONE_AGENT = Path(__file__).with_name("lone_zygote_agent.py")


def test_zygotes_end_with_an_agent_that_is_killed(tmp_path: Path) -> None:
    state_id = uuid.uuid4().hex
    agent = subprocess.Popen(
        [sys.executable, LONE_AGENT, state_id, tmp_path],
        stdout=subprocess.PIPE,
        text=True,
    )
    with agent:
        try:
            assert agent.stdout is not None
            assert agent.stdout.readline() == "ready\n"
            # The keeper, the zygote, the task, and another standby.
            until(lambda: len(processes.marked(state_id)) >= 4)
        finally:
            agent.kill()
    until(lambda: not processes.marked(state_id), 10.0)
