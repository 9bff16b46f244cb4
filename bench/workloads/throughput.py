"""W3, W4 and W5: how many tasks per second, in DAGs of different shapes."""

from __future__ import annotations

from collections.abc import Iterator

from bench.contender import INSTANT, TRUE, Graph, Order, RunTimes, Sample
from bench.graphs import FIVE, fan, line
from bench.turn import Metrics, Series, Turn, makespan

_ROUNDS_OF_10_000 = 2


def w3(turn: Turn) -> Iterator[Sample]:
    """1,000 tasks in five shapes: with `true`, and with an agent that answers at once."""
    tasks = turn.size(1000, 20, 50)
    # A slow contender has shown what it can do with these two.
    shapes = FIVE if turn.contender.size == "full" else {n: FIVE[n] for n in ("none", "line")}
    kinds = {"true": TRUE}
    if turn.is_flow:
        kinds["at once"] = INSTANT
    for kind, work in kinds.items():
        graphs = {
            f"{name}, {kind}": Graph(f"w3_{work.kind}_{name.replace(' ', '_')}", shape(tasks), work)
            for name, shape in shapes.items()
        }
        turn.contender.prepare(list(graphs.values()))
        for case, graph in graphs.items():
            yield _rated(turn, "W3", case, [graph], [Order(graph.name)])


def w4(turn: Turn) -> Iterator[Sample]:
    """One task, many side by side, and one that joins them."""
    cases = {"1 -> 1,000 -> 1": turn.size(1000, 20, 50)}
    if turn.is_flow and turn.round < _ROUNDS_OF_10_000:
        cases["1 -> 10,000 -> 1"] = turn.size(10_000, 0, 200)
    for case, width in cases.items():
        graph = Graph(f"w4_{width}", fan(width), TRUE)
        turn.contender.prepare([graph])
        yield _rated(turn, "W4", case, [graph], [Order(graph.name)])


def w5(turn: Turn) -> Iterator[Sample]:
    """100 DAGs, each with 10 runs of a chain of 10, all asked for at once."""
    # A rate: peers need not take as long to show theirs.
    runs = turn.size(10 if turn.is_flow else 2, 2)
    dags, tasks = turn.size(100, 2, 5), turn.size(10, 5)
    graphs = [Graph(f"w5_{number}", line(tasks), TRUE) for number in range(dags)]
    turn.contender.prepare(graphs)
    orders = [Order(graph.name) for _ in range(runs) for graph in graphs]
    yield _rated(turn, "W5", "100 DAGs x 10 runs x 10 tasks", graphs, orders)


def _rated(
    turn: Turn, workload: str, case: str, graphs: list[Graph], orders: list[Order]
) -> Sample:
    by_name = {graph.name: graph for graph in graphs}
    tasks = sum(len(by_name[order.graph]) for order in orders)

    def told(times: list[RunTimes]) -> tuple[Metrics, Series]:
        seconds = makespan(times)
        metrics = {"makespan_s": seconds, "rate_per_s": tasks / seconds}
        if workload == "W4" and times[0].tasks:
            *others, join = times[0].tasks
            metrics["join_ms"] = 1000 * (join.started - max(task.ended for task in others))
        return metrics, {}

    full = turn.contender.size == "full" and not turn.quick
    note = "" if full and (turn.is_flow or workload != "W5") else f"{tasks:,} tasks"
    return turn.run(workload, case, orders, tasks=tasks, within=600, told=told, note=note)
