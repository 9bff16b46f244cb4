"""What processes cost, read from /proc: CPU time by role, and memory.

A contender names the roots of its process trees by role. Tasks are too short-lived to be seen:
their CPU time is found where the kernel adds it up, in the reaped children of the processes that
started them.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_TICK_MS = 1000 / os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Process:
    """One line of /proc. CPU times in milliseconds."""

    pid: int
    parent: int
    own_ms: float
    reaped_ms: float
    """Of children that have ended and were waited for, and theirs."""


def read(pid: int) -> Process | None:
    """The process *pid*; None if it is gone."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name, in parentheses, may hold anything, spaces and parentheses included (proc(5)).
    fields = text.rpartition(")")[2].split()
    user, system, reaped_user, reaped_system = map(int, fields[11:15])
    return Process(
        pid=pid,
        parent=int(fields[1]),
        own_ms=_exact_ms(pid, (user + system) * _TICK_MS),
        reaped_ms=(reaped_user + reaped_system) * _TICK_MS,
    )


def _exact_ms(pid: int, ticks_ms: float) -> float:
    """CPU time of *pid* and all its threads in nanoseconds' resolution, where /proc has ticks of
    10 ms; *ticks_ms* if it has ended."""
    try:
        # What clock_getcpuclockid(3) makes of a process id: inverted, three bits for the kind, of
        # which 2 is CPUCLOCK_SCHED.
        return time.clock_gettime((~pid << 3) | 2) * 1000
    except OSError:
        return ticks_ms


def everything() -> dict[int, Process]:
    """All processes of the machine."""
    found = (read(int(entry.name)) for entry in _PROC.iterdir() if entry.name.isdecimal())
    return {process.pid: process for process in found if process is not None}


def by_role(
    roots: Mapping[str, Sequence[int]], processes: Mapping[int, Process]
) -> dict[str, list[Process]]:
    """The trees under *roots*: each process under the role of its nearest root."""
    role_of = {pid: role for role, pids in roots.items() for pid in pids}
    children: dict[int, list[int]] = defaultdict(list)
    for process in processes.values():
        children[process.parent].append(process.pid)
    found: dict[str, list[Process]] = {role: [] for role in roots}
    waiting = [(pid, role) for pid, role in role_of.items() if pid in processes]
    while waiting:
        pid, role = waiting.pop()
        found[role].append(processes[pid])
        waiting += [(child, role) for child in children[pid] if child not in role_of]
    return found


def cpu_ms(
    roots: Mapping[str, Sequence[int]], task_parents: Collection[str] = ()
) -> dict[str, float]:
    """CPU time so far by role, in milliseconds, with the role ``task`` for what processes of
    *task_parents* have reaped. Only differences of two readings mean anything, and only while no
    root is replaced."""
    spent: dict[str, float] = dict.fromkeys((*roots, *(["task"] if task_parents else [])), 0.0)
    for role, found in by_role(roots, everything()).items():
        for process in found:
            spent[role] += process.own_ms
            spent["task" if role in task_parents else role] += process.reaped_ms
    return spent


def descendants(pids: Iterable[int]) -> list[int]:
    """*pids* and all processes under them."""
    return [process.pid for process in by_role({"": list(pids)}, everything())[""]]


def memory_mb(roots: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """Proportional set size by role, in MB (10^6 bytes): a page that several processes share is
    shared among them, so the sum counts it once."""
    return {
        role: sum(_pss_kb(process.pid) for process in found) * 1024 / 1e6
        for role, found in by_role(roots, everything()).items()
    }


def _pss_kb(pid: int) -> int:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for line in (_PROC / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0  # ended meanwhile, or a zombie


def machine_ms() -> float:
    """CPU time that the whole machine has spent so far, in milliseconds, all cores together; what a
    hypervisor has taken away included."""
    fields = (_PROC / "stat").read_text().split("\n", 1)[0].split()[1:9]
    _, _, _, idle, waiting, *_ = times = [int(field) for field in fields]
    return (sum(times) - idle - waiting) * _TICK_MS


def harness_ms() -> float:
    """CPU time of this process and of its children that have ended."""
    times = os.times()
    return 1000 * (times.user + times.system + times.children_user + times.children_system)
