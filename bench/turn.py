"""A contender's turn: one sample of each workload, with what it cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bench.contender import Contender, Graph, Order, RunTimes, Sample, Site
from bench.counters import Counters
from bench.flow_contender import FlowContender
from bench.services import Services

Metrics = dict[str, float]
Series = dict[str, list[float]]


@dataclass(frozen=True, slots=True)
class Turn:
    """A contender that has been started on a site, in one round of a bench run."""

    contender: Contender
    site: Site
    services: Services
    round: int
    quick: bool = False
    """Sizes that only show whether everything works."""

    @property
    def is_flow(self) -> bool:
        """What only flow can do, or only flow can do in the time."""
        return isinstance(self.contender, FlowContender)

    def counters(self) -> Counters:
        """Those of the contender's processes and database."""
        roots, parents = self.contender.processes(), self.contender.task_parents
        return Counters(self.services, roots, parents)

    def size(self, full: int, small: int, quick: int | None = None) -> int:
        """How much of something, for this contender in this run."""
        if self.quick:
            return min(full, small) if quick is None else quick
        return full if self.contender.size == "full" else small

    def sample(
        self,
        workload: str,
        case: str,
        metrics: Mapping[str, float],
        *,
        series: Mapping[str, Sequence[float]] | None = None,
        note: str = "",
    ) -> Sample:
        """A line of the raw data."""
        size = "small" if self.quick else self.contender.size
        return Sample(
            workload=workload,
            case=case,
            contender=self.contender.name,
            round=self.round,
            metrics=metrics,
            series=series or {},
            size=size,
            note=note,
        )

    def run(
        self,
        workload: str,
        case: str,
        orders: Sequence[Order],
        *,
        tasks: int,
        within: float,
        told: Callable[[list[RunTimes]], tuple[Metrics, Series]],
        note: str = "",
    ) -> Sample:
        """Carry *orders* out, of graphs that are prepared, with the counters around them; *told*
        makes metrics of the times."""
        counters = self.counters()
        counters.begin()
        times = self.contender.run(orders, within=within)
        cost = counters.end(tasks)
        metrics, series = told(times)
        metrics |= cost
        return self.sample(workload, case, metrics, series=series, note=note)


def makespan(times: Sequence[RunTimes]) -> float:
    """Seconds from the first trigger to the last end."""
    return max(run.ended for run in times) - min(run.begun for run in times)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of *values* that *share* of them do not exceed. Raises ValueError for none."""
    if not values:
        raise ValueError("percentile: expected at least one value, got none")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def gaps(run: RunTimes, graph: Graph) -> list[float]:
    """Seconds between the last end of a task's upstream tasks and its start, for each that has
    any."""
    ended = {times.task: times.ended for times in run.tasks}
    return [
        times.started - max(ended[n] for n in graph.upstream[times.task])
        for times in run.tasks
        if graph.upstream[times.task]
    ]
