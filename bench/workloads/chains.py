"""W1 and W2: what one step of a chain costs beyond its own work."""

from __future__ import annotations

import time
from collections.abc import Iterator

from bench.contender import TRUE, Graph, Order, RunTimes, Sample, Work, fibo
from bench.fibo import fibo as compute
from bench.graphs import line
from bench.turn import Metrics, Series, Turn, gaps, makespan

#: W1: (case, work, tasks).
CASES: tuple[tuple[str, Work, int], ...] = (
    ("fibo(10) x 40", fibo(10), 40),
    ("true x 20", TRUE, 20),
)
_REPEATS = 3


def w1(turn: Turn) -> Iterator[Sample]:
    """A chain of tasks that do next to nothing, on a system that is warm and otherwise idle."""
    graphs = {case: Graph(f"w1_{work.kind}", line(tasks), work) for case, work, tasks in CASES}
    turn.contender.prepare(list(graphs.values()))
    for case, graph in graphs.items():

        def told(times: list[RunTimes], graph: Graph = graph) -> tuple[Metrics, Series]:
            seconds = makespan(times)
            between = gaps(times[0], graph)
            series = {"transition_ms": [1000 * gap for gap in between]} if between else {}
            return {"makespan_s": seconds, "step_ms": 1000 * seconds / len(graph)}, series

        for _ in range(turn.size(_REPEATS, 1)):
            order = [Order(graph.name)]
            yield turn.run("W1", case, order, tasks=len(graph), within=180, told=told)


def w2(turn: Turn) -> Iterator[Sample]:
    """A chain of tasks that compute for a while: what is added to their own time.

    The pure time is taken in the same turn, by this interpreter: the same minimum for all."""
    n = 33 if not turn.quick else 20
    graph = Graph("w2", line(10), fibo(n))
    turn.contender.prepare([graph])
    pure = min(_seconds_of(n) for _ in range(3))

    def told(times: list[RunTimes]) -> tuple[Metrics, Series]:
        seconds = makespan(times)
        overhead = 100 * (seconds / (len(graph) * pure) - 1)
        return {"makespan_s": seconds, "pure_s": len(graph) * pure, "overhead_pct": overhead}, {}

    yield turn.run("W2", "fibo(33) x 10", [Order("w2")], tasks=len(graph), within=300, told=told)


def _seconds_of(n: int) -> float:
    begun = time.perf_counter()
    compute(n)
    return time.perf_counter() - begun
