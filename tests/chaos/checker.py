"""Reads ledger, rows and audit table after a scenario, and says which invariant does not hold.

I1 every task instance ends as expected, each success with one accepted effect. I2 the copies of a
task instance never overlap. I3 no start without a cause. I4 tokens grow; no write with an old one.
I5 legal transitions only, one end per try. I6 nothing of a task outlives it. I7 one run per slot.
I8 the outbox is empty. (I9, healthy within the bound, is the report's.)
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import NamedTuple

from flow.states import (
    RUN_TERMINAL,
    RUN_TRANSITIONS,
    TASK_TRANSITIONS,
    TERMINAL,
    RunEvent,
    RunState,
    TaskEvent,
    TaskState,
)
from tests.acceptance.ledger import Life, now, overlaps
from tests.chaos.scenario import Outcome
from tests.chaos.servers import Postgres

#: Seconds by which the two clocks that are compared may drift apart while a scenario lasts.
CLOCK_SLACK = 0.02
_TARGETS = {
    ("task", source.value, event.value): target.value
    for (source, event), target in TASK_TRANSITIONS.items()
} | {
    ("run", source.value, event.value): target.value
    for (source, event), target in RUN_TRANSITIONS.items()
}


class Run(NamedTuple):
    """Of table dag_run."""

    pk: int
    dag_id: str
    run_id: str
    state: str
    run_type: str
    logical_date: datetime | None


class Task(NamedTuple):
    """Of table task_instance."""

    pk: int
    run_pk: int
    task_id: str
    state: str
    token: int


class Try(NamedTuple):
    """Of table task_try, in the order of the grants."""

    task_pk: int
    token: int
    opened_at: datetime
    closed_at: datetime | None
    outcome: str | None


class Step(NamedTuple):
    """Of table audit, in order."""

    entity: str
    run_pk: int | None
    task_pk: int | None
    event: str
    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Record:
    """All that was written down."""

    runs: Sequence[Run]
    tasks: Sequence[Task]
    tries: Sequence[Try]
    steps: Sequence[Step]
    lives: Sequence[Life]
    kept_dags: frozenset[str]
    """Those whose tasks keep the ledger."""

    def name(self, task: Task) -> str:
        """``dag/run/task``, for people."""
        run = self.run_of(task)
        return f"{run.dag_id}/{run.run_id}/{task.task_id}"

    def run_of(self, task: Task) -> Run:
        return next(run for run in self.runs if run.pk == task.run_pk)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the record comes to."""

    tasks: int
    starts: int
    lost: int
    twice: int
    reruns: int
    violations: tuple[str, ...]


@dataclass(slots=True)
class _Findings:
    lost: int = 0
    twice: int = 0
    violations: list[str] = field(default_factory=list)


def read(postgres: Postgres, lives: Sequence[Life], kept_dags: Iterable[str]) -> Record:
    """The record of one scenario."""
    return Record(
        runs=[
            Run(*row)
            for row in postgres.query(
                "SELECT id, dag_id, run_id, state, run_type, logical_date FROM dag_run ORDER BY id"
            )
        ],
        tasks=[
            Task(*row)
            for row in postgres.query(
                "SELECT id, run_pk, task_id, state, token FROM task_instance ORDER BY id"
            )
        ],
        tries=[
            Try(*row)
            for row in postgres.query(
                "SELECT task_pk, token, opened_at, closed_at, outcome FROM task_try ORDER BY id"
            )
        ],
        steps=[
            Step(*row)
            for row in postgres.query(
                "SELECT entity, run_pk, task_pk, event, source, target FROM audit ORDER BY id"
            )
        ],
        lives=lives,
        kept_dags=frozenset(kept_dags),
    )


def check(record: Record, outcome: Outcome) -> Verdict:
    """Hold the record against the invariants."""
    found = _Findings()
    _check_ends(record, outcome, found)
    _check_overlaps(record, found)
    reruns = _check_starts(record, outcome, found)
    found.violations += _token_problems(record)
    found.violations += _step_problems(record)
    found.violations += _effect_problems(record, found)
    if outcome.clock_true:
        found.violations += _outliving(record)
    found.violations += _slot_problems(record)
    return Verdict(
        tasks=len(record.tasks),
        starts=len(record.lives),
        lost=found.lost,
        twice=found.twice,
        reruns=reruns,
        violations=tuple(found.violations),
    )


def _check_ends(record: Record, outcome: Outcome, found: _Findings) -> None:
    if not record.tasks:
        found.violations.append("I1: expected task instances, got none")
    for task in record.tasks:
        expected = outcome.endings.get(task.task_id, TaskState.SUCCESS.value)
        if TaskState(task.state) not in TERMINAL:
            found.lost += 1
            found.violations.append(f"I1/I8: {record.name(task)} is {task.state}")
        elif task.state != expected:
            text = f"I1: {record.name(task)}: expected {expected}, got {task.state}"
            found.violations.append(text)
    for run in record.runs:
        if RunState(run.state) not in RUN_TERMINAL:
            found.violations.append(f"I1: run {run.dag_id}/{run.run_id} is {run.state}")


