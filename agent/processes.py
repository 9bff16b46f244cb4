"""Processes as /proc shows them: the tree, the marks in their environments, proof of death.

Every task process of an agent starts with ``FLOW_AGENT_MARK=<state id>:<session>`` in its
environment, and children inherit it. So an agent that starts again finds what an earlier session
left behind, whatever its parents and sessions are now. /proc/<pid>/environ shows the environment
as it was at exec (proc(5)); a process that had it cleared is found through its ancestors only,
which is why the keeper, a subreaper, must finish its own killing first.

Standard library only, and little of it: the keeper imports this too.
"""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping


class Process(NamedTuple):
    """One process. ``(pid, started)`` is its identity: pids are used again."""

    pid: int
    parent: int
    group: int
    session: int
    state: str
    threads: int
    started: int
    environ_size: int | None
    """Bytes; None while it has none: between two programs (in exec), exiting, or not ours."""
    kernel: bool
    """A thread of the kernel, with no program and nobody's mark."""
    name: str


class Marked(NamedTuple):
    """A living process that carries an agent's mark."""

    process: Process
    session: int
    keeper: bool


class Proof(NamedTuple):
    """Whether everything is dead; if not, what survived, as ``pid 4711 (dd) state D``."""

    dead: bool
    survivors: tuple[str, ...]


#: Environment variable on a keeper and every task: the agent's state id and session.
MARK = "FLOW_AGENT_MARK"
#: Environment variable on the keeper alone.
KEEPER = "FLOW_AGENT_KEEPER"
#: Environment variable on a task: its fencing token.
TOKEN = "FLOW_TOKEN"  # noqa: S105 -- the name of a variable

#: Seconds that an orphaned keeper gets to kill its tasks itself.
KEEPER_PATIENCE = 3.0
_PAUSE = 0.02
_LOOKS = 20
_PF_KTHREAD = 0x00200000


def mark(state_id: str, session: int) -> str:
    """What MARK is set to."""
    return f"{state_id}:{session}"


def describe(process: Process) -> str:
    """For people: ``pid 4711 (dd) state D``."""
    return f"pid {process.pid} ({process.name}) state {process.state}"


def alive(process: Process) -> bool:
    """Whether it can still do anything: a zombie cannot, unless only its first thread ended."""
    return process.state not in "ZX" or process.threads > 1


# -- reading /proc -----------------------------------------------------------------------------


def read_process(pid: int) -> Process | None:
    """The process with *pid*, or None when there is none."""
    text = _read(f"/proc/{pid}/stat")
    if not text:
        return None
    # The name is in parentheses and may hold any character: only the last one ends it.
    head, _, tail = text.rpartition(b")")
    fields = tail.split()
    return Process(
        pid=pid,
        parent=int(fields[1]),
        group=int(fields[2]),
        session=int(fields[3]),
        state=fields[0].decode(),
        threads=int(fields[17]),
        started=int(fields[19]),
        environ_size=int(fields[48]) - int(fields[47]) if int(fields[48]) else None,
        kernel=bool(int(fields[6]) & _PF_KTHREAD),
        name=head.partition(b"(")[2].decode(errors="replace"),
    )


def snapshot() -> dict[int, Process]:
    """Every process that /proc shows. Not one moment: processes come and go while it is read."""
    found = {}
    for pid in _pids():
        process = read_process(pid)
        if process is not None:
            found[pid] = process
    return found


def own_children() -> set[int]:
    """The pids of this process's children, zombies included. For single-threaded processes.

    Exact, unlike any other reading of /proc: children leave the list only when this process reaps
    them, and it is busy here. The file needs CONFIG_PROC_CHILDREN, which Debian's kernels have.
    """
    me = os.getpid()
    text = _read(f"/proc/self/task/{me}/children")
    if text is not None:
        return {int(pid) for pid in text.split()}
    return {process.pid for process in snapshot().values() if process.parent == me}


def descendants(processes: Mapping[int, Process], roots: Iterable[int]) -> set[int]:
    """*roots* and everything below them in *processes*."""
    below: dict[int, list[int]] = {}
    for process in processes.values():
        below.setdefault(process.parent, []).append(process.pid)
    found: set[int] = set()
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting.extend(below.get(pid, ()))
    return found


def environment(process: Process) -> dict[str, str] | None:
    """The environment it was started with; empty when it is gone, or not ours to read.

    None when it has none *now*: inside execve(2) the old one is gone and the new one not yet there,
    which lasts microseconds, or longer when the program is read from a slow disk. Look again.
    """
    for _ in range(_LOOKS):
        try:
            text = _read_environ(process)
        except PermissionError:
            return {}
        if text:
            pairs = (entry.partition(b"=") for entry in text.split(b"\0"))
            return {
                os.fsdecode(name): os.fsdecode(value) for name, equals, value in pairs if equals
            }
        now = read_process(process.pid)
        if now is None or now.started != process.started or now.kernel or not alive(now):
            return {}
        if now.environ_size is None:
            return None
        if now.environ_size <= 0:
            return {}
        # It got through its exec between the two readings.
    return {}  # it took its environment out of its memory


