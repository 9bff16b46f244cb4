"""The agent's place among the cgroups: what was delegated to it, and what is left of old tasks.

Only what a service manager has delegated is touched: it marks the cgroup with the attribute
``user.delegate`` (systemd.resource-control(5), Delegate=; systemd 251 and later). There the agent
moves itself to ``<its cgroup>/agent``, where its keeper is born, hands on the controllers that it
has, and each task gets a cgroup beside it (:mod:`agent.keeper.cgroups`). On a machine that still
has version 1 for its controllers, membership and kills work all the same, and limits do not.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from agent import processes
from agent.keeper import cgroups
from agent.keeper.cgroups import HOME, Cgroup
from agent.processes import Proof

#: What tasks can be held to, by the names of the settings and arguments.
CONTROLLERS = {"memory": "memory", "cpus": "cpu", "pids": "pids"}
_DELEGATED = "user.delegate"
_PAUSE = 0.02
#: In which what forks is moved.
_ROUNDS = 20

Attribute = Callable[[Path, str], bytes]


@dataclass(frozen=True, slots=True)
class Cgroups:
    """What this process has of them."""

    top: Path | None = None
    """Where tasks get theirs; None: they get none."""
    limits: frozenset[str] = frozenset()
    """Of the keys of CONTROLLERS: what tasks can be held to."""
    lacking: str = "cgroups are not used here"
    """Why not to the others; empty when there are no others."""
    swap: bool = False
    """Whether ``memory.swap.max`` is there: the kernel counts what is swapped out."""

    @property
    def complete(self) -> bool:
        """Whether tasks can be held to everything."""
        return self.limits == CONTROLLERS.keys()

    def told(self) -> str:
        """One line for the operator."""
        lacks = ", ".join(name for name in CONTROLLERS if name not in self.limits)
        if self.top is None:
            return f"no cgroup per task, so none can be held to {lacks}: {self.lacking}"
        where = f"a cgroup per task in {self.top}"
        if self.complete:
            return f"{where}, which can be held to {', '.join(CONTROLLERS)}"
        return f"{where}, but none can be held to {lacks}: {self.lacking}"


def claim(proc: Path = Path("/proc/self"), attribute: Attribute = os.getxattr) -> Cgroups:
    """Take what is delegated to this process. A second time it finds what the first has made.

    All that is in the delegated cgroup moves along to HOME: what this process has started before,
    such as the parsers of `flow standalone`, and the shell in whose scope it runs.
    """
    folder = own(proc)
    if folder is None:
        return Cgroups(lacking="this machine has no cgroup file system of version 2 mounted")
    top = _delegated(folder, attribute)
    if top is None:
        return Cgroups(
            lacking=f"its cgroup {folder} is not delegated to it; its unit needs "
            "Delegate=memory pids cpu"
        )
    home = top / HOME
    try:
        home.mkdir(exist_ok=True)
        cgroups.enter(str(home))
        _move_all(top, home)
        present = (top / "cgroup.controllers").read_text().split()
    except OSError as error:
        return Cgroups(lacking=f"cannot move to {home}: {error.strerror}")
    return _enabled(top, present)


def _move_all(top: Path, home: Path) -> None:
    """Move what is in *top* itself; what is forked meanwhile is there in the next round."""
    for _ in range(_ROUNDS):
        pids = _lines(top / "cgroup.procs")
        if not pids:
            return
        for pid in pids:
            # It ended; or it cannot be moved, which shows when controllers are to be handed on.
            with contextlib.suppress(OSError):
                cgroups.write(str(home / "cgroup.procs"), pid)


def _enabled(top: Path, present: Collection[str]) -> Cgroups:
    """Hand on those of the controllers *present* that limit tasks."""
    limits, problems = set(), []
    for name, controller in CONTROLLERS.items():
        if controller not in present:
            problems.append(f"the controller {controller!r} is not delegated to {top}")
            continue
        try:
            cgroups.write(str(top / "cgroup.subtree_control"), f"+{controller}")
        except OSError as error:
            others = ", ".join(_lines(top / "cgroup.procs"))
            alone = f" (expected no process in {top}, got {others})" if others else ""
            problems.append(f"controller {controller!r}: {error.strerror}{alone}")
        else:
            limits.add(name)
    swap = (top / HOME / "memory.swap.max").exists()
    return Cgroups(top, frozenset(limits), "; ".join(problems), swap)


def own(proc: Path) -> Path | None:
    """The folder of this process's cgroup of version 2."""
    lines = _lines(proc / "cgroup")
    inside = next((line[3:] for line in lines if line.startswith("0::")), None)
    if inside is None:
        return None
    for line in _lines(proc / "mountinfo"):
        # proc(5): id, parent, device, root, mount point, options, tags..., -, type, ...
        before, _, after = line.partition(" - ")
        fields = before.split()
        if after.split()[:1] != ["cgroup2"]:
            continue
        root, point = Path(_unescaped(fields[3])), Path(_unescaped(fields[4]))
        if Path(inside).is_relative_to(root):
            return point / Path(inside).relative_to(root)
    return None


def _delegated(folder: Path, attribute: Attribute) -> Path | None:
    """*folder*, or what is above it when this process has moved to HOME already."""
    for one in (folder, folder.parent) if folder.name == HOME else (folder,):
        # An error is a no as well: there is no such attribute, or no such folder in this container.
        with contextlib.suppress(OSError):
            if attribute(one, _DELEGATED) == b"1":
                return one
    return None


def _unescaped(text: str) -> str:
    """mountinfo writes blanks and the like as octal numbers."""
    for char in " \t\n\\":
        text = text.replace(f"\\{ord(char):03o}", char)
    return text


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except FileNotFoundError:
        return []


# -- earlier sessions --------------------------------------------------------------------------


def prove_empty(
    top: Path | None,
    state_id: str,
    current_session: int,
    timeout: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> Proof:
    """Kill what is in cgroups of tasks of sessions before *current_session*, prove that nothing is
    left, and remove them. Blocks for up to *timeout* seconds: run it in a thread.

    It finds what :func:`agent.processes.prove_dead` cannot see: what cleared its environment and
    lost its parents. That goes first, since an old keeper does its own killing best.
    """
    end = clock() + timeout
    while left := list(_left(top, state_id, current_session)):
        populated = []
        for cgroup in left:
            if cgroup.populated:
                cgroup.kill()
                populated.append(cgroup)
            else:
                cgroup.remove()
        if not populated:
            break
        if clock() >= end:
            return Proof(dead=False, survivors=tuple(_described(populated)))
        pause(_PAUSE)
    return Proof(dead=True, survivors=())


def _left(top: Path | None, state_id: str, current_session: int) -> Iterator[Cgroup]:
    for folder in top.iterdir() if top is not None else ():
        found = cgroups.session_and_token(folder.name, state_id)
        if found is not None and found[0] < current_session:
            yield Cgroup(str(folder))


def _described(populated: list[Cgroup]) -> Iterator[str]:
    for cgroup in populated:
        for pid in cgroup.pids():
            process = processes.read_process(pid)
            if process is not None:
                yield f"{processes.describe(process)} in {cgroup.path}"