def _check_overlaps(record: Record, found: _Findings) -> None:
    pairs = overlaps(record.lives)
    found.twice += len(pairs)
    for first, second in pairs:
        found.violations.append(
            f"I2: {first.task}: token {second.token} on {second.agent} began "
            f"{first.last - second.first:.3f} s before token {first.token} on {first.agent} ended"
        )


def _check_starts(record: Record, outcome: Outcome, found: _Findings) -> int:
    """The number of starts beyond the first of each task instance."""
    reruns = len(record.lives) - len({life.instance for life in record.lives})
    if reruns > outcome.reruns_allowed:
        again = Counter(life.task for life in record.lives)
        most = ", ".join(f"{task} {count}x" for task, count in again.most_common(5) if count > 1)
        found.violations.append(
            f"I3: expected at most {outcome.reruns_allowed} reruns, got {reruns}: {most}"
        )
    tokens = {attempt.token for attempt in record.tries}
    for life in record.lives:
        if life.token not in tokens:
            found.violations.append(f"I3: {life.task} ran with token {life.token}, never granted")
    return reruns


def _token_problems(record: Record) -> Iterator[str]:
    by_task: dict[int, list[Try]] = {}
    for attempt in record.tries:
        by_task.setdefault(attempt.task_pk, []).append(attempt)
    for task in record.tasks:
        tries = by_task.get(task.pk, [])
        for earlier, later in pairwise(tries):
            if later.token <= earlier.token:
                yield f"I4: {record.name(task)}: token {later.token} after {earlier.token}"
            if earlier.closed_at is None or earlier.closed_at > later.opened_at:
                yield (
                    f"I4: {record.name(task)}: token {later.token} was granted while "
                    f"{earlier.token} was alive"
                )
        if tries and tries[-1].token != task.token:
            yield f"I4: {record.name(task)}: its token is {task.token}, not {tries[-1].token}"
        if tries and tries[-1].closed_at is None and TaskState(task.state) in TERMINAL:
            yield f"I4: {record.name(task)} is {task.state} although its last token is alive"


def _step_problems(record: Record) -> Iterator[str]:
    """I5: the audit lines of each task and run form a path through the tables."""
    state: dict[tuple[str, int], str] = {}
    events = {event.value for event in (*TaskEvent, *RunEvent)}
    for step in record.steps:
        pk = step.task_pk if step.entity == "task" else step.run_pk
        if pk is None:
            continue
        key = (step.entity, pk)
        if step.entity == "run" and step.event == "create":
            state[key] = step.target
        elif step.event in events and step.source:
            before = state.get(key, "none")
            what = f"{step.entity} {pk}: {step.source} -{step.event}-> {step.target}"
            if step.source != before:
                yield f"I5: {what}, but it was {before}"
            if _TARGETS.get((step.entity, step.source, step.event)) != step.target:
                yield f"I5: {what} is not in the table"
            state[key] = step.target
    for task in record.tasks:
        if state.get(("task", task.pk), "none") != task.state:
            yield f"I5: {record.name(task)} is {task.state}, which the audit does not lead to"


def _effect_problems(record: Record, found: _Findings) -> list[str]:
    """I1: a success is that of the copy that holds the token, and it came to its end; a task has
    one success, unless it was cleared after it."""
    ended = {life.token for life in record.lives if life.finished}
    successes = Counter(
        attempt.task_pk for attempt in record.tries if attempt.outcome == TaskState.SUCCESS.value
    )
    cleared = Counter(
        step.task_pk
        for step in record.steps
        if step.event == TaskEvent.CLEAR.value and step.source == TaskState.SUCCESS.value
    )
    problems = []
    for task in record.tasks:
        if task.state != TaskState.SUCCESS.value:
            continue
        if successes[task.pk] != 1 + cleared[task.pk]:
            found.twice += 1
            text = f"I1: {record.name(task)} was accepted {successes[task.pk]} times"
            problems.append(text)
        if record.run_of(task).dag_id in record.kept_dags and task.token not in ended:
            found.lost += 1
            problems.append(f"I1: {record.name(task)} succeeded, but its copy never ended")
    return problems


def _outliving(record: Record) -> Iterator[str]:
    """I6: no sign of life after the end of the token."""
    wall_ahead = time.time() - now()
    closed = {attempt.token: attempt.closed_at for attempt in record.tries}
    for life in record.lives:
        moment = closed.get(life.token)
        if moment is None:
            continue
        late = life.last - (moment.timestamp() - wall_ahead)
        if late > CLOCK_SLACK:
            yield f"I6: {life.task} token {life.token} lived {late:.3f} s longer than its token"


def _slot_problems(record: Record) -> Iterator[str]:
    slots = Counter(
        (run.dag_id, run.logical_date) for run in record.runs if run.run_type == "scheduled"
    )
    for (dag_id, date), count in slots.items():
        if count > 1:
            yield f"I7: {dag_id} has {count} runs for {date}"
