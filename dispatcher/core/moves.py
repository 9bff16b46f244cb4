"""The only places where a state changes: row and write are made together, by the tables."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from dispatcher.core.records import CloseTry, MoveRun, MoveTask, RunRow, TaskRow, Wish
from dispatcher.core.state import Effects, Instant, State
from flow.states import (
    ACTIVE,
    RUN_TERMINAL,
    RUN_TRANSITIONS,
    TASK_TRANSITIONS,
    TERMINAL,
    RunEvent,
    RunState,
    TaskEvent,
    TaskState,
)

DISPATCHER = "dispatcher"


class IllegalTransition(Exception):
    """A rule asked for a transition the table does not have: a bug in flow."""


def move_task(
    state: State,
    task: TaskRow,
    event: TaskEvent,
    now: Instant,
    out: Effects,
    *,
    actor: str = DISPATCHER,
    reason: str = "",
    **values: Any,
) -> None:
    """Apply *event* to *task* in memory and write it, with the columns in *values*.

    The audit keeps *reason*; the row's own ``reason`` follows it, so that a listing can say why.
    """
    target = TASK_TRANSITIONS.get((task.state, event))
    if target is None:
        raise IllegalTransition(f"task instance {task.id}: {event} in state {task.state}")
    source, token_before = task.state, task.token
    values["reason"] = reason
    if target in TERMINAL:
        values["end_date"] = now.wall
    for name, value in values.items():
        setattr(task, name, value)
    task.state = target
    run = state.run_of(task)
    run.unfinished += (source in TERMINAL) - (target in TERMINAL)
    dag_id = run.row.dag_id
    state.active_tasks[dag_id] += (target in ACTIVE) - (source in ACTIVE)
    if source is TaskState.SCHEDULED:
        state.meant.pop(task.id, None)
    elif source is TaskState.QUEUED:
        state.queue(task.queue).dequeue(task.id)
        state.stirred[task.queue] = None
    out.writes.append(
        MoveTask(
            task_pk=task.id,
            event=event,
            source=source,
            target=target,
            token_before=token_before,
            values=values,
            at=now.wall,
            actor=actor,
            reason=reason,
        )
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a token ended: what its try records. ``started_at`` and ``ended_at`` are the agent's."""

    outcome: str
    actor: str = DISPATCHER
    reason: str = ""
    exit_code: int | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    memory_peak: int | None = None
    cpu_seconds: float | None = None


class Wished(NamedTuple):
    """A wish that was on a token, and whose it is."""

    wish: Wish
    actor: str


def end_token(
    state: State,
    task: TaskRow,
    event: TaskEvent,
    ending: Ending,
    now: Instant,
    out: Effects,
    **values: Any,
) -> Wished:
    """End the live token of a running *task*: its holder's slot is free, its try is closed.

    Returns what was wished of it; the caller fulfils that now.
    """
    wished = Wished(task.wish, task.wish_by)
    if task.wish:
        values |= {"wish": Wish.NONE, "wish_by": ""}
    if task.agent is not None:
        state.agents[task.agent].give_back(task.token)
    out.writes.append(
        CloseTry(
            task_pk=task.id,
            try_number=task.try_number,
            token=task.token,
            outcome=ending.outcome,
            at=now.wall,
            exit_code=ending.exit_code,
            reason=ending.reason,
            started_at=ending.started_at,
            ended_at=ending.ended_at,
            memory_peak=ending.memory_peak,
            cpu_seconds=ending.cpu_seconds,
        )
    )
    move_task(state, task, event, now, out, actor=ending.actor, reason=ending.reason, **values)
    return wished


def move_run(
    state: State, run: RunRow, event: RunEvent, now: Instant, out: Effects, *, reason: str = ""
) -> None:
    """Apply *event* to *run* in memory and write it."""
    target = RUN_TRANSITIONS.get((run.state, event))
    if target is None:
        raise IllegalTransition(f"run {run.id}: {event} in state {run.state}")
    source, run.state = run.state, target
    if target in RUN_TERMINAL:
        run.end_date = now.wall
        state.agenda.run_ended(run.dag_id)
    elif target is RunState.RUNNING:
        run.start_date = now.wall
    else:
        run.start_date = run.end_date = None
        run.cancelled_by = ""
    step = (target is RunState.RUNNING) - (source is RunState.RUNNING)
    state.active_runs[run.dag_id] = state.active_runs.get(run.dag_id, 0) + step
    out.writes.append(
        MoveRun(
            run_pk=run.id,
            event=event,
            source=source,
            target=target,
            at=now.wall,
            actor=DISPATCHER,
            reason=reason,
        )
    )
