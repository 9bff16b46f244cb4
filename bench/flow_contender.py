"""flow as a contender: a dispatcher, an agent with the site's slots, and an agent that answers at
once beside it for graphs without work."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from bench import processes
from bench.contender import (
    TRUE,
    ContenderFailed,
    Graph,
    Order,
    RunTimes,
    Site,
    Size,
    TaskTimes,
    Work,
    fibo,
)
from bench.flow_system import ROOT, Daemon, FlowSystem
from dispatcher.store import open_database
from dispatcher.store.reader import Reader
from flow.cli.broker import open_channel
from flow.topology import EVENTS, WAKE_KEY
from flow.wire import Wake, encode

_POLL = 0.02
_MANY = 100_000
_TASKS = {
    "shell": "BashOperator(task_id=f't{{n}}', bash_command={command!r})",
    "instant": "BashOperator(task_id=f't{{n}}', bash_command='true', queue='instant')",
    "python": "task(task_id=f't{{n}}')(compute)()",
}
_DAG = """
from flow import DAG, BashOperator, task

def fibo(n):
    return n if n < 2 else fibo(n - 1) + fibo(n - 2)

def compute():
    fibo({n})

def warm():
    fibo(1)

UPSTREAM = {upstream!r}

with DAG({name!r}, max_active_runs={many}, max_active_tasks={many}):
    tasks = [{task} for n in range(len(UPSTREAM))]
    for n, before in enumerate(UPSTREAM):
        for m in before:
            tasks[m] >> tasks[n]
"""
_WARM = """
with DAG({name!r}):
    for n in range({slots}):
        {task}
"""
_TIMES = """
SELECT r.run_id, r.dag_id, r.state, extract(epoch FROM r.end_date)::float8
FROM dag_run r WHERE r.run_id = ANY(%s)
"""
_TASK_TIMES = """
SELECT r.run_id, t.task_id, extract(epoch FROM t.queued_at)::float8,
       extract(epoch FROM y.started_at)::float8, extract(epoch FROM y.ended_at)::float8
FROM task_instance t JOIN dag_run r ON r.id = t.run_pk
     JOIN task_try y ON y.task_pk = t.id AND y.try_number = t.try_number
WHERE r.run_id = ANY(%s)
"""


def dag_file(graph: Graph, slots: int) -> str:
    """The DAG file of *graph*, as a user would write it; that of a Python graph has a second DAG,
    ``<name>_warm``, with *slots* tasks like those of the first."""
    work: Work = graph.work
    task = _TASKS[work.kind].format(command=work.shell("FLOW_RUN_ID"))
    text = _DAG.format(n=work.n, upstream=graph.upstream, name=graph.name, many=_MANY, task=task)
    if work.kind != "python":
        return text
    small = task.replace("(compute)", "(warm)")
    return text + _WARM.format(name=f"{graph.name}_warm", slots=slots, task=small)


class Trigger:
    """Asks for runs as ``flow dags trigger`` does: a row in the database, then a bell. Not to be
    kept for minutes: nobody answers the broker's heartbeats."""

    def __init__(self, database_url: str, broker_url: str) -> None:
        self._database = open_database(database_url)
        self._database.connect()
        self._reader = Reader(self._database)
        self._stack = contextlib.ExitStack()
        self._channel = self._stack.enter_context(open_channel(broker_url))

    def __call__(self, dag_id: str) -> tuple[str, float]:
        """The id of the run, and the moment before it was asked for."""
        run_id = f"manual__{secrets.token_hex(8)}"
        request = {"dag_id": dag_id, "run_id": run_id, "conf": {}}
        begun = time.time()
        self._reader.request("trigger", request, actor="bench", at=datetime.now(UTC))
        self._channel.basic_publish(EVENTS, WAKE_KEY, encode(Wake()))
        return run_id, begun

    def close(self) -> None:
        """Close both connections."""
        self._stack.close()
        self._database.close()


