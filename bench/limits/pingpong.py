"""One task after the other at its barest: a message there, a message back; then with a committed
UPDATE per hop, and then with a process that the far side starts."""

from __future__ import annotations

import json
import os
import sys
import time
from statistics import median
from typing import Any

import psycopg2

from bench.limits import PERSISTENT, channel

HOPS = 200
#: c: a commit; s: a shell; f: a fork of a small Python, as a warm worker would.
VARIANTS = {"hop": "-", "hop_commit": "c", "hop_commit_spawn": "cs", "hop_commit_fork": "cf"}


def far_side(far: Any) -> None:
    """Start what a message says, then answer."""
    for method, _, body in far.consume("there"):
        if b"s" in body:
            os.waitpid(os.posix_spawn("/bin/sh", ["sh", "-c", "true"], os.environ), 0)
        if b"f" in body:
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            os.waitpid(pid, 0)
        far.basic_publish("", "back", body, PERSISTENT)
        far.basic_ack(method.delivery_tag)


def hops(near: Any, cursor: Any, what: str) -> float:
    """The median hop, in milliseconds."""
    took = []
    for _ in range(HOPS):
        begun = time.perf_counter()
        near.basic_publish("", "there", what.encode(), PERSISTENT)
        method, _, _ = next(near.consume("back"))
        if "c" in what:
            cursor.execute("UPDATE pingpong SET n = n + 1")
            cursor.connection.commit()
        near.basic_ack(method.delivery_tag)
        took.append(1000 * (time.perf_counter() - begun))
    return median(took)


if __name__ == "__main__":
    here = channel(sys.argv[1], "there", "back")
    if not (other := os.fork()):
        far_side(channel(sys.argv[1]))
    database = psycopg2.connect(sys.argv[2]).cursor()
    database.execute("CREATE TABLE pingpong AS SELECT 0 AS n")
    print(json.dumps({f"{name}_ms": hops(here, database, v) for name, v in VARIANTS.items()}))
    os.kill(other, 9)
