"""What a DAG file starts and detaches from itself ends with it all the same.

The process that reads DAG files is a *subreaper* (prctl(2)): what its descendants leave behind
becomes its child, whatever session or group it has gone to.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PAUSE = 0.002


def adopt() -> None:
    """Be the parent of all descendants whose own parents die."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_with(parent: int) -> None:
    """Let this process be killed when *parent*, its parent, dies."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was faster
        os.kill(os.getpid(), signal.SIGKILL)


def end_descendants(within: float) -> None:
    """Kill and reap all descendants of this process; give up after *within* seconds, since one may
    be in an uninterruptible sleep."""
    end = time.monotonic() + within
    while _reap() and time.monotonic() < end:
        for pid in _descendants(os.getpid()):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(_PAUSE)


def _prctl(option: int, value: int) -> None:
    try:
        import ctypes  # noqa: PLC0415  not every Python has it: those do without
    except ImportError:
        return
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _reap() -> bool:
    """Bury children that are dead; whether any is left."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def _descendants(root: int) -> set[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            # pid (name) state ppid ...: the name may hold anything, also parentheses.
            fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        children.setdefault(int(fields[1]), []).append(int(entry.name))
    found: set[int] = set()
    pending = [root]
    while pending:
        below = set(children.get(pending.pop(), ())) - found
        found |= below
        pending += below
    return found
