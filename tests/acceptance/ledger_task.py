"""A task that writes down its own life, outside the system: start, a sign of life every few
milliseconds, end. Standard library only and quick to start; run as ``ledger_task.py FILE SECONDS``.
"""

from __future__ import annotations

import os
import sys
import time


def main() -> None:
    """Live for some seconds."""
    path, seconds = sys.argv[1], float(sys.argv[2])
    names = ("FLOW_RUN_ID", "FLOW_TASK_ID")
    task = "/".join(os.environ[name] for name in names)
    identity = f"{task} {os.environ['FLOW_TOKEN']} {os.environ['FLOW_AGENT']}"
    ledger = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write(kind: str) -> float:
        moment = time.clock_gettime(time.CLOCK_BOOTTIME)
        os.write(ledger, f"{kind} {moment:.6f} {identity}\n".encode())
        return moment

    end = write("start") + seconds
    while write("alive") < end:
        time.sleep(0.005)
    write("end")


main()
