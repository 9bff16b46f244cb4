"""What takes part in a benchmark: flow, or a peer, behind one protocol.

A *round* gives each contender one *turn*: :meth:`Contender.start` on fresh services, one sample of
every workload that it takes, :meth:`Contender.stop`. Rounds repeat, so contenders are interleaved
(A B C A B C) and nobody idles, or burns CPU, while another is measured.

A *workload* turns into graphs, which a contender makes known, and orders to run them. What comes
back are times, read from what the contender itself recorded durably; messages, commits, CPU and
memory are counted from outside, equally for all (:mod:`bench.counters`).

All times are seconds since the Unix epoch by CLOCK_REALTIME of the one machine that everything
runs on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

#: The measured size, and a smaller one for contenders that would need hours for it. The tables say
#: which was used; rates (tasks per second) can still be compared.
Size = Literal["full", "small"]


class ContenderFailed(Exception):
    """A contender did not start, did not finish in time, or a task of it did not succeed. The
    message says what was expected, and has the end of the log that explains it."""


@dataclass(frozen=True, slots=True)
class Work:
    """What each task of a graph does.

    ``shell``
        *command* is run by ``bash -c`` in a process of its own, as the contender's users would run
        a shell command.
    ``python``
        a Python function of the user's, which computes ``fibo(n)`` by the naive recursion (in
        ``bench.fibo``) and returns nothing. Where it runs (pool, fork, fresh interpreter) is the
        contender's default.
    ``instant``
        no work at all: a stand-in for a worker answers at once (flow's mock agent, Airflow's
        MockExecutor). Contenders without one do not take it.
    """

    kind: Literal["shell", "python", "instant"]
    command: str = "true"
    n: int = 0

    def shell(self, run_variable: str) -> str:
        """The bash command of a task, where *run_variable* is the environment variable in which
        the contender tells a task its run's id (``FLOW_RUN_ID``): ``{run}`` stands for it."""
        return self.command.replace("{run}", f"${{{run_variable}}}")


TRUE = Work("shell")
INSTANT = Work("instant")


def fibo(n: int) -> Work:
    """Python tasks that compute fibo(n)."""
    return Work("python", n=n)


def stamp(file: Path) -> Work:
    """The first instruction of the user's command writes ``<run id> <time>`` into *file*. Both are
    bash's own, so that nothing is started for it; one write with O_APPEND is never torn."""
    return Work("shell", f"echo {{run}} $EPOCHREALTIME >>{file}")


@dataclass(frozen=True, slots=True)
class Graph:
    """A DAG: task *n* runs when all tasks in ``upstream[n]`` (lower numbers) have succeeded."""

    name: str
    """Unique in a turn; letters, digits and underscores. A task is called ``t<number>``."""
    upstream: tuple[tuple[int, ...], ...]
    work: Work

    def __len__(self) -> int:
        return len(self.upstream)


@dataclass(frozen=True, slots=True)
class Order:
    """Run a graph once."""

    graph: str
    after: float = 0.0
    """Seconds after the first order of the list; never earlier, and if the contender cannot keep
    up, as soon as it can. 0.0: at once, back to back."""


@dataclass(frozen=True, slots=True)
class TaskTimes:
    """One task of a run, as the contender recorded it."""

    task: int
    started: float
    ended: float
    created: float | None = None
    """When it was handed to broker or queue, where that is recorded."""


@dataclass(frozen=True, slots=True)
class RunTimes:
    """One order, carried out; every task succeeded."""

    graph: str
    run_id: str
    """As the tasks see it in the contender's environment variable."""
    begun: float
    """Read immediately *before* the call that hands the run over (flow: the transaction that
    ``flow dags trigger`` writes, and its message; Celery: ``apply_async``; Airflow: the call that
    makes the DAG run). So it contains the trigger's own commit."""
    ended: float
    """The end of the run, or else of its last task, as the contender recorded it durably (flow and
    Airflow: ``dag_run.end_date``; Celery: the latest ``date_done`` in the result backend).

    Not when the harness noticed it: polling must not cost what is measured."""
    tasks: tuple[TaskTimes, ...] = ()
    """In the order of their numbers; empty if the contender does not record them."""


@dataclass(frozen=True, slots=True)
class Site:
    """What a turn offers a contender: empty services, as tuned for all, and a folder."""

    broker_url: str
    """``amqp://guest:guest@127.0.0.1:PORT/<a virtual host of this turn>``."""
    database_url: str
    """``postgresql://flow@127.0.0.1:PORT/<an empty database of this turn>``; no password."""
    folder: Path
    """Empty, removed after the turn; for homes, logs, DAG files."""
    slots: int
    """Tasks that run at the same time: of all worker processes together."""


class Contender(Protocol):
    """A system under test. One object serves all turns of a bench run: ``start`` after ``stop``
    begins from nothing."""

    name: str
    """In tables: ``flow``, ``celery``, ``airflow``."""
    size: Size
    """Which size of the workloads it gets."""

    def version(self) -> str:
        """Name and version, and how it is tuned, in a few words for the report. Raises
        :class:`ContenderFailed` when it is not installed, with the command that installs it: the
        tables then say so in its place."""
        ...

    def refuses(self, workload: str) -> str:
        """Why it does not take part in workload ``W5`` (one line for the table); empty: it does."""
        ...

    def start(self, site: Site) -> None:
        """Start every process and return when tasks can run, caches warm: at least one shell and
        one Python task have been run to their end. Raises :class:`ContenderFailed`."""
        ...

    def prepare(self, graphs: Sequence[Graph]) -> None:
        """Make *graphs* known, in addition to those before, and return when every one of them can
        be run, with what is warmed per graph (imports of its module, its zygote) warm."""
        ...

    def run(self, orders: Sequence[Order], *, within: float) -> list[RunTimes]:
        """Carry *orders* out and return their times in the same order, when all have ended. No
        limit on active runs or tasks of a graph may be in the way, only the slots.

        Raises :class:`ContenderFailed` when that takes more than *within* seconds, or anything did
        not succeed."""
        ...

    def processes(self) -> Mapping[str, Sequence[int]]:
        """The roots of its process trees by role: ``{"dispatcher": [pid], "agent": [pid]}``. A
        descendant belongs to its nearest root. CPU time of children that were reaped counts as the
        role ``task`` if the root's role is in :attr:`task_parents`, else as the role itself."""
        ...

    @property
    def task_parents(self) -> frozenset[str]:
        """Roles whose reaped descendants are tasks: ``{"agent"}``."""
        ...

    def stop(self) -> None:
        """End everything that was started, whatever state it is in. Safe twice, and before
        ``start``."""
        ...


@dataclass(frozen=True, slots=True)
class Sample:
    """One workload, once, by one contender; a line of the raw data."""

    workload: str
    """``W1``."""
    case: str
    """Which of its cases: ``fibo(10) x 40``."""
    contender: str
    round: int
    metrics: Mapping[str, float]
    """By name, with the unit at its end: ``makespan_s``, ``rate_per_s``, ``dispatcher_cpu_ms``."""
    series: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Single values behind a metric, such as latencies, under its name: percentiles are taken over
    those of all rounds together."""
    size: Size = "full"
    note: str = ""
    """What the reader of the table must know; why there are no metrics."""


def tasks_of(graphs: Sequence[Graph]) -> Iterator[tuple[Graph, int]]:
    """Every task of every graph."""
    return ((graph, number) for graph in graphs for number in range(len(graph)))
