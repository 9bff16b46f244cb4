"""Makes DAG runs in Airflow and reads their recorded times: requests and answers are lines of JSON.

Started by :class:`bench.peers.airflow.Airflow` in Airflow's own environment. Runs are made by the
function behind Airflow's own REST API and command line, in this process, where everything it needs
is loaded: the fastest way there is.
"""

from __future__ import annotations

import json
import os
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg2
from airflow.api.common.trigger_dag import trigger_dag
from airflow.exceptions import AirflowException
from airflow.utils.types import DagRunTriggeredByType

_PAUSE = 0.05
_SHARE = 20
_LOG = 2000
#: What Airflow itself must have before it schedules a DAG.
_KNOWN = (
    "SELECT count(*) FROM dag JOIN serialized_dag USING (dag_id)"
    " WHERE dag_id = ANY(%s) AND NOT is_stale AND NOT is_paused"
)
_BROKEN = "SELECT filename, stacktrace FROM import_error"
_STATES = "SELECT state, count(*) FROM dag_run WHERE run_id = ANY(%s) GROUP BY state"
_FAILED = (
    "SELECT dag_id, run_id, task_id FROM task_instance WHERE run_id = ANY(%s)"
    " AND state = 'failed' LIMIT 3"
)
_ENDS = "SELECT run_id, extract(epoch FROM end_date)::float8 FROM dag_run WHERE run_id = ANY(%s)"
_TIMES = (
    "SELECT run_id, task_id, extract(epoch FROM start_date)::float8,"
    " extract(epoch FROM end_date)::float8, extract(epoch FROM queued_dttm)::float8"
    " FROM task_instance WHERE run_id = ANY(%s)"
)


class Client:
    """One connection to Airflow's database, beside Airflow's own."""

    def __init__(self, database_url: str) -> None:
        self._connection = psycopg2.connect(database_url)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Carry one request out."""
        # One transaction for all the asking, so that it does not show among the commits.
        with self._connection, self._connection.cursor() as cursor:
            if request["do"] == "prepare":
                _wait_known(cursor, request["dags"], time.time() + request["within"])
                return {}
            return {"runs": _run(cursor, request["orders"], request["within"])}


def _wait_known(cursor: Any, dags: Sequence[str], until: float) -> None:
    while True:
        cursor.execute(_BROKEN)
        if broken := cursor.fetchall():
            raise RuntimeError(f"expected its DAG files to be read, got {broken[0]}")
        cursor.execute(_KNOWN, (list(dags),))
        (known,) = cursor.fetchone()
        if known == len(dags):
            return
        if time.time() > until:
            raise RuntimeError(f"expected {len(dags)} DAGs to be known in time, got {known}")
        time.sleep(_PAUSE)


def _run(cursor: Any, orders: Sequence[dict[str, Any]], within: float) -> list[dict[str, Any]]:
    ids = [f"bench_{uuid.uuid4().hex}" for _ in orders]
    first = time.time()
    begun = []
    for order, run in zip(orders, ids, strict=True):
        time.sleep(max(0.0, first + order["after"] - time.time()))
        begun.append(time.time())
        trigger_dag(order["graph"], triggered_by=DagRunTriggeredByType.CLI, run_id=run)
    _wait_ended(cursor, ids, first + within)
    cursor.execute(_ENDS, (ids,))
    ends = dict(cursor.fetchall())
    cursor.execute(_TIMES, (ids,))
    tasks: dict[str, list[list[float]]] = {run: [] for run in ids}
    for run, task, *times in cursor.fetchall():
        tasks[run].append([int(task.removeprefix("t")), *times])
    return [
        {
            "graph": order["graph"],
            "run_id": run,
            "begun": start,
            "ended": ends[run],
            "tasks": sorted(tasks[run]),
        }
        for order, run, start in zip(orders, ids, begun, strict=True)
    ]


def _wait_ended(cursor: Any, runs: Sequence[str], until: float) -> None:
    """Until all have succeeded; how often that is asked depends on what asking costs."""
    while True:
        asked = time.time()
        cursor.execute(_STATES, (list(runs),))
        found = dict(cursor.fetchall())
        if found.get("success") == len(runs):
            return
        if "failed" in found or time.time() > until:
            cursor.execute(_FAILED, (list(runs),))
            logs = "\n".join(_log(*row) for row in cursor.fetchall())
            raise RuntimeError(f"expected {len(runs)} runs to succeed in time, got {found}\n{logs}")
        time.sleep(max(_PAUSE, _SHARE * (time.time() - asked)))


def _log(dag: str, run: str, task: str) -> str:
    """The end of a task's log, which is where Airflow puts it by default."""
    folder = Path(os.environ["AIRFLOW_HOME"], "logs")
    files = sorted(folder.glob(f"dag_id={dag}/run_id={run}/task_id={task}/*.log"))
    text = "".join(file.read_text(errors="replace") for file in files)[-_LOG:]
    return f"{dag} {task}: {text or 'no log: it was never started'}"


def main() -> None:
    """Answer until the requests end."""
    client = Client(os.environ["BENCH_DATABASE_URL"])
    # Airflow writes to standard output whatever it likes to say.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    answers.write(json.dumps({"ready": True}) + "\n")
    for line in sys.stdin:
        try:
            answer = client.answer(json.loads(line))
        except (RuntimeError, ValueError, AirflowException, psycopg2.Error) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
