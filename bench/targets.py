"""What the tables show of each workload: its figure, flow's target, and the machine's own limit.

Targets are those of the machine that they were set on (docs/performance.md); a limit comes from the
scripts of bench/limits, in the same run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

#: Medians of the limit scripts' metrics, all names together.
Limits = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of a table."""

    workload: str
    case: str
    metric: str
    unit: str
    target: float | None = None
    higher: bool = False
    """More is better (a rate); else less is."""
    limit: Callable[[Limits], float] | None = None
    """The same figure for the bare machine; raises KeyError where its script has not run."""
    pooled: tuple[str, float] | None = None
    """Not the median over rounds, but this percentile over the single values of a series."""
    worst: bool = False
    """The worst of all rounds is held to the target, not the median."""
    digits: int = 2

    def met(self, value: float) -> bool:
        """Whether *value* meets the target."""
        assert self.target is not None, "there is one"
        return value >= self.target if self.higher else value <= self.target

    def better(self, value: float, than: float) -> bool:
        """Whether *value* beats *than*."""
        return value > than if self.higher else value < than

    def missed_by(self, value: float) -> float:
        """By which factor *value* misses the target; infinite for nothing at all."""
        assert self.target is not None, "there is one"
        good, bad = (self.target, value) if self.higher else (value, self.target)
        return good / bad if bad else float("inf")


_FIVE = ("none", "line", "star", "binary tree", "grid")
_COUNTED = "fibo(10) x 40", "true x 20"


def _w3(shape: str, kind: str, target: float) -> Figure:
    """Of a line nothing can be done in parallel: its limit is that of a chain."""
    bare = {
        ("line", "true"): lambda limits: 1000 / limits["hop_commit_spawn_ms"],
        ("line", "at once"): lambda limits: 1000 / limits["hop_commit_ms"],
    }.get((shape, kind))
    name = "processes_per_s" if kind == "true" else "instant_per_s"
    limit = bare or (lambda limits: limits[name])
    case = f"{shape}, {kind}"
    return Figure("W3", case, "rate_per_s", "tasks/s", target, higher=True, limit=limit, digits=0)


FIGURES: tuple[Figure, ...] = (
    Figure(
        *("W1", _COUNTED[0], "makespan_s", "s", 0.30),
        limit=lambda limits: 40 * limits["hop_commit_fork_ms"] / 1000,
        digits=3,
    ),
    Figure(
        *("W1", _COUNTED[1], "makespan_s", "s", 0.20),
        limit=lambda limits: 20 * limits["hop_commit_spawn_ms"] / 1000,
        digits=3,
    ),
    Figure("W2", "fibo(33) x 10", "overhead_pct", "% on top", 1.5),
    *(_w3(shape, "true", 400) for shape in _FIVE),
    *(_w3(shape, "at once", 2000) for shape in _FIVE),
    Figure(
        *("W4", "1 -> 1,000 -> 1", "makespan_s", "s", 2.5),
        limit=lambda limits: 1002 / limits["processes_per_s"],
    ),
    Figure("W4", "1 -> 1,000 -> 1", "join_ms", "ms to the join", 10, worst=True, digits=1),
    Figure(
        *("W4", "1 -> 10,000 -> 1", "makespan_s", "s"),
        limit=lambda limits: 10_002 / limits["processes_per_s"],
    ),
    Figure("W4", "1 -> 10,000 -> 1", "join_ms", "ms to the join", 10, worst=True, digits=1),
    Figure(
        *("W5", "100 DAGs x 10 runs x 10 tasks", "rate_per_s", "tasks/s", 400),
        higher=True,
        limit=lambda limits: limits["processes_per_s"],
        digits=0,
    ),
    Figure(
        *("W6", "one task every 200 ms", "p50_ms", "ms, p50", 8),
        limit=lambda limits: limits["hop_commit_spawn_ms"],
        pooled=("latency_ms", 0.5),
        digits=1,
    ),
    Figure(
        *("W6", "one task every 200 ms", "p99_ms", "ms, p99", 20),
        pooled=("latency_ms", 0.99),
        digits=1,
    ),
    Figure(
        *("W7", "the same under 200 tasks/s", "p99_ms", "ms, p99", 60),
        pooled=("latency_ms", 0.99),
        digits=1,
    ),
    Figure("W8", "1,000 DAGs due in one second", "late_s", "s, last start", 3.0, worst=True),
    Figure("W8", "1,000 DAGs due in one second", "missed", "missed", 0, worst=True, digits=0),
    Figure("W9", "grid of 20,000 tasks", "event_us", "us of core per event", 50, digits=1),
    Figure("W9", "grid of 20,000 tasks", "growth", "x that of 1,000 tasks", 1.2),
    Figure("W9", "random of 20,000 tasks", "event_us", "us of core per event", 50, digits=1),
    Figure("W9", "random of 20,000 tasks", "growth", "x that of 1,000 tasks", 1.2),
    Figure("W10", "cold parse of 1,000 files", "parse_s", "s", 4.0),
    Figure("W10", "unchanged scan", "scan_cpu_ms", "ms of CPU", 50, digits=1),
    Figure("W10", "one changed", "live_s", "s until live", 1.0, worst=True),
    Figure("W11", "idle with 1,000 DAGs", "dispatcher_memory_mb", "MB, dispatcher", 90, digits=1),
    Figure("W11", "idle with 1,000 DAGs", "node_memory_mb", "MB, agent and keeper", 35, digits=1),
    Figure("W11", "idle with 1,000 DAGs", "memory_mb", "MB in all", digits=1),
    Figure("W11", "idle with 1,000 DAGs", "own_cpu_pct", "% of a core", 0.5),
    Figure(
        *("W11", "idle with 1,000 DAGs", "commits_beyond_leader", "commits beyond the leader's"),
        target=0,
        digits=0,
    ),
    Figure(
        *("W12", "200 agents, 500 queues, 100,000 waiting", "of_alone_pct", "% of the rate alone"),
        target=80,
        higher=True,
        digits=0,
    ),
    Figure("W13", "flow standalone, first task", "start_s", "s", 0.8),
    Figure("W13", "flow-agent, first task", "start_s", "s", 0.5),
    Figure("W13", "flow --help", "start_s", "s", 0.12, digits=3),
    *(
        Figure("W14", case, "slower_pct", "% slower", 20, digits=0)
        for case in (
            "chain of true x 20",
            "500 x true",
            "flow board --once",
            "flow runs list",
            "flow tasks list",
        )
    ),
)

#: CPU time of a contender's roles that have no column: a peer's workers and schedulers.
OTHER = "other_cpu_ms"
#: What a task costs, in the order of the columns: (metric, heading, digits).
COSTS: tuple[tuple[str, str, int], ...] = (
    ("cpu_ms", "CPU ms", 1),
    ("broker_cpu_ms", "broker", 1),
    ("database_cpu_ms", "database", 1),
    ("dispatcher_cpu_ms", "dispatcher", 1),
    ("agent_cpu_ms", "agent", 1),
    ("keeper_cpu_ms", "keeper", 1),
    ("task_cpu_ms", "tasks", 1),
    (OTHER, "others of its own", 1),
    ("messages_received", "messages", 2),
    ("commits", "commits", 2),
    ("broker_syncs", "syncs, broker", 2),
    ("database_syncs", "syncs, database", 2),
    ("contender_syncs", "syncs, own", 2),
    ("wal_bytes", "WAL bytes", 0),
)
