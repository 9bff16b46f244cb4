"""A DAG version prepared for running: who waits for whom, computed once per version."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from flow.dagspec import DagSpec, TaskSpec


@dataclass(frozen=True, slots=True)
class Plan:
    """``downstream`` are the direct successors, so that an event costs O(out-degree)."""

    spec: DagSpec
    tasks: dict[str, TaskSpec]
    downstream: dict[str, tuple[str, ...]]

    @classmethod
    def of(cls, spec: DagSpec) -> Plan:
        """Prepare *spec*, whose upstream names all exist and form no cycle."""
        below: dict[str, list[str]] = {task.task_id: [] for task in spec.tasks}
        for task in spec.tasks:
            for upstream in task.upstream:
                below[upstream].append(task.task_id)
        downstream = {task_id: tuple(names) for task_id, names in below.items()}
        return cls(spec, {task.task_id: task for task in spec.tasks}, downstream)

    def all_below(self, task_id: str) -> Iterator[str]:
        """Every task that depends on *task_id*, directly or not, each once."""
        return _reached(task_id, lambda name: self.downstream[name])

    def all_above(self, task_id: str) -> Iterator[str]:
        """Every task that *task_id* depends on, directly or not, each once."""
        return _reached(task_id, lambda name: self.tasks[name].upstream)


def _reached(start: str, following: Callable[[str], Iterable[str]]) -> Iterator[str]:
    seen: set[str] = set()
    stack = list(following(start))
    while stack:
        name = stack.pop()
        if name not in seen:
            seen.add(name)
            stack += following(name)
            yield name
