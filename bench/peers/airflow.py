"""Airflow as a contender: scheduler, DAG processor, API server and a Celery worker.

How it is tuned, and why, is in README.md; the settings are in ``airflow_side/airflow.cfg``.
"""

from __future__ import annotations

import contextlib
import secrets
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from bench.contender import (
    TRUE,
    ContenderFailed,
    Graph,
    Order,
    RunTimes,
    Site,
    Size,
    TaskTimes,
    fibo,
)
from bench.graphs import none
from bench.peers import setup
from bench.peers.programs import Programs
from tests.services import free_port

_CONFIGURATION = Path(__file__).resolve().parent / "airflow_side" / "airflow.cfg"
_MIGRATION = 180.0
_START = 120.0
_PAUSE = 0.2
_SLOW = "it runs about two tasks per second here"
_REFUSED = {
    "W3 instant": "its MockExecutor is in its source tree only, not in what is installed",
    "W4 10,000": _SLOW,
    "W7": f"{_SLOW}, not 200",
    "W8": _SLOW,
    "W9": "its scheduler's decisions cannot be had without its database",
    "W10": "it reads its DAG files by a timer",
    "W12": f"{_SLOW}, and its workers have no stand-in that answers at once",
    "W13": "it has no counterpart to these commands",
    "W14": f"{_SLOW}: its history would take months to make",
}
_PARSING = 60.0
_PARSING_PER_FILE = 3.0


class Airflow:
    """The newest Airflow with the CeleryExecutor on RabbitMQ and Postgres."""

    name = "airflow"
    size: Size = "small"
    task_parents = frozenset({"worker"})

    def __init__(self) -> None:
        self._programs: Programs | None = None
        self._dags = Path()

    def version(self) -> str:
        """See :class:`bench.contender.Contender`."""
        setup.environment("airflow")
        number = setup.pinned("airflow", "apache-airflow")
        celery = setup.pinned("airflow", "apache-airflow-providers-celery")
        return (
            f"Airflow {number}, CeleryExecutor (provider {celery}), quorum queue, publisher "
            "confirms; idle sleep 0.1 s, no limits but the slots"
        )

    def refuses(self, workload: str) -> str:
        """See :class:`bench.contender.Contender`."""
        return _REFUSED.get(workload, "")

    def start(self, site: Site) -> None:
        """See :class:`bench.contender.Contender`."""
        binaries = setup.environment("airflow") / "bin"
        self._dags = site.folder / "dags"
        self._dags.mkdir()
        server = f"http://127.0.0.1:{free_port()}"
        self._programs = programs = Programs(self.name, site.folder, _environment(site, server))
        airflow = binaries / "airflow"
        programs.run([airflow, "db", "migrate"], _MIGRATION)
        programs.start("api-server", [airflow, "api-server", "--workers", "1"])
        programs.start("scheduler", [airflow, "scheduler"])
        programs.start("dag-processor", [airflow, "dag-processor"])
        # Alone on its machine, and nobody reads its logs over HTTP.
        quiet = ("--skip-serve-logs", "--without-gossip", "--without-mingle")
        programs.start("worker", [airflow, "celery", "worker", *quiet])
        module = "bench.peers.airflow_side.client"
        programs.start("client", [binaries / "python", "-m", module], pipes=True)
        programs.ask({}, _START)
        self._wait_serving(server)
        # Every process of the pool has served a task from then on.
        warm = 2 * site.slots
        graphs = [Graph("warm_shell", none(warm), TRUE), Graph("warm_python", none(warm), fibo(10))]
        self.prepare(graphs)
        self.run([Order(graph.name) for graph in graphs], within=_START)

    def _wait_serving(self, server: str) -> None:
        """A task that finds no API server fails."""
        assert self._programs is not None, "it is started"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        until = time.monotonic() + _START
        while time.monotonic() < until:
            self._programs.check()
            with contextlib.suppress(OSError):
                opener.open(f"{server}/api/v2/monitor/health", timeout=_START).close()
                return
            time.sleep(_PAUSE)
        raise ContenderFailed(f"airflow: expected its API server at {server}, got no answer")

    def prepare(self, graphs: Sequence[Graph]) -> None:
        """See :class:`bench.contender.Contender`."""
        assert self._programs is not None, "start() comes first"
        for graph in graphs:
            # In place at once: the DAG processor must not see half a file.
            half = self._dags / f"{graph.name}.half"
            half.write_text(dag_file(graph), encoding="utf-8")
            half.rename(self._dags / f"{graph.name}.py")
        within = _PARSING + _PARSING_PER_FILE * len(graphs)
        names = [graph.name for graph in graphs]
        self._programs.ask({"do": "prepare", "dags": names, "within": within}, within + _START)

    def run(self, orders: Sequence[Order], *, within: float) -> list[RunTimes]:
        """See :class:`bench.contender.Contender`."""
        assert self._programs is not None, "start() comes first"
        self._programs.check()
        request = {"do": "run", "orders": [asdict(order) for order in orders], "within": within}
        answer = self._programs.ask(request, within + _START)
        return [
            RunTimes(
                run["graph"],
                run["run_id"],
                run["begun"],
                run["ended"],
                tuple(TaskTimes(*times) for times in run["tasks"]),
            )
            for run in answer["runs"]
        ]

    def processes(self) -> Mapping[str, Sequence[int]]:
        """See :class:`bench.contender.Contender`."""
        return self._programs.roots() if self._programs is not None else {}

    def stop(self) -> None:
        """See :class:`bench.contender.Contender`."""
        if self._programs is not None:
            self._programs.stop()
            self._programs = None


