"""A task that writes down its own life, outside the system: start, a sign of life every few
milliseconds, end. Standard library only and quick to start.

``ledger_task.py FILE SECONDS [WORD...]`` lives for some seconds; words make it worse:

- ``until=PATH``: it lives until the file is there instead.
- ``stubborn``: it ignores SIGTERM.
- ``detached``: so does a second process of it, double-forked into a session of its own.
- ``kills-agent``: it ends the agent that runs it with SIGKILL.
- ``fails``: it exits with 1.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

_BEAT = 0.005


def main() -> None:
    """Live for some seconds."""
    path, seconds, words = sys.argv[1], float(sys.argv[2]), sys.argv[3:]
    ledger = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    write = _writer(ledger)
    if "stubborn" in words:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    began = write("start")
    if "detached" in words:
        _detach(ledger)
    if "kills-agent" in words:
        os.kill(_parent(os.getppid()), signal.SIGKILL)
    gates = [Path(word.partition("=")[2]) for word in words if word.startswith("until=")]
    while True:
        moment = write("alive")
        if all(gate.exists() for gate in gates) if gates else moment >= began + seconds:
            break
        time.sleep(_BEAT)
    write("end")
    if "fails" in words:
        sys.exit(1)


def _writer(ledger: int) -> Callable[[str], float]:
    """What adds a line to the ledger and returns its moment."""
    names = ("FLOW_TOKEN", "FLOW_AGENT", "FLOW_TASK_INSTANCE_ID", "FLOW_TRY_NUMBER")
    task = f"{os.environ['FLOW_RUN_ID']}/{os.environ['FLOW_TASK_ID']}"
    identity = " ".join([task, *(os.environ[name] for name in names), str(os.getpid())])

    def write(kind: str) -> float:
        moment = time.clock_gettime(time.CLOCK_BOOTTIME)
        os.write(ledger, f"{kind} {moment:.6f} {identity}\n".encode())
        return moment

    return write


def _detach(ledger: int) -> None:
    """A daemon as W. R. Stevens makes one; it lives for as long as it is let."""
    if os.fork():
        os.wait()
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    write = _writer(ledger)
    while True:
        write("alive")
        time.sleep(_BEAT)


def _parent(pid: int) -> int:
    """Of a keeper: the agent."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


main()
