"""Gives the orders to Celery and reads the recorded times: requests and answers are lines of JSON.

Started by :class:`bench.peers.celery.Celery` in Celery's own environment.
"""

from __future__ import annotations

import json
import sys
import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import psycopg2
from celery import chain, group
from celery.canvas import Signature

from bench.peers.celery_side.app import RUN_VARIABLE, app, python, shell
from bench.peers.celery_side.plan import Plan, plan

#: The share of time that the client spends asking whether all is done.
_SHARE = 20
_SHORTEST = 0.01
_ROWS = "SELECT task_id, result, date_done FROM celery_taskmeta WHERE status = 'SUCCESS'"


class Client:
    """One connection to the result backend's database, beside Celery's own."""

    def __init__(self, database_url: str) -> None:
        self._connection = psycopg2.connect(database_url.replace("+psycopg2", ""))
        self._graphs: dict[str, dict[str, Any]] = {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Carry one request out."""
        if request["do"] == "prepare":
            self._graphs |= {graph["name"]: graph for graph in request["graphs"]}
            return {}
        return {"runs": self._run(request["orders"], request["within"])}

    def _run(self, orders: Sequence[dict[str, Any]], within: float) -> list[dict[str, Any]]:
        # Built before the clock runs: a user's code has its canvas, as flow has its DAG file.
        ids = [uuid.uuid4().hex for _ in orders]
        built = [self._build(order, run) for order, run in zip(orders, ids, strict=True)]
        first = time.time()
        begun = []
        for order, work in zip(orders, built, strict=True):
            time.sleep(max(0.0, first + order["after"] - time.time()))
            begun.append(time.time())
            work.apply_async()
        tasks = sum(len(self._graphs[order["graph"]]["upstream"]) for order in orders)
        # One transaction for all the asking, so that it does not show among the commits.
        with self._connection, self._connection.cursor() as cursor:
            _wait(cursor, tasks, first + within)
            times = _times(cursor)
            # The next question counts the rows.
            cursor.execute("TRUNCATE celery_taskmeta")
        return [
            {"graph": order["graph"], "run_id": run, "begun": start, "tasks": times[run]}
            for order, run, start in zip(orders, ids, begun, strict=True)
        ]

    def _build(self, order: dict[str, Any], run: str) -> Any:
        graph = self._graphs[order["graph"]]
        work = graph["work"]

        def make(number: int) -> Signature:
            if work["kind"] == "shell":
                command = work["command"].replace("{run}", f"${{{RUN_VARIABLE}}}")
                signature = shell.si(command, run)
            else:
                signature = python.si(work["n"])
            return signature.set(task_id=f"{run}.{number}")

        def canvas(part: Plan) -> Any:
            if isinstance(part, int):
                return make(part)
            several = [canvas(each) for each in part.parts]
            return chain(*several) if part.kind == "chain" else group(several)

        return canvas(plan(graph["upstream"]))


def _wait(cursor: Any, tasks: int, until: float) -> None:
    """Until all have succeeded; how often that is asked depends on what asking costs."""
    while True:
        asked = time.time()
        cursor.execute("SELECT status, count(*) FROM celery_taskmeta GROUP BY status")
        found = dict(cursor.fetchall())
        if found.get("SUCCESS") == tasks:
            return
        if set(found) - {"SUCCESS", "RETRY"} or time.time() > until:
            raise RuntimeError(f"expected {tasks} tasks to succeed in time, got {found}")
        time.sleep(max(_SHORTEST, _SHARE * (time.time() - asked)))


def _times(cursor: Any) -> dict[str, list[tuple[float, float]]]:
    """By run, begin and end of its tasks in the order of their numbers."""
    cursor.execute(_ROWS)
    times: dict[str, dict[int, tuple[float, float]]] = {}
    for task, result, done in cursor.fetchall():
        run, _, number = task.partition(".")
        ended: datetime = done.replace(tzinfo=UTC)
        begun = float(app.backend.decode(bytes(result)))
        times.setdefault(run, {})[int(number)] = (begun, ended.timestamp())
    return {run: [found[number] for number in sorted(found)] for run, found in times.items()}


def main() -> None:
    """Answer until the requests end."""
    client = Client(app.conf.result_backend.removeprefix("db+"))
    # Celery makes its tables when it is first used; a question to it is one use.
    app.backend.get_state("none")
    _say({"ready": True})
    for line in sys.stdin:
        try:
            answer = client.answer(json.loads(line))
        except (RuntimeError, ValueError, psycopg2.Error) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        _say(answer)


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
