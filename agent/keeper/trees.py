"""Which process belongs to which task, and how a task's whole tree is ended and proven dead.

This process is a subreaper, so a task's process whose parent died becomes a *child* of this one,
however it detached itself: an orphan. Hence the proof: once a task's main process has been reaped,
all that is left of its tree hangs below orphans, and the list of own children is exact
(:func:`agent.processes.own_children`). No orphan that may be the task's: the tree is dead.

An orphan belongs to the task whose session (setsid) it is still in, or whose FLOW_TOKEN was in its
environment. One that left the session *and* had its environment cleared might be any task's: it is
killed as soon as any task ends. That can hit a daemon that another, still running task wanted, and
is preferred to a task that runs again beside a leftover of its first try.

Where tasks have cgroups (``cgroups``), membership says whose an orphan is, a kill reaches all of a
task at once, and its cgroup has to be unpopulated too before it counts as dead.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from agent import processes
from agent.keeper.births import Births
from agent.keeper.cgroups import token_of
from agent.keeper.task import Task

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from agent.keeper.births import Command

#: Rounds in one sweep: enough to catch a process that forks and exits faster than we look.
_ROUNDS = 200
#: Looks at an orphan that is inside execve: some milliseconds, most need one microsecond.
_EXEC_LOOKS = 50
#: Seconds between looks at the cgroup of a task that ends, while what is left has its grace.
_GRACE_LOOK = 0.05
#: Seconds after which a process that resists SIGKILL is reported.
_UNKILLABLE_AFTER = 10.0


class Trees:
    """All tasks of this keeper. Times are CLOCK_BOOTTIME seconds, passed in as ``now``."""

    def __init__(self, state_id: str, wall: Callable[[], float], cgroups: str = "") -> None:
        """*cgroups*: the folder in which each task gets a cgroup; ``""``: none gets one."""
        self.tasks: dict[int, Task] = {}
        self._state_id = state_id
        self._wall = wall
        self._births = Births(state_id, cgroups)
        self._cgroups = cgroups
        self._mains: dict[int, Task] = {}  # by pid, until reaped
        self._sessions: dict[int, Task] = {}  # by session id, until finished
        self._adopted: dict[int, int] = {}  # an orphan's token once known, until reaped

    def start(
        self,
        token: int,
        command: Command,
        *,
        session: int,
        keep: bool,
        timeout: float | None,
        grace: float,
        now: float,
        limits: Mapping[str, str] | None = None,
    ) -> Task:
        """Start a task; ``limits`` are values by files of its cgroup. Raises SpawnError, and
        StandbyGone when the standby that is to be it is of no use any more."""
        cgroup, pid = self._births.bear(token, session, command)
        task = Task(token, pid, keep=keep, timeout=timeout, grace=grace, now=now, cgroup=cgroup)
        problem = cgroup.hold(limits or {}) if cgroup else ""
        if not problem:
            self._births.begin(token, session, command, cgroup)
        self._adopted.pop(pid, None)
        self.tasks[token] = self._mains[pid] = self._sessions[pid] = task
        if problem:
            self.kill_at_once([task], f"it cannot be held to its limits: {problem}", now)
            if command.standby is not None:
                command.standby.close()
        return task

    def leaves_orphans(self, task: Task) -> bool:
        """Whether something that *task* has started is a child of this process by now. Unless it
        is, or might be, a task that starts nothing from now on is ``alone``."""
        owners, settled = self._owners()
        task.alone = settled and None not in owners.values()
        return task.token in owners.values()

    def kill(self, task: Task, grace: float, reason: str, now: float) -> None:
        """TERM now, KILL after *grace*. Only the first reason counts, only an earlier KILL.

        A task whose main process has ended keeps the outcome it has.
        """
        if task.status is not None:
            return
        first = task.kill_at is None
        if first:
            task.reason = reason
        task.kill_at = now + grace if task.kill_at is None else min(task.kill_at, now + grace)
        if first and grace > 0:
            # A stopped process acts on TERM only when continued.
            self._signal((task,), (signal.SIGTERM, signal.SIGCONT))

    def kill_at_once(self, tasks: Collection[Task], reason: str, now: float) -> None:
        """KILL, without grace, whatever is left of *tasks*."""
        for task in tasks:
            if task.status is None and task.kill_at is None:
                task.reason = reason
            task.kill_at = now
            if task.doomed_at is None:
                task.doomed_at = now
        self._signal(tasks, (signal.SIGKILL,))

    def enforce_timeouts(self, now: float) -> None:
        for task in self.tasks.values():
            if (
                task.timeout is not None
                and task.kill_at is None
                and task.started + task.timeout <= now
            ):
                reason = f"execution_timeout {task.timeout:g} s reached"
                self.kill(task, task.grace, reason, now)

    def reap(self, now: float) -> None:
        """Take note of every child that has ended."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._adopted.pop(pid, None)
            task = self._mains.pop(pid, None)
            if task is not None:
                task.status = status
                task.ended_at = self._wall()
                task.duration = now - task.started
                task.cpu = usage.ru_utime + usage.ru_stime

    def sweep(self, now: float) -> list[Task]:
        """Kill what is doomed; return the tasks whose trees are now proven dead, and forget them.

        Wants to be called again after each SIGCHLD and at :meth:`next_event`.
        """
        finished: list[Task] = []
        killed: set[int] = set()
        for _ in range(_ROUNDS):
            self.reap(now)
            self._kill_doomed_mains(now)
            ending = [task for task in self.tasks.values() if task.status is not None]
            if not ending and self.tasks:
                break
            for task in ending:
                if task.cgroup is not None and task.doomed(now) and task.cgroup.populated:
                    task.cgroup.kill()
            owners, settled = self._owners()
            if settled:
                finished.extend(self._finish(ending, set(owners.values())))
            news = self._doomed(owners, now) - killed
            if settled and not news:
                break  # what is left has its SIGKILL; SIGCHLD will say when it is gone
            for pid in news:
                _kill_orphan(pid, group=owners[pid] is not None)
            killed |= news
        return finished

    def next_event(self, now: float) -> float | None:
        """When to look again if no child ends before, in boot time; None: not at all."""
        times = []
        for task in self.tasks.values():
            if task.doomed(now):
                # What is forked while we kill sends no SIGCHLD: look again soon, then less often.
                waited = 0.0 if task.doomed_at is None else now - task.doomed_at
                times.append(now + min(1.0, max(0.005, waited / 4)))
            elif task.kill_at is not None:
                times.append(task.kill_at)
                if task.status is not None and task.cgroup is not None:
                    # What is left has its grace, and is perhaps no child whose end we hear of.
                    times.append(now + _GRACE_LOOK)
            elif task.timeout is not None:
                times.append(task.started + task.timeout)
        return min(times, default=None)

    def unkillable(self, now: float) -> tuple[list[int], list[str]]:
        """Tokens that have newly resisted for too long, and what is left under this process."""
        tokens = []
        for task in self.tasks.values():
            if (
                task.doomed_at is not None
                and not task.reported
                and now - task.doomed_at >= _UNKILLABLE_AFTER
            ):
                task.reported = True
                tokens.append(task.token)
        if not tokens:
            return [], []
        healthy = [task.pid for task in self._mains.values() if task.doomed_at is None]
        found = processes.snapshot()
        left = processes.descendants(found, processes.own_children() - set(healthy))
        return tokens, [processes.describe(found[pid]) for pid in sorted(left) if pid in found]

    # -- parts ---------------------------------------------------------------------------------

    def _kill_doomed_mains(self, now: float) -> None:
        fresh = []
        for task in self.tasks.values():
            if task.doomed(now) and task.doomed_at is None:
                task.doomed_at = now
                if task.status is None:
                    fresh.append(task)
        if fresh:
            self._signal(fresh, (signal.SIGKILL,))

    def _signal(self, tasks: Collection[Task], numbers: Sequence[int]) -> None:
        """Send *numbers* to all processes of *tasks*, each once.

        What to signal is looked up first: the first death would move others in the tree. A process
        forked meanwhile may be missed: for SIGTERM that is accepted, after SIGKILL sweeps follow.
        """
        # A main process that is not reaped keeps its id, so the kernel cannot give it away.
        groups = {task.pid for task in tasks if task.status is None}
        tokens = {task.token for task in tasks}
        if not tokens:
            return
        found = processes.snapshot()
        orphans = [pid for pid, token in self._owners()[0].items() if token in tokens]
        cgroups = [task.cgroup for task in tasks if task.cgroup is not None]
        members = [cgroup.pids() for cgroup in cgroups]
        others = [
            found[pid]
            for pid in processes.descendants(found, [*groups, *orphans]).union(*members)
            if pid in found and found[pid].group not in groups
        ]
        for number in numbers:
            if number == signal.SIGKILL:
                for cgroup in cgroups:
                    cgroup.kill()
            for group in groups:
                _send(os.killpg, group, number)
            for process in others:
                processes.send_signal(process, number)

    def _owners(self) -> tuple[dict[int, int | None], bool]:
        """Each living orphan's token, None where it may be any task's; and whether that is all.

        It is not when an orphan has ended but is not reaped: what it leaves may be adopted only
        now, so nothing is proven in this round.
        """
        owners: dict[int, int | None] = {}
        settled = True
        for pid in processes.own_children() - self._mains.keys():
            if pid in self._adopted:
                owners[pid] = self._adopted[pid]
                continue
            process = processes.read_process(pid)
            if process is None or not processes.alive(process):
                settled = False
                continue
            owners[pid] = token = self._owner(process)
            if token is not None:
                self._adopted[pid] = token
        return owners, settled

    def _owner(self, orphan: processes.Process) -> int | None:
        if orphan.session in self._sessions:
            return self._sessions[orphan.session].token
        token = token_of(orphan.pid, self._state_id) if self._cgroups else None
        if token in self.tasks:
            return token
        variables = processes.environment(orphan)
        for _ in range(_EXEC_LOOKS):
            if variables is not None:
                break
            variables = processes.environment(orphan)
        variables = variables or {}
        named = variables.get(processes.TOKEN, "")
        own_mark = variables.get(processes.MARK, "").rpartition(":")[0] == self._state_id
        if own_mark and named.isdecimal() and int(named) in self.tasks:
            return int(named)
        return None

    def _doomed(self, owners: Mapping[int, int | None], now: float) -> set[int]:
        """The orphans to kill now."""
        doomed = {task.token for task in self.tasks.values() if task.doomed(now)}
        alone = {task.token for task in self.tasks.values() if task.alone}
        nobody = bool(doomed - alone) or not self.tasks
        return {
            pid
            for pid, token in owners.items()
            if token in doomed or (nobody and token not in self.tasks)
        }

    def _finish(self, ending: Iterable[Task], owners: set[int | None]) -> list[Task]:
        """Forget and return those of *ending* that no orphan may belong to."""
        finished = [
            task
            for task in ending
            if task.token not in owners and (task.alone or None not in owners) and _emptied(task)
        ]
        for task in finished:
            del self.tasks[task.token]
            if self._sessions.get(task.pid) is task:
                del self._sessions[task.pid]
        return finished


def _emptied(task: Task) -> bool:
    """Whether nothing is left in its cgroup, which is then measured and removed."""
    cgroup = task.cgroup
    if cgroup is None:
        return True
    if cgroup.populated:
        return False
    task.usage = cgroup.usage()
    cgroup.remove()
    return True


def _kill_orphan(pid: int, *, group: bool) -> None:
    """KILL an own child, and with *group* its process group: one cannot fork away from that.

    Both ids are safe: the child is not reaped, so neither its id nor its group's is free. A group
    lies within one session and sessions never span tasks, but a child that may be any task's is
    killed alone.
    """
    process = processes.read_process(pid) if group else None
    if process is not None and process.group != os.getpgrp():
        _send(os.killpg, process.group, signal.SIGKILL)
    _send(os.kill, pid, signal.SIGKILL)


def _send(how: Callable[[int, int], None], target: int, number: int) -> None:
    """Signal *target* unless it is gone, or another user's (it is reported when it resists)."""
    try:
        how(target, number)
    except (ProcessLookupError, PermissionError):
        return
