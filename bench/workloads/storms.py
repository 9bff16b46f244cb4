"""W8 and W10: a thousand DAGs that are due at the same moment, and a thousand files to read."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from bench import processes
from bench.contender import TRUE, Graph, Sample
from bench.flow_contender import dag_file
from bench.flow_system import FlowSystem
from bench.graphs import none
from bench.turn import Turn, percentile

_STORM = """
from datetime import datetime, timedelta
from flow import DAG, BashOperator

for n in range({dags}):
    # One interval, which ends at the moment of the storm.
    with DAG(f"w8_{{n}}", schedule=timedelta(hours=1),
             start_date=datetime.fromisoformat({start!r})):
        BashOperator(task_id="t0", bash_command="true")
"""
_STARTS = """
SELECT extract(epoch FROM r.created_at)::float8, extract(epoch FROM y.started_at)::float8
FROM dag_run r JOIN task_instance t ON t.run_pk = r.id JOIN task_try y ON y.task_pk = t.id
WHERE r.run_type = 'scheduled' AND y.closed_at IS NOT NULL
"""


def w8(turn: Turn, system: FlowSystem) -> Iterator[Sample]:
    """1,000 DAGs of one task, all due in the same second: how late their tasks start."""
    dags = turn.size(1000, 50, 50)
    system.flow("db", "migrate")
    system.start_dispatcher()
    system.start_agent("node1", system.site.slots, "default")
    ahead = 12 if not turn.quick else 6
    due = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=ahead)
    start = (due - timedelta(hours=1)).isoformat()
    system.write_dag("w8", _STORM.format(dags=dags, start=start))
    system.wait_known([f"w8_{n}" for n in range(dags)], within=ahead - 1)
    begun = "SELECT count(*) FROM task_try WHERE closed_at IS NOT NULL"
    system.wait(lambda: system.query(begun)[0][0] == dags, "all to have run", within=180, every=0.1)
    rows = system.query(_STARTS)
    late = [started - due.timestamp() for _, started in rows]
    metrics = {
        "runs_late_s": max(created for created, _ in rows) - due.timestamp(),
        "late_p50_s": percentile(late, 0.5),
        "late_s": max(late),
        "missed": float(dags - len(rows)),
    }
    yield turn.sample("W8", "1,000 DAGs due in one second", metrics, series={"late_s": late})


def w10(turn: Turn, system: FlowSystem) -> Iterator[Sample]:
    """1,000 DAG files: read for the first time, looked at again, one of them changed."""
    files = turn.size(1000, 50, 50)
    graphs = [Graph(f"w10_{n}", none(3), TRUE) for n in range(files)]
    for graph in graphs:
        system.write_dag(graph.name, dag_file(graph, 1))
    system.flow("db", "migrate")
    dispatcher = system.start_dispatcher()
    begun = time.monotonic()
    system.wait_known([graph.name for graph in graphs])
    yield turn.sample("W10", "cold parse of 1,000 files", {"parse_s": time.monotonic() - begun})

    time.sleep(3.0)
    looks = turn.size(10, 3)
    before = processes.cpu_ms({"dispatcher": [dispatcher.pid]})["dispatcher"]
    time.sleep(looks)  # one look a second
    spent = processes.cpu_ms({"dispatcher": [dispatcher.pid]})["dispatcher"] - before
    yield turn.sample("W10", "unchanged scan", {"scan_cpu_ms": spent / looks})

    versions = "SELECT count(*) FROM dag_version WHERE dag_id = %s"
    for n in range(turn.size(5, 2)):
        name = f"w10_{n}"
        changed = time.monotonic()
        system.write_dag(name, dag_file(Graph(name, none(4), TRUE), 1))

        def live(name: str = name) -> bool:
            return bool(system.query(versions, name)[0][0] == 2)  # noqa: PLR2004 - old and new

        system.wait(live, f"the new version of {name}", every=0.005)
        yield turn.sample("W10", "one changed", {"live_s": time.monotonic() - changed})
        time.sleep(0.37 * n)  # not always at the same point between two looks
