"""W11: what a system costs that has much to do, but not now."""

from __future__ import annotations

import time
from collections.abc import Iterator

from bench import processes
from bench.contender import TRUE, Graph, Sample
from bench.graphs import none
from bench.turn import Turn

#: Two writes of the leader per ten seconds are allowed: that it leads, and when agents were heard.
_TOUCH_EVERY = 5.0
#: Roles of processes that only the benchmark needs: agents that answer at once, a peer's client.
_HARNESS = frozenset({"mock", "client"})


def w11(turn: Turn) -> Iterator[Sample]:
    """Idle with 1,000 DAGs: memory, CPU and write transactions over a while."""
    dags, seconds = turn.size(1000, 50, 20), float(turn.size(30, 30, 8))
    turn.contender.prepare([Graph(f"w11_{n}", none(1), TRUE) for n in range(dags)])
    time.sleep(5.0 if not turn.quick else 2.0)  # what the reading of the files has left to do
    counters = turn.counters()
    counters.begin()
    time.sleep(seconds)
    # A system's cost per second, in milliseconds of CPU, is a tenth of its share in percent.
    spent = counters.end(1)
    metrics = {
        name.replace("cpu_ms", "cpu_pct"): value / seconds / 10
        for name, value in spent.items()
        if name.endswith("cpu_ms")
    }
    metrics["commits_per_min"] = 60 * spent["commits"] / seconds
    metrics["commits_beyond_leader"] = max(0.0, spent["commits"] - seconds / _TOUCH_EVERY - 1)
    metrics["messages_per_min"] = 60 * spent["messages_received"] / seconds
    memory = processes.memory_mb(turn.contender.processes())
    metrics |= {f"{role}_memory_mb": size for role, size in memory.items()}
    if turn.is_flow:
        metrics["node_memory_mb"] = memory["agent"] + memory["keeper"]
    own = [role for role in memory if role not in _HARNESS]
    metrics["memory_mb"] = sum(metrics[f"{role}_memory_mb"] for role in own)
    metrics["own_cpu_pct"] = sum(metrics[f"{role}_cpu_pct"] for role in own)
    note = "" if turn.contender.size == "full" and not turn.quick else f"{dags} DAGs"
    yield turn.sample("W11", "idle with 1,000 DAGs", metrics, note=note)
