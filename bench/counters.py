"""What a piece of work costs, counted from outside and alike for every contender.

CPU time from /proc, messages from RabbitMQ's own totals, write transactions and WAL bytes from
Postgres' counters, syncs from the kernel's tracepoints. All are exact at the moment they are read:
Postgres' statistics views are not, its sessions report up to ten seconds late.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from bench import processes
from bench.services import Services

#: Transaction ids are given to transactions that write, and to no others.
_COUNTS = """
SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint,
       (pg_current_wal_insert_lsn() - '0/0')::bigint
"""
_EVENTS = "syscalls:sys_enter_fdatasync,syscalls:sys_enter_fsync"
_COUNTED = re.compile(r"^(\d+),.*sys_enter_", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Reading:
    """All counters at one moment; only differences mean anything."""

    cpu_ms: Mapping[str, float]
    messages: Mapping[str, int]
    commits: int
    """Write transactions of the whole cluster: nothing else uses it."""
    wal_bytes: int
    machine_ms: float
    harness_ms: float
    at: float
    """By CLOCK_MONOTONIC."""


@dataclass(slots=True)
class Syncs:
    """Counts fsync and fdatasync of process trees with perf, while it is open."""

    roots: Mapping[str, Sequence[int]]
    _perfs: dict[str, subprocess.Popen[str]] = field(default_factory=dict)

    def begin(self) -> None:
        """Attach to all processes there are; their children are counted, too."""
        if not can_count_syncs():
            return
        for role, pids in self.roots.items():
            tree = ",".join(map(str, processes.descendants(pids)))
            command = ["perf", "stat", "-x", ",", "-e", _EVENTS, "-p", tree]
            self._perfs[role] = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    def end(self) -> dict[str, int]:
        """Syncs since :meth:`begin` by role; nothing where perf may not count them."""
        counts = {}
        for role, perf in self._perfs.items():
            perf.send_signal(signal.SIGINT)
            _, told = perf.communicate(timeout=20)
            found = _COUNTED.findall(told)
            assert found, f"perf: expected counts, got {told!r}"
            counts[role] = sum(map(int, found))
        self._perfs.clear()
        return counts


def can_count_syncs() -> bool:
    """Whether perf is there and may attach; else syncs are not counted, and the report says so."""
    if shutil.which("perf") is None:
        return False
    probe = ["perf", "stat", "-x", ",", "-e", _EVENTS, "true"]
    done = subprocess.run(probe, capture_output=True, text=True, check=False)
    return done.returncode == 0 and bool(_COUNTED.search(done.stderr))


class Counters:
    """Reads the counters of one turn."""

    def __init__(
        self,
        services: Services,
        roots: Mapping[str, Sequence[int]],
        task_parents: Collection[str],
    ) -> None:
        self._services = services
        self._roots = {**services.processes(), **roots}
        self._task_parents = task_parents
        self._syncs = Syncs({**services.processes(), "contender": _all(roots)})
        self._before: Reading | None = None

    def begin(self) -> None:
        """Before a piece of work, CPU time last."""
        self._syncs.begin()
        self._before = self._read()

    def end(self, tasks: int) -> dict[str, float]:
        """What has been spent since, CPU time first, shared among *tasks*: metrics of a sample."""
        at, cpu, before = time.monotonic(), self._cpu(), self._before
        machine, harness = processes.machine_ms(), processes.harness_ms()
        assert before is not None, "begin() comes first"
        after = replace(self._read(), cpu_ms=cpu, machine_ms=machine, harness_ms=harness, at=at)
        return per_task(before, after, self._syncs.end(), tasks)

    def _read(self) -> Reading:
        messages, counts = self._services.rabbitmq.totals(), self._services.execute(_COUNTS)
        return Reading(
            messages=messages,
            commits=counts[0][0],
            wal_bytes=counts[0][1],
            machine_ms=processes.machine_ms(),
            harness_ms=processes.harness_ms(),
            cpu_ms=self._cpu(),
            at=time.monotonic(),
        )

    def _cpu(self) -> dict[str, float]:
        return processes.cpu_ms(self._roots, self._task_parents)


def per_task(
    before: Reading, after: Reading, syncs: Mapping[str, int], tasks: int
) -> dict[str, float]:
    """What lies between two readings, shared among *tasks*."""
    cost = {
        f"{role}_cpu_ms": (spent - before.cpu_ms.get(role, 0.0)) / tasks
        for role, spent in after.cpu_ms.items()
    }
    cost["cpu_ms"] = sum(cost.values())
    cost["others_pct"] = _others(before, after, tasks * cost["cpu_ms"])
    for name in ("received", "delivered", "acknowledged"):
        count = after.messages.get(name, 0) - before.messages.get(name, 0)
        cost[f"messages_{name}"] = count / tasks
    cost["commits"] = (after.commits - before.commits) / tasks
    cost["wal_bytes"] = (after.wal_bytes - before.wal_bytes) / tasks
    return cost | {f"{role}_syncs": count / tasks for role, count in syncs.items()}


def _others(before: Reading, after: Reading, counted_ms: float) -> float:
    """How much of the machine was used by anything that is neither counted nor the harness, in
    percent: what makes times worth little."""
    spent = after.machine_ms - before.machine_ms
    own = counted_ms + after.harness_ms - before.harness_ms
    whole = 1000 * (after.at - before.at) * (os.cpu_count() or 1)
    return max(0.0, 100 * (spent - own) / whole)


def _all(roots: Mapping[str, Sequence[int]]) -> list[int]:
    return [pid for pids in roots.values() for pid in pids]
