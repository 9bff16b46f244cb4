"""flow in a cgroup that is delegated to it, as a unit has one; without the limits, see tests.vm."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.keeper.cgroups import Cgroup
from tests.acceptance.home import Home
from tests.acceptance.system import BIN, Daemon
from tests.cgroup_world import delegated
from tests.integration.test_keeper import VANISH, Witness
from tests.waiting import until


@pytest.fixture
def top() -> Iterator[Path]:
    with delegated() as folder:
        yield folder


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path)
    yield home
    home.close()


def start_in(cgroup: Path, home: Home, *arguments: str) -> Daemon:
    """``flow standalone ARGUMENTS``, in *cgroup* from the first moment."""
    output = home.root / f"standalone.{len(home.daemons)}.log"
    script = 'echo 0 > "$0/cgroup.procs"; exec "$@"'
    command = ["/bin/sh", "-c", script, str(cgroup), str(BIN / "flow"), "standalone", *arguments]
    with output.open("wb") as file:
        process = subprocess.Popen(
            command, env=home.environment(), cwd=home.root, stdin=subprocess.DEVNULL,
            stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    daemon = Daemon(process, output)
    home.daemons.append(daemon)
    return daemon


def test_what_a_try_has_used_is_measured_and_shown(home: Home, top: Path) -> None:
    burn = "i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done"
    home.write_dag(
        "burns", f"with DAG('burns'):\n    BashOperator(task_id='t', bash_command={burn!r})\n"
    )
    daemon = start_in(top, home, "--run", "burns")
    assert daemon.process.wait(60) == 0, daemon.output.read_text()
    (run,) = home.listing("runs", "list")
    shown = json.loads(home.flow("tasks", "show", run["run_id"], "t", "--output", "json"))
    assert shown["tries"][0]["cpu_seconds"] > 0.01
    assert [path.name for path in top.iterdir() if path.is_dir()] == ["agent"]


def test_what_an_agent_and_its_keeper_left_behind_is_dead_before_the_next_session(
    home: Home, top: Path
) -> None:
    lost = Witness(home.root / "lost")
    left = f"set -- {lost.path}; {VANISH}; sleep 600"
    home.write_dag(
        "left", f"with DAG('left'):\n    BashOperator(task_id='t', bash_command={left!r})\n"
    )
    first = start_in(top, home, "--run", "left")
    until(lost.seen)
    # The keeper must not do its work: it would end everything, and this is about what it cannot.
    both = Cgroup(str(top / "agent")).pids()
    keepers = both - {first.process.pid}
    for pid in keepers:
        os.kill(pid, signal.SIGSTOP)
    first.kill()
    for pid in keepers:
        os.kill(pid, signal.SIGKILL)
    assert not lost.dead()
    second = start_in(top / "agent", home)
    until(lambda: second.says("session 2 of agent local-default begins"))
    assert lost.dead()
    assert second.says(f"a cgroup per task in {top}, but none can be held to memory, cpus, pids: ")
    assert second.stop() == 0, second.output.read_text()
