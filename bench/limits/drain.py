"""Many tasks at their barest: one side publishes them and writes results down in batches, the other
starts a process for each, or none, and answers. Nothing is scheduled, claimed or guarded."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import psycopg2
from psycopg2.extras import execute_values

from bench.limits import PERSISTENT, channel

SLOTS, BATCH, BASH = 4, 100, ("/bin/bash", "-c", "true")
UPDATE = "UPDATE drain d SET state = 'success' FROM (VALUES %s) v(id) WHERE d.id = v.id"
TABLE = "CREATE TABLE drain AS SELECT n AS id, '' AS state FROM generate_series(0, 3000) n"


def worker(near: Any) -> None:
    """Answer each task when its process, if any, has ended; at most SLOTS at a time."""
    near.basic_qos(prefetch_count=BATCH)
    running: dict[int, tuple[bytes, int]] = {}
    for method, _, body in near.consume("tasks", inactivity_timeout=0.002):
        if method:
            pid = os.posix_spawn(BASH[0], BASH, os.environ) if body.startswith(b"p") else 0
            running[pid] = body, method.delivery_tag
        while running and (method is None or 0 in running or len(running) == SLOTS):
            number, tag = running.pop(0 if 0 in running else os.wait()[0])
            near.basic_publish("", "results", number, PERSISTENT)
            near.basic_ack(tag)


def drain(near: Any, cursor: Any, kind: str, count: int) -> float:
    """Tasks per second."""
    begun, waiting, batch = time.perf_counter(), count, []
    for number in range(count):
        near.basic_publish("", "tasks", f"{kind}{number}".encode(), PERSISTENT)
    while waiting:
        method, _, body = next(near.consume("results", inactivity_timeout=0.002))
        batch += [(int(body[1:]),)] if method else []
        if batch and (method is None or len(batch) in {BATCH, waiting}):
            execute_values(cursor, UPDATE, batch)
            cursor.connection.commit()
            near.basic_ack(0, multiple=True)
            waiting, batch = waiting - len(batch), []
    return count / (time.perf_counter() - begun)


if __name__ == "__main__":
    here = channel(sys.argv[1], "tasks", "results")
    if not (far := os.fork()):
        worker(channel(sys.argv[1]))
    database = psycopg2.connect(sys.argv[2]).cursor()
    database.execute(f"{TABLE}; CREATE UNIQUE INDEX ON drain (id)")
    rates = {"processes_per_s": drain(here, database, "p", 1000)}
    print(json.dumps(rates | {"instant_per_s": drain(here, database, "i", 3000)}))
    os.kill(far, 9)
