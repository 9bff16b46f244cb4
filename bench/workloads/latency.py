"""W6 and W7: from a trigger to the first instruction of the user's command."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bench.contender import TRUE, Graph, Order, RunTimes, Sample, stamp
from bench.graphs import none
from bench.turn import Metrics, Series, Turn, percentile

_EVERY = 0.2
#: W7: as many tasks every tenth of a second as make 200 per second.
_BURST, _BURST_EVERY = 20, 0.1


def w6(turn: Turn) -> Iterator[Sample]:
    """An idle system, and one task every 200 ms. 300 of them over five rounds."""
    count = turn.size(60, 8, 10)
    every = _EVERY if turn.contender.size == "full" else 3.0
    file, graph = _ping(turn, "w6")
    turn.contender.prepare([graph])
    orders = [Order(graph.name, n * every) for n in range(count)]
    yield turn.run(
        "W6",
        "one task every 200 ms",
        orders,
        tasks=count,
        within=120,
        told=lambda times: _latencies(times, file),
        note="" if every == _EVERY else f"one every {every:g} s",
    )


def w7(turn: Turn) -> Iterator[Sample]:
    """The same while 200 tasks per second run."""
    count = turn.size(60, 0, 10)
    file, graph = _ping(turn, "w7")
    load = Graph("w7_load", none(_BURST), TRUE)
    turn.contender.prepare([graph, load])
    orders = [Order(graph.name, 1.0 + n * _EVERY) for n in range(count)]
    bursts = int((1.0 + count * _EVERY) / _BURST_EVERY)
    orders += [Order(load.name, n * _BURST_EVERY) for n in range(bursts)]
    orders.sort(key=lambda order: order.after)

    def told(times: list[RunTimes]) -> tuple[Metrics, Series]:
        return _latencies([run for run in times if run.graph == graph.name], file)

    tasks = count + bursts * _BURST
    yield turn.run("W7", "the same under 200 tasks/s", orders, tasks=tasks, within=180, told=told)


def _ping(turn: Turn, name: str) -> tuple[Path, Graph]:
    file = turn.site.folder / f"{name}.stamps"
    return file, Graph(name, none(1), stamp(file))


def _latencies(times: list[RunTimes], file: Path) -> tuple[Metrics, Series]:
    first = dict(line.split() for line in file.read_text().splitlines())
    values = [1000 * (float(first[run.run_id]) - run.begun) for run in times]
    metrics = {"p50_ms": percentile(values, 0.5), "p99_ms": percentile(values, 0.99)}
    return metrics, {"latency_ms": values}
