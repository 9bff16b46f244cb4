"""Rows that one session can update, by rows per statement and committed transaction."""

from __future__ import annotations

import json
import sys
import time

import psycopg2
from psycopg2.extras import execute_values

ROWS = 20_000
SECONDS = 0.7
UPDATE = """
UPDATE batches b SET state = v.state, token = v.token
FROM (VALUES %s) v(id, state, token) WHERE b.id = v.id
"""


def rate(database: str, size: int) -> float:
    """Rows per second with *size* of them in one statement and transaction."""
    connection = psycopg2.connect(database)
    cursor, done, begun = connection.cursor(), 0, time.perf_counter()
    while time.perf_counter() - begun < SECONDS:
        rows = [((done + n) % ROWS, "running", done + n) for n in range(size)]
        execute_values(cursor, UPDATE, rows, page_size=size)
        connection.commit()
        done += size
    seconds = time.perf_counter() - begun
    connection.close()
    return done / seconds


def main(_: str, database: str) -> None:
    """A table like that of task instances, and four sizes."""
    connection = psycopg2.connect(database)
    cursor = connection.cursor()
    cursor.execute("CREATE TABLE batches (id bigint PRIMARY KEY, state text, token bigint)")
    cursor.execute(
        "INSERT INTO batches SELECT n, 'queued', 0 FROM generate_series(0, %s) n", [ROWS]
    )
    connection.commit()
    sizes = (1, 10, 100, 1000)
    print(json.dumps({f"rows_by_{size}_per_s": rate(database, size) for size in sizes}))


if __name__ == "__main__":
    main(*sys.argv[1:])
