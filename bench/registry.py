"""Which workloads, contenders and limits there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from bench.contender import Contender, Sample
from bench.flow_contender import FlowContender
from bench.flow_system import FlowSystem
from bench.turn import Turn
from bench.workloads import chains, core, crowds, history, idle, latency, starts, storms, throughput

Measure = Callable[[Turn], Iterator[Sample]]


@dataclass(frozen=True, slots=True)
class Workload:
    """One line of the issue's table."""

    name: str
    title: str
    measure: Measure
    started: bool = True
    """It is given a contender that runs; else it starts what it needs."""
    alone: bool = False
    """In a turn of its own, on a fresh system."""
    peers: bool = True
    """Whether others than flow may take part."""
    rounds: int | None = None
    """At most so many: it repeats itself within one, or varies little and takes long."""


def _bare(measure: Callable[[Turn, FlowSystem], Iterator[Sample]]) -> Measure:
    """A workload that starts parts of flow by itself."""

    def measured(turn: Turn) -> Iterator[Sample]:
        contender = turn.contender
        assert isinstance(contender, FlowContender), "only flow takes it"
        system = FlowSystem(turn.site, contender.tree)
        try:
            yield from measure(turn, system)
        finally:
            system.close()

    return measured


def _of_flow(name: str, title: str, measure: Measure, rounds: int | None = None) -> Workload:
    return Workload(name, title, measure, started=False, alone=True, peers=False, rounds=rounds)


WORKLOADS: tuple[Workload, ...] = (
    Workload("W1", "Chains", chains.w1),
    Workload("W2", "Chain of tasks that compute", chains.w2),
    Workload("W3", "1,000 tasks in five shapes", throughput.w3),
    Workload("W4", "Fan-out and join", throughput.w4),
    Workload("W5", "Many DAGs and runs", throughput.w5),
    Workload("W6", "Trigger to first instruction, idle", latency.w6),
    Workload("W7", "Trigger to first instruction, under load", latency.w7),
    _of_flow("W8", "A thousand schedules at once", _bare(storms.w8)),
    _of_flow("W9", "Core time per event", core.w9),
    _of_flow("W10", "A thousand DAG files", _bare(storms.w10)),
    Workload("W11", "Idle", idle.w11, alone=True, rounds=3),
    _of_flow("W12", "Many agents, queues and tasks", _bare(crowds.w12), rounds=2),
    _of_flow("W13", "Starts", _bare(starts.w13), rounds=1),
    _of_flow("W14", "A long history", history.w14, rounds=1),
)
LIMITS: tuple[str, ...] = ("pingpong", "batches", "starts", "messages", "drain")
#: Those that take part unless others are asked for.
DEFAULT = ("flow", "celery", "airflow")
#: By name: module, class and arguments. Peers are imported only when they are asked for.
CONTENDERS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "flow": ("bench.flow_contender", "FlowContender", ()),
    "celery": ("bench.peers.celery", "Celery", ()),
    "celery-classic": ("bench.peers.celery", "Celery", ("classic",)),
    "airflow": ("bench.peers.airflow", "Airflow", ()),
}


def workloads(names: Sequence[str]) -> list[Workload]:
    """Those of *names*, in their own order; all, if there are none. Raises KeyError."""
    by_name = {workload.name: workload for workload in WORKLOADS}
    return [by_name[name] for name in names] if names else list(WORKLOADS)


def contender(name: str) -> Contender:
    """A contender that has not been started. ``flow=FOLDER`` is flow from another checkout, shown
    by that name. Raises KeyError for a name, ImportError for a peer, that is not there."""
    kind, _, tree = name.partition("=")
    if kind == "flow" and tree:
        return FlowContender(Path(tree).resolve(), name)
    module, cls, arguments = CONTENDERS[name]
    made: Contender = getattr(import_module(module), cls)(*arguments)
    return made
