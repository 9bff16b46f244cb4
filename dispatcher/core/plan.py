"""A DAG version prepared for running: who waits for whom, computed once per version."""

from __future__ import annotations

from collections.abc import Iterator
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
        seen: set[str] = set()
        stack = list(self.downstream[task_id])
        while stack:
            name = stack.pop()
            if name not in seen:
                seen.add(name)
                stack += self.downstream[name]
                yield name
