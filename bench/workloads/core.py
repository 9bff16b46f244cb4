"""W9: what the dispatcher's core needs for one event, whatever the size of the DAG. No services."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from bench.contender import Sample
from bench.graphs import Shape, grid, scattered
from bench.turn import Turn
from dispatcher.core.core import Core, Effects, Instant, Rules
from dispatcher.core.records import DagRow, Intent, Snapshot
from flow import wire
from flow.dagspec import DagSpec, TaskSpec

_SLOTS = 8
_START = datetime(2026, 1, 1, tzinfo=UTC)
_SIZES = (1000, 2000, 5000, 10_000, 20_000)
_SHAPES = {"grid": grid, "random": scattered}


class CoreRun:
    """One run of a DAG through a core, with an agent whose tasks end at once, no broker and no
    database. Only the time in the core is counted."""

    def __init__(self, shape: Shape) -> None:
        arguments: dict[str, Any] = {"command": "true", "env": {}, "cwd": None}
        tasks = tuple(
            TaskSpec(
                task_id=f"t{n}",
                operator="bash",
                arguments=arguments,
                upstream=tuple(f"t{m}" for m in before),
            )
            for n, before in enumerate(shape)
        )
        spec = DagSpec(dag_id="dag", tasks=tasks, max_active_tasks=len(shape))
        row = DagRow(dag_id="dag", version_id=1, spec=spec)
        snapshot = Snapshot(dags=(row,), versions={1: spec})
        self.now = Instant(_START, 1000.0)
        self.core = Core(snapshot, reign=1, rules=Rules(), now=self.now)
        self.bells: deque[wire.Task] = deque()
        self.replies: deque[wire.Reply] = deque()
        self.events = 0
        self.ended = 0
        self.seconds = 0.0

    def run(self) -> None:
        """From the trigger to the end of the last task."""
        self._take(self.core.begin(self.now))
        self._say(
            wire.Hello(
                agent="node1",
                session=1,
                home_id="home",
                boot_id="boot",
                incarnation="process",
                queues=("default",),
                slots=_SLOTS,
                lease=60.0,
                terms=wire.Terms(),
            )
        )
        request = {"dag_id": "dag", "run_id": "run", "conf": {}}
        intent = Intent(id=1, kind="trigger", arguments=request, created_at=_START)
        self._take(self.core.request([intent], self.now))
        self.events, self.seconds = 0, 0.0
        while self.bells:
            self._claim(self.bells.popleft())
            while self.replies:
                self._answer(self.replies.popleft())

    def _claim(self, task: wire.Task) -> None:
        self._say(
            wire.Claim(
                agent="node1",
                session=1,
                incarnation="process",
                task_instance_id=task.task_instance_id,
                try_number=task.try_number,
                queue=task.queue,
                free_slots=_SLOTS,
            )
        )

    def _answer(self, reply: wire.Reply) -> None:
        if isinstance(reply, wire.Offer):
            self._claim(reply.task)
        elif isinstance(reply, wire.Grant):
            self.ended += 1
            self._say(
                wire.Finished(
                    agent="node1",
                    session=1,
                    incarnation="process",
                    task_instance_id=reply.task_instance_id,
                    try_number=reply.try_number,
                    token=reply.token,
                    state="success",
                    exit_code=0,
                    started_at=0.0,
                    ended_at=0.0,
                )
            )

    def _say(self, message: wire.Message) -> None:
        begun = time.thread_time()
        effects = self.core.receive(message, self.now)
        self.seconds += time.thread_time() - begun
        self.events += 1
        self._take(effects)

    def _take(self, effects: Effects) -> None:
        self.bells += effects.publications
        self.replies += [reply for _, reply in effects.replies]


def per_event(shape: Shape) -> float:
    """Microseconds of CPU per event. Raises AssertionError unless every task has run."""
    run = CoreRun(shape)
    run.run()
    assert run.ended == len(shape), f"expected {len(shape)} tasks to run, got {run.ended}"
    spent: float = 1e6 * run.seconds / run.events
    return spent


def w9(turn: Turn) -> Iterator[Sample]:
    """DAGs of 1,000 to 20,000 tasks."""
    sizes = [turn.size(full, full // 20) for full in _SIZES]
    for name, shape in _SHAPES.items():
        spent = [per_event(shape(size)) for size in sizes]
        metrics = {"event_us": spent[-1], "event_us_of_1000": spent[0]}
        metrics["growth"] = spent[-1] / spent[0]
        series = {"tasks": [float(size) for size in sizes], "event_us": spent}
        yield turn.sample("W9", f"{name} of 20,000 tasks", metrics, series=series)
