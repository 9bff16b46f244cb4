"""Which DAG is due when: what the core remembers of it between two looks at the clock."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from dispatcher.core.records import DagRow, LastScheduled
from flow.errors import DagError
from flow.schedules import Interval, Schedule

#: The clock on the wall may be set: it is looked at again after so many seconds at the latest.
LONGEST_LOOK_AHEAD = 60.0


@dataclass(slots=True)
class Agenda:
    """At most one entry per DAG; a DAG without one is paused, has no schedule, or no room."""

    last: dict[str, LastScheduled] = field(default_factory=dict)
    """Per DAG, active or not: its latest run by schedule. No slot is run twice because of it."""
    unsettled: set[str] = field(default_factory=set)
    """DAGs whose entry must be made anew."""
    problems: list[str] = field(default_factory=list)
    """Schedules that cannot be computed here; for the operator's log."""
    _due: dict[str, datetime] = field(default_factory=dict)
    _heap: list[tuple[datetime, str]] = field(default_factory=list)
    """Entries of before may still be in it: ``_due`` knows."""
    _schedules: dict[int, Schedule | None] = field(default_factory=dict)
    """By DAG version."""
    _looked_at: tuple[datetime, float] | None = None

    @classmethod
    def of(cls, dags: Mapping[str, DagRow], last: Mapping[str, LastScheduled]) -> Agenda:
        """That of a new reign, with everything to be looked at."""
        return cls(last=dict(last), unsettled=set(dags))

    def schedule(self, dag: DagRow) -> Schedule | None:
        """The schedule of the DAG's current version, if it has one that works here."""
        if dag.version_id not in self._schedules:
            schedule = None
            try:
                schedule = Schedule.of(dag.spec)
            except DagError as error:
                self.problems.append(f"{error}; it runs when triggered only")
            self._schedules[dag.version_id] = schedule
        return self._schedules[dag.version_id]

    def next_interval(self, dag: DagRow, now: datetime) -> Interval | None:
        """What the DAG runs next by its schedule, due or not."""
        schedule = self.schedule(dag)
        last = self.last.get(dag.dag_id)
        if schedule is None:
            return None
        return schedule.next(last.interval if last is not None else None, now)

    def enter(self, dag_id: str, due: datetime | None) -> None:
        """Replace the DAG's entry; ``None``: it has none."""
        self._due.pop(dag_id, None)
        if due is not None:
            self._due[dag_id] = due
            heapq.heappush(self._heap, (due, dag_id))

    def run_ended(self, dag_id: str) -> None:
        """A DAG without an entry may have had no room."""
        if dag_id not in self._due:
            self.unsettled.add(dag_id)

    def take_due(self, wall: datetime) -> list[str]:
        """The DAGs that are due, first things first; they lose their entries."""
        found = []
        while self._heap and self._heap[0][0] <= wall:
            due, dag_id = heapq.heappop(self._heap)
            if self._due.get(dag_id) == due:
                del self._due[dag_id]
                found.append(dag_id)
        return found

    def look_at(self, wall: datetime, mono: float) -> None:
        """This moment on the two clocks: what a moment on the wall is on the other."""
        self._looked_at = (wall, mono)

    def wakeup(self) -> float | None:
        """When (mono) to look again; in the past for at once."""
        if self._looked_at is None or not (self._heap or self.unsettled):
            return None
        wall, mono = self._looked_at
        if self.unsettled:
            return float("-inf")
        return mono + min((self._heap[0][0] - wall).total_seconds(), LONGEST_LOOK_AHEAD)
