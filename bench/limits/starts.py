"""Processes that can be started and reaped, one after the other and four at a time."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable

SECONDS = 0.7


def shell() -> int:
    """``sh -c true`` by posix_spawn."""
    return os.posix_spawn("/bin/sh", ["sh", "-c", "true"], os.environ)


def bash() -> int:
    """What a bash task starts."""
    return os.posix_spawn("/bin/bash", ["bash", "-c", "true"], os.environ)


def fork() -> int:
    """A child of this small Python that ends at once."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    return pid


def python() -> int:
    """A fresh interpreter without site packages."""
    return os.posix_spawn(sys.executable, ["python", "-I", "-S", "-c", "pass"], os.environ)


def rate(start: Callable[[], int], at_once: int) -> float:
    """Processes per second, *at_once* at the same time."""
    done, running, begun = 0, 0, time.perf_counter()
    while time.perf_counter() - begun < SECONDS:
        while running < at_once:
            start()
            running += 1
        os.wait()
        running, done = running - 1, done + 1
    for _ in range(running):
        os.wait()
    return done / (time.perf_counter() - begun)


if __name__ == "__main__":
    kinds = {"sh": shell, "bash": bash, "fork": fork, "python": python}
    at_once = (1, 4)
    print(json.dumps({f"{k}_by_{n}_per_s": rate(f, n) for k, f in kinds.items() for n in at_once}))