def _read_environ(process: Process) -> bytes | None:
    text = _read(f"/proc/{process.pid}/environ", tell=True)
    if not text and process.state == "Z" and process.threads > 1:
        # Its first thread has ended: the others show what is common to them.
        for thread in _pids(f"/proc/{process.pid}/task"):
            text = text or _read(f"/proc/{process.pid}/task/{thread}/environ")
    return text


def _read(path: str, *, tell: bool = False) -> bytes | None:
    """The file's content, or None when it is not there or not ours to read.

    With *tell*, raises PermissionError in the latter case.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            parts = []
            while part := os.read(fd, 1 << 16):
                parts.append(part)
            return b"".join(parts)
        finally:
            os.close(fd)
    except (FileNotFoundError, ProcessLookupError):
        return None
    except PermissionError:
        if tell:
            raise
        return None


def _pids(folder: str = "/proc") -> list[int]:
    try:
        return [int(name) for name in os.listdir(folder) if name.isdecimal()]  # noqa: PTH208
    except FileNotFoundError:
        return []


# -- marks and proof ---------------------------------------------------------------------------


def send_signal(process: Process, number: int) -> bool:
    """Signal exactly this process, never one that got its pid later. False: gone or not allowed."""
    try:
        handle = os.pidfd_open(process.pid)
    except OSError:  # ended, or out of descriptors: the caller's next round tries again
        return False
    try:
        now = read_process(process.pid)
        if now is None or now.started != process.started:
            return False
        signal.pidfd_send_signal(handle, number)
    except (ProcessLookupError, PermissionError):
        return False
    else:
        return True
    finally:
        os.close(handle)


def marked(
    state_id: str,
    *,
    below_session: int | None = None,
    spare: Collection[int] = (),
) -> tuple[Marked, ...]:
    """The living processes with *state_id*'s mark, of sessions lower than *below_session* if given.

    This process and the pids in *spare* are left out. A process is skipped when this user may not
    read its environment: another user's, unless this one is root.
    """
    found, _ = _search(state_id, snapshot(), spare)
    return tuple(
        marked for marked in found if below_session is None or marked.session < below_session
    )


def _search(
    state_id: str, processes: Mapping[int, Process], spare: Collection[int] = ()
) -> tuple[list[Marked], list[Process]]:
    """The marked of any session, and those that cannot be told yet: see :func:`environment`."""
    found = []
    unknown = []
    for process in processes.values():
        if process.pid == os.getpid() or process.pid in spare or not alive(process):
            continue
        variables = environment(process)
        if variables is None:
            unknown.append(process)
            continue
        owner, _, number = variables.get(MARK, "").rpartition(":")
        if owner == state_id and number.isdecimal():
            found.append(Marked(process, int(number), variables.get(KEEPER) == "1"))
    return found, unknown


def prove_dead(
    state_id: str,
    current_session: int,
    timeout: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> Proof:
    """End everything of the agent's sessions before *current_session*, and prove that it is dead.

    For an agent that starts, and for one that lost its keeper; never while a keeper of this state
    id is wanted alive, since the keeper carries the session it was launched with. Blocks for up to
    *timeout* seconds: run it in a thread. An old keeper first gets KEEPER_PATIENCE (at most half
    of *timeout*) to kill its tasks, since it alone sees those that cleared their environment. Then
    everything marked, and all below it, gets SIGKILL until two scans in a row find nothing.
    """
    begin = clock()
    patience = begin + min(KEEPER_PATIENCE, timeout / 2)
    while clock() < patience and any(
        found.keeper for found in marked(state_id, below_session=current_session)
    ):
        pause(_PAUSE)
    targets: set[tuple[int, int]] = set()
    empty = 0
    while True:
        survivors, unknown = _survivors(state_id, current_session, targets)
        empty = 0 if survivors or unknown else empty + 1
        if empty == 2:  # noqa: PLR2004 -- a process forked during the first scan is in the second
            return Proof(dead=True, survivors=())
        for process in survivors:
            send_signal(process, signal.SIGKILL)
        if empty == 0 and clock() - begin >= timeout:
            left = [describe(process) for process in survivors]
            left += [f"{describe(process)}, environment unknown" for process in unknown]
            return Proof(dead=False, survivors=tuple(left))
        if empty == 0:
            pause(_PAUSE)


def _survivors(
    state_id: str, below_session: int, targets: set[tuple[int, int]]
) -> tuple[list[Process], list[Process]]:
    """What is alive of *targets* and of the marked, with all below them; and what is unknown yet.

    *targets* grows by what is found. Remembering matters: a child without a mark loses its parent
    to our SIGKILL, and with it the only sign of where it belongs.
    """
    processes = snapshot()
    found, unknown = _search(state_id, processes)
    roots = {marked.process.pid for marked in found if marked.session < below_session}
    for pid, started in targets:
        if pid in processes and processes[pid].started == started:
            roots.add(pid)
    below = descendants(processes, roots)
    survivors = [
        processes[pid]
        for pid in below
        if pid in processes and pid != os.getpid() and alive(processes[pid])
    ]
    targets.update((process.pid, process.started) for process in survivors)
    return survivors, [process for process in unknown if process.pid not in below]
