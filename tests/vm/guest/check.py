"""Runs as root in the machine, with the system's Python: uses flow as people do, and prints what
it saw, a line for each fact: ``ok``, ``FAILED`` or ``--``, and what it is. The verdict comes last.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

UNIT = Path("/sys/fs/cgroup/system.slice/flow-vm.service")
SETTINGS = ["FLOW_HOME=/var/lib/flow", "FLOW_DAGS_FOLDER=/srv/check/dags"]
#: Seconds, after which something hangs. Emulated, flow takes 10 s to start on an idle machine.
PATIENCE = 300.0
#: Seconds between looks that start a process: emulated, those alone could keep a CPU busy.
COSTLY = 5.0
SHELLS = {b"sh", b"bash", b"sleep"}
failures: list[str] = []


def say(text: str) -> None:
    print(text, flush=True)


def fact(text: str, *, holds: bool) -> None:
    """Print it; what does not hold fails the check, and the rest is looked at all the same."""
    say(f"{'ok' if holds else 'FAILED':6}  {text}")
    if not holds:
        failures.append(text)


def main() -> int:
    kernel = os.uname().release
    version = subprocess.run(["systemctl", "--version"], text=True, capture_output=True, check=True)
    say(f"--      Linux {kernel}, {version.stdout.split(' (')[0]}")
    subprocess.run(["systemctl", "start", "flow-vm.service"], check=True)
    until("a line about cgroups in the journal", lambda: "cgroup per task" in journal(), COSTLY)
    told = next(line for line in journal().splitlines() if "cgroup per task" in line)
    fact(f"the agent says: {told}", holds="can be held to memory, cpus, pids" in told)
    limits()
    left_behind()
    say(f"check: {'FAILED' if failures else 'passed'}")
    return 1 if failures else 0


def limits() -> None:
    run = flow("dags", "trigger", "limits").strip()
    bomb = until("the cgroup of the fork bomb", lambda: held_to("pids.max", "30"))
    counts = [int((bomb / "pids.current").read_text()) for _ in every(0.2, 5)]
    refused = int((bomb / "pids.events").read_text().split()[1])
    fact(f"a fork bomb with pids=30: at most {max(counts)} processes, {refused} forks refused",
         holds=max(counts) == 30 and refused > 0)  # fmt: skip
    ended = until("the end of all tasks", lambda: states(run), COSTLY)
    for name, state, reason in (
        ("over_memory", "failed", "out of memory (limit 64M)"),
        ("child_over_memory", "failed", "out of memory (limit 64M)"),
        ("within_memory", "success", ""),
        ("half_a_cpu", "success", ""),
        ("fork_bomb", "failed", "execution_timeout 12 s reached"),
        ("escape", "success", ""),
    ):
        told = ended[name]["reason"]
        fact(f"task {name}: {ended[name]['state']} {told}",
             holds=(ended[name]["state"], told) == (state, reason))  # fmt: skip
    fact("the fork bomb is gone with its cgroup", holds=not bomb.exists())
    fact("what left its process tree, session and environment is dead", holds=not tasks_alive())
    used(run)


def used(run: str) -> None:
    shown = flow("tasks", "show", run, "over_memory")
    for line in shown.splitlines():
        say(f"--      {line}")
    fact("`flow tasks show` has the reason", holds="out of memory (limit 64M)" in shown)
    peak = measured(run, "within_memory")["memory_peak"]
    fact(f"100 MiB used, at most 200 allowed: {peak >> 20} MiB recorded",
         holds=100 << 20 <= peak <= 200 << 20)  # fmt: skip
    peak = measured(run, "over_memory")["memory_peak"]
    fact(f"300 MiB wanted, at most 64 allowed: {peak >> 20} MiB recorded", holds=peak <= 64 << 20)
    cpu = measured(run, "half_a_cpu")["cpu_seconds"]
    output = flow("tasks", "logs", run, "half_a_cpu").strip()
    took = float(output.split()[-2])
    fact(f"half a CPU: {output}, {cpu:.1f} s recorded", holds=took >= 3.5 and 2 <= cpu < 3.5)


def left_behind() -> None:
    """kill -9 of the agent: its keeper ends the tasks, and everything begins again."""
    run = flow("dags", "trigger", "left").strip()
    task = until("the task to run", lambda: held_to("memory.max", str(100 << 20)))
    until("what it leaves behind", lambda: len(tasks_alive()) >= 4)
    limits = [(task / name).read_text().strip() for name in ("memory.max", "cpu.max", "pids.max")]
    fact(f"one task held to memory, cpus and pids: {limits}",
         holds=limits[1:] == ["100000 100000", "100"])  # fmt: skip
    show = ["systemctl", "show", "--value", "--property=MainPID", "flow-vm"]
    agent = int(subprocess.run(show, text=True, capture_output=True, check=True).stdout)
    before = tasks_alive()
    began = time.monotonic()
    os.kill(agent, signal.SIGKILL)
    until("their death", lambda: not before & tasks_alive(), 0.05)
    fact(f"kill -9 of the agent: its tasks were dead {time.monotonic() - began:.2f} s later",
         holds=not before & tasks_alive())  # fmt: skip
    again = until("the task to run again", lambda: held_to("memory.max", str(100 << 20)))
    fact(f"the next one runs it again, in {again.name}", holds=again.name != task.name)
    subprocess.run(["systemctl", "stop", "flow-vm.service"], check=True)
    fact("nothing is left when the unit has stopped", holds=not tasks_alive() and run != "")


# -- looking ---------------------------------------------------------------------------------


def flow(*arguments: str) -> str:
    command = ["runuser", "-u", "flow", "--", "env", *SETTINGS, "/opt/flow/bin/flow", *arguments]
    done = subprocess.run(command, text=True, capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(f"flow {' '.join(arguments)}: {done.stderr}")
    return done.stdout


def states(run: str) -> dict[str, Any] | None:
    """Its tasks by name, once all have ended."""
    tasks = json.loads(flow("tasks", "list", run, "--output", "json"))
    ended = all(task["state"] in {"success", "failed"} for task in tasks)
    return {task["task_id"]: task for task in tasks} if ended else None


def measured(run: str, task: str) -> dict[str, Any]:
    shown: dict[str, Any] = json.loads(flow("tasks", "show", run, task, "--output", "json"))
    last: dict[str, Any] = shown["tries"][-1]
    return last


def journal() -> str:
    command = ["journalctl", "--boot", "--unit=flow-vm", "--output=cat", "--no-pager"]
    return subprocess.run(command, text=True, capture_output=True, check=True).stdout


def held_to(file: str, value: str) -> Path | None:
    """The cgroup of a task whose *file* says *value*."""
    for cgroup in UNIT.glob("task-*"):
        with contextlib.suppress(OSError):
            if (cgroup / file).read_text().strip() == value:
                return cgroup
    return None


def tasks_alive() -> set[str]:
    """The pids of what tasks run, by what it is called: also what has left their cgroups."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if folder.owner() == "flow" and words[0].rpartition(b"/")[2] in SHELLS:
                found.add(folder.name)
    return found


def until(what: str, look: Callable[[], Any], every_seconds: float = 0.1) -> Any:
    for _ in every(every_seconds, PATIENCE):
        if seen := look():
            return seen
    status = ["systemctl", "status", "--no-pager", "--lines=50", "flow-vm"]
    say(subprocess.run(status, text=True, capture_output=True, check=False).stdout)
    raise SystemExit(f"check: FAILED: {what} did not come within {PATIENCE:g} s")


def every(seconds: float, for_seconds: float) -> Iterator[None]:
    end = time.monotonic() + for_seconds
    while time.monotonic() < end:
        yield
        time.sleep(seconds)


if __name__ == "__main__":
    sys.exit(main())