class FlowContender:
    """flow, from *tree*: this checkout, or another one to compare it with."""

    size: Size = "full"

    def __init__(self, tree: Path = ROOT, name: str = "flow") -> None:
        self.name = name
        self.tree = tree
        self.system: FlowSystem | None = None
        self._roots: dict[str, list[int]] = {}

    @property
    def task_parents(self) -> frozenset[str]:
        """The keeper's children are the tasks."""
        return frozenset({"keeper"})

    def version(self) -> str:
        """Defaults throughout."""
        where = "" if self.tree == ROOT else f" of {self.tree}"
        return f"flow {metadata.version('flow-dispatch')}{where}, default settings"

    def refuses(self, workload: str) -> str:  # noqa: ARG002 - it takes all
        """Nothing."""
        return ""

    def start(self, site: Site) -> None:
        """A dispatcher, a real agent on queue ``default``, a mock on queue ``instant``; warm."""
        self.system = system = FlowSystem(site, tree=self.tree)
        system.flow("db", "migrate")
        dispatcher = system.start_dispatcher()
        agent = system.start_agent("node1", site.slots, "default")
        mock = system.start_mocks("mock", "--slots", "16", "--agent", "instant")
        self._roots = {
            "dispatcher": [dispatcher.pid],
            "agent": [agent.pid],
            "keeper": [_keeper_of(agent)],
            "mock": [mock.pid],
        }
        warm = [
            Graph("warm_shell", ((),) * site.slots, TRUE),
            Graph("warm_python", ((),) * site.slots, fibo(10)),
        ]
        self.prepare(warm)
        self.run([Order(graph.name) for graph in warm], within=60)

    def prepare(self, graphs: Sequence[Graph]) -> None:
        """One file per graph. What the agent keeps warm of a file and its bundle, a small DAG in
        the same file warms."""
        system = self._started()
        for graph in graphs:
            system.write_dag(graph.name, dag_file(graph, system.site.slots))
        system.wait_known([graph.name for graph in graphs])
        warm = [Order(f"{graph.name}_warm") for graph in graphs if graph.work.kind == "python"]
        if warm:
            self.run(warm, within=60)

    def run(self, orders: Sequence[Order], *, within: float) -> list[RunTimes]:
        """Trigger each in time, and wait until all have ended."""
        site = self._started().site
        begun: dict[str, tuple[str, float]] = {}
        with contextlib.closing(Trigger(site.database_url, site.broker_url)) as trigger:
            zero = time.monotonic()
            for order in orders:
                time.sleep(max(0.0, zero + order.after - time.monotonic()))
                run_id, at = trigger(order.graph)
                begun[run_id] = order.graph, at
        self._wait_ended(list(begun), within=zero + within - time.monotonic())
        return list(self._times(begun))

    def processes(self) -> Mapping[str, Sequence[int]]:
        """Of this turn."""
        return self._roots

    def stop(self) -> None:
        """Kill all of it."""
        if self.system is not None:
            self.system.close()
            self.system = None

    # -- inside --------------------------------------------------------------------------------

    def _started(self) -> FlowSystem:
        assert self.system is not None, "start() comes first"
        return self.system

    def _wait_ended(self, run_ids: list[str], within: float) -> None:
        system = self._started()
        unfinished = "SELECT count(*) FROM dag_run WHERE run_id = ANY(%s) AND end_date IS NOT NULL"
        system.wait(
            lambda: system.query(unfinished, run_ids)[0][0] == len(run_ids),
            f"{len(run_ids)} runs to end",
            within=within,
            every=_POLL,
        )

    def _times(self, begun: Mapping[str, tuple[str, float]]) -> Iterator[RunTimes]:
        system = self._started()
        tasks: dict[str, list[TaskTimes]] = {run_id: [] for run_id in begun}
        for run_id, task_id, queued, started, ended in system.query(_TASK_TIMES, list(begun)):
            times = TaskTimes(int(task_id[1:]), started, ended, queued)
            tasks[run_id].append(times)
        rows = {row[0]: row for row in system.query(_TIMES, list(begun))}
        for run_id, (graph, at) in begun.items():
            _, _, state, ended = rows[run_id]
            if state != "success":
                raise ContenderFailed(f"run {graph}/{run_id}: expected success, got {state}")
            ordered = tuple(sorted(tasks[run_id], key=lambda times: times.task))
            yield RunTimes(graph, run_id, at, ended, ordered)


def _keeper_of(agent: Daemon) -> int:
    """The process that starts the agent's tasks: its only child. Raises ContenderFailed."""
    everything = processes.everything()
    children = [process.pid for process in everything.values() if process.parent == agent.pid]
    if len(children) != 1:
        raise ContenderFailed(f"agent: expected one child, its keeper, got {len(children)}")
    return children[0]