def dag_file(graph: Graph) -> str:
    """The DAG file that a user of Airflow would write for *graph*."""
    if graph.work.kind == "shell":
        command = graph.work.shell("AIRFLOW_CTX_DAG_RUN_ID")
        imported = "from airflow.providers.standard.operators.bash import BashOperator"
        operator = f"BashOperator(task_id=f't{{n}}', bash_command={command!r}, do_xcom_push=False)"
        function = ""
    else:
        imported = (
            "from airflow.providers.standard.operators.python import PythonOperator\n"
            "from bench.fibo import fibo"
        )
        operator = "PythonOperator(task_id=f't{n}', python_callable=work, do_xcom_push=False)"
        function = f"def work():\n    fibo({graph.work.n})\n"
    return f"""{imported}
from airflow.sdk import DAG

UPSTREAM = {graph.upstream!r}

{function}
with DAG({graph.name!r}, schedule=None):
    tasks = [{operator} for n in range(len(UPSTREAM))]
    for n, before in enumerate(UPSTREAM):
        for m in before:
            tasks[m] >> tasks[n]
"""


def _environment(site: Site, server: str) -> dict[str, str]:
    """What of Airflow's configuration belongs to one turn; *server* is the API server's URL."""
    sqlalchemy_url = site.database_url.replace("://", "+psycopg2://", 1)
    settings = {
        "CORE__DAGS_FOLDER": str(site.folder / "dags"),
        "CORE__EXECUTION_API_SERVER_URL": f"{server}/execution/",
        "DATABASE__SQL_ALCHEMY_CONN": sqlalchemy_url,
        "API__HOST": "127.0.0.1",
        "API__PORT": server.rpartition(":")[2],
        "API__BASE_URL": server,
        "API__SECRET_KEY": secrets.token_hex(16),
        "API_AUTH__JWT_SECRET": secrets.token_hex(32),
        "CELERY__BROKER_URL": site.broker_url,
        "CELERY__RESULT_BACKEND": f"db+{sqlalchemy_url}",
        "CELERY__WORKER_CONCURRENCY": str(site.slots),
    }
    return {
        "AIRFLOW_HOME": str(site.folder),
        "AIRFLOW_CONFIG": str(_CONFIGURATION),
        "BENCH_DATABASE_URL": site.database_url,
        # Their own proxies, for the API server's address.
        "NO_PROXY": "127.0.0.1",
        **{f"AIRFLOW__{name}": value for name, value in settings.items()},
    }
