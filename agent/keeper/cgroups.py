"""A task's cgroup (cgroups(7), version 2): made, entered, limited, killed, measured, removed.

A process is born in the cgroup of its parent, and posix_spawn cannot choose another (clone3 can;
glibc's posix_spawn from 2.39 on). Moved after the spawn, it might have forked before, and the fork
would stay outside for ever. So the keeper, which has one thread, steps into the task's cgroup,
spawns, and steps back: nothing of a task is ever anywhere else, and two steps take 0.1 ms.

Limits are written when the keeper is out again, since they would hold for it too: it would count
among the task's processes, be throttled with them and be killed with them. So a task runs for some
microseconds without; the kernel applies a limit to what is there when it is written.

What the task's user owns, a task may change: it can leave its cgroup or lift a limit if it sets out
to. Process trees and marks are therefore looked at in any case (``trees``).
"""

from __future__ import annotations

import errno
import os
import signal
from typing import TYPE_CHECKING

from agent import processes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

#: The cgroup of agent and keeper, beside those of the tasks: a cgroup with processes of its own
#: cannot hand controllers down ("no internal processes").
HOME = "agent"
_PREFIX = "task"
_GONE = frozenset({errno.ENOENT, errno.ENODEV, errno.ESRCH})


def name_of(state_id: str, session: int, token: int) -> str:
    """What a task's cgroup is called."""
    return f"{_PREFIX}-{state_id}-{session}-{token}"


def session_and_token(name: str, state_id: str) -> tuple[int, int] | None:
    """Which task's cgroup *name* is; None when it is none of *state_id*'s."""
    prefix, _, rest = name.partition(f"-{state_id}-")
    session, _, token = rest.partition("-")
    if prefix != _PREFIX or not session.isdecimal() or not token.isdecimal():
        return None
    return int(session), int(token)


def token_of(pid: int, state_id: str) -> int | None:
    """The task in whose cgroup *pid* is; None when it is in none of *state_id*'s."""
    for name in _cgroup_names(pid):
        found = session_and_token(name, state_id)
        if found is not None:
            return found[1]
    return None


class Cgroup:
    """One task's cgroup at *path*, below ``top``."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path

    @classmethod
    def make(cls, top: str, name: str) -> Cgroup:
        """Raises OSError."""
        path = f"{top}/{name}"
        os.mkdir(path, 0o755)  # noqa: PTH102 -- pathlib costs 2 MB
        return cls(path)

    def bear(self, spawn: Callable[[], int]) -> int:
        """What *spawn* returns, called inside. For single-threaded processes that live in HOME.

        Raises OSError when it cannot be entered, and SystemExit when it cannot be left: inside, the
        keeper would die with the task.
        """
        enter(self.path)
        try:
            return spawn()
        finally:
            try:
                enter(f"{os.path.dirname(self.path)}/{HOME}")  # noqa: PTH120
            except OSError as error:
                raise SystemExit(f"keeper: cannot leave the cgroup of a task: {error}") from error

    def admit(self, pid: int) -> None:
        """Move *pid*, which has forked nothing yet, here. Raises OSError."""
        write(f"{self.path}/cgroup.procs", str(pid))

    def hold(self, limits: Mapping[str, str]) -> str:
        """Write *limits*, values by file; return what could not be written, or ``""``."""
        for file, value in limits.items():
            try:
                write(f"{self.path}/{file}", value)
            except OSError as error:
                return f"{file}={value}: {error.strerror}"
        return ""

    @property
    def populated(self) -> bool:
        """Whether anything lives in it or below it; zombies do not count. What cannot be told is
        no proof of death."""
        lines = _lines(f"{self.path}/cgroup.events")
        return lines is None or "populated 1" in lines

    def pids(self) -> set[int]:
        """Everything in it and below it."""
        return {
            int(pid)
            for folder in self._folders()
            for pid in _lines(f"{folder}/cgroup.procs") or ()
            if pid != "0"  # of another pid namespace
        }

    def kill(self) -> None:
        """SIGKILL to all of it at once, what is being forked included (Linux 5.14). Before that,
        and where the task has changed the file's rights, to what is there now: call again while it
        is populated."""
        try:
            write(f"{self.path}/cgroup.kill", "1")
        except OSError:
            name = os.path.basename(self.path)  # noqa: PTH119
            for pid in self.pids():
                process = processes.read_process(pid)
                # Looked at after the process was: its pid may be another's by now.
                if process is not None and name in _cgroup_names(pid):
                    processes.send_signal(process, signal.SIGKILL)

    def usage(self) -> dict[str, float | str | None]:
        """What the task has used, by the names of TaskExited; None where it is not measured."""
        peak = _lines(f"{self.path}/memory.peak")
        cpu = _fields(f"{self.path}/cpu.stat").get("usage_usec")
        events = _fields(f"{self.path}/memory.events")
        killed = events.get("oom_kill", 0) > 0
        # "oom" counts this cgroup's own limit; another's, or the machine's, kills without.
        own = events.get("oom", 0) > 0
        return {
            "memory_peak": int(peak[0]) if peak else None,
            "cpu_seconds": None if cpu is None else cpu / 1e6,
            "out_of_memory": ("limit" if own else "node") if killed else "",
        }

    def remove(self) -> None:
        """Remove it, with what the task has made in it. What cannot be removed is unpopulated and
        takes no room; it goes when the agent starts again, or with the unit."""
        for folder in reversed(list(self._folders())):
            try:
                os.rmdir(folder)  # noqa: PTH106
            except OSError:
                return

    def _folders(self) -> Iterator[str]:
        for folder, _, _ in os.walk(self.path):
            yield folder


def enter(path: str) -> None:
    """Move this process, all its threads, to the cgroup at *path*. Raises OSError."""
    write(f"{path}/cgroup.procs", "0")


def write(path: str, value: str) -> None:
    """Write *value* to a file of the kernel's, in one piece. Raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def _cgroup_names(pid: int) -> list[str]:
    """From the root down, of version 2."""
    for line in _lines(f"/proc/{pid}/cgroup") or ():
        if line.startswith("0::"):
            return line[3:].split("/")
    return []


def _lines(path: str) -> list[str] | None:
    """Empty when there is no such file, cgroup or process (any more); None when it is not readable:
    a task may have changed the rights of what its user owns."""
    try:
        with open(path) as file:  # noqa: PTH123
            return file.read().splitlines()
    except OSError as error:
        return [] if error.errno in _GONE else None


def _fields(path: str) -> dict[str, int]:
    pairs = (line.split() for line in _lines(path) or ())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}  # noqa: PLR2004
