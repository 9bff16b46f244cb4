"""Celery as a contender: prefork workers, chains, groups and chords.

How it is tuned, and why, is in README.md; the settings are in :mod:`bench.peers.celery_side.app`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from bench.contender import TRUE, Graph, Order, RunTimes, Site, Size, TaskTimes, fibo
from bench.graphs import none
from bench.peers import setup
from bench.peers.programs import Programs

_REFUSED = {
    "W3 instant": "its workers have no stand-in that answers at once",
    "W4 10,000": "its chord asks for all results again and again until the last is there",
    "W8": "it has no DAGs; its beat sends tasks one by one",
    "W9": "it has no DAGs, and decides nothing about a run",
    "W10": "it has no DAG files",
    "W12": "its workers have no stand-in that answers at once",
    "W13": "it has no counterpart to these commands",
    "W14": "it reads no history while it runs",
}
_START = 60.0


class Celery:
    """The newest Celery, with *queue_type* ``quorum`` (as durable as flow: fsynced before the
    confirm) or ``classic`` (what most installations have)."""

    size: Size = "full"
    task_parents = frozenset({"worker"})

    def __init__(self, queue_type: str = "quorum") -> None:
        self.name = "celery" if queue_type == "quorum" else f"celery ({queue_type})"
        self._queue_type = queue_type
        self._programs: Programs | None = None

    def version(self) -> str:
        """See :class:`bench.contender.Contender`."""
        setup.environment("celery")
        number = setup.pinned("celery", "celery")
        return (
            f"Celery {number}: {self._queue_type} queue, acks late, publisher confirms, results in "
            "Postgres; prefork, prefetch 16 per slot"
        )

    def refuses(self, workload: str) -> str:
        """See :class:`bench.contender.Contender`."""
        return _REFUSED.get(workload, "")

    def start(self, site: Site) -> None:
        """See :class:`bench.contender.Contender`."""
        binaries = setup.environment("celery") / "bin"
        self._programs = programs = Programs(
            self.name,
            site.folder,
            {
                "BENCH_BROKER_URL": site.broker_url,
                "BENCH_DATABASE_URL": site.database_url.replace("://", "+psycopg2://", 1),
                "BENCH_QUEUE_TYPE": self._queue_type,
            },
        )
        # Alone on its machine: no gossip with other workers, and no events for monitors.
        quiet = ("--without-gossip", "--without-mingle", "--without-heartbeat")
        app = ("-A", "bench.peers.celery_side.app")
        options = ("-c", str(site.slots), "-l", "WARNING", "-O", "fair", *quiet)
        programs.start("worker", [binaries / "celery", *app, "worker", *options])
        module = "bench.peers.celery_side.client"
        programs.start("client", [binaries / "python", "-m", module], pipes=True)
        programs.ask({}, _START)
        # Every process of the pool has its connection to the database from then on.
        warm = 8 * site.slots
        graphs = [Graph("warm_shell", none(warm), TRUE), Graph("warm_python", none(warm), fibo(10))]
        self.prepare(graphs)
        self.run([Order(graph.name) for graph in graphs], within=_START)

    def prepare(self, graphs: Sequence[Graph]) -> None:
        """See :class:`bench.contender.Contender`."""
        assert self._programs is not None, "start() comes first"
        self._programs.ask({"do": "prepare", "graphs": [asdict(graph) for graph in graphs]}, _START)

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
                max(ended for _, ended in run["tasks"]),
                tuple(TaskTimes(n, *times) for n, times in enumerate(run["tasks"])),
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
