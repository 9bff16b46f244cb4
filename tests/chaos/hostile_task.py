"""A fork bomb with a bound, for a machine that has other work: ``hostile_task.py PROCESSES MORE``

It grows to PROCESSES, each in a session of its own and deaf to SIGTERM. Then whoever sees its
parent or a child die makes another one, MORE times in all: a kill has to be faster. Both bounds
are bytes in a pipe, one taken *before* each fork: whatever the machine does, no more are made.
"""

from __future__ import annotations

import os
import signal
import sys
import time

_PAUSE = 0.1


def main() -> None:
    """Fork for as long as there are bytes to take."""
    growth, revenge = _bytes(int(sys.argv[1]) - 1), _bytes(int(sys.argv[2]))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    parent = os.getppid()
    while True:
        if _take(growth) or (_bereaved(parent) and _take(revenge)):
            parent = _multiply(parent)
        else:
            time.sleep(_PAUSE)


def _bytes(count: int) -> int:
    """A pipe with *count* bytes, shared by all descendants."""
    read, write = os.pipe()
    os.write(write, bytes(count))
    os.close(write)
    os.set_blocking(read, False)
    return read


def _take(pipe: int) -> bool:
    return os.read(pipe, 1) != b""


def _multiply(parent: int) -> int:
    """Fork; whose child each of the two is."""
    here = os.getpid()
    if os.fork():
        return parent
    os.setsid()
    return here


def _bereaved(parent: int) -> bool:
    """Whether a child has died since the last look, or the parent ever."""
    try:
        return os.waitpid(-1, os.WNOHANG)[0] != 0 or os.getppid() != parent
    except ChildProcessError:
        return os.getppid() != parent


main()
