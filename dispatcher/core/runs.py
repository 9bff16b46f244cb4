"""A run from its request to its end: which tasks become runnable, and what the run comes to."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

from dispatcher.core.moves import move_run, move_task
from dispatcher.core.placing import make_ready, release_held
from dispatcher.core.records import InsertRun, RunRow, TaskRow
from dispatcher.core.state import ActiveRun, Effects, Instant, State, add_run
from flow.states import UNSUCCESSFUL, RunEvent, RunState, TaskEvent, TaskState


def create_run(
    state: State,
    dag_id: str,
    run_id: str,
    conf: Mapping[str, Any],
    now: Instant,
    out: Effects,
    *,
    actor: str,
) -> None:
    """Insert a run of the DAG's current version, in state queued, and start it if it may."""
    dag = state.dags[dag_id]
    plan = state.plans[dag.version_id]
    state.last_run_pk += 1
    row = RunRow(
        id=state.last_run_pk,
        dag_id=dag_id,
        run_id=run_id,
        version_id=dag.version_id,
        state=RunState.QUEUED,
        conf=conf,
        logical_date=now.wall,
        created_at=now.wall,
    )
    first = state.last_task_pk + 1
    tasks = [
        TaskRow(id=pk, run_pk=row.id, task_id=spec.task_id, queue=spec.queue)
        for pk, spec in enumerate(plan.spec.tasks, first)
    ]
    state.last_task_pk += len(tasks)
    # A copy: the write must not see what later events of the same flush do to the rows.
    out.writes.append(
        InsertRun(run=replace(row), tasks=tuple(replace(task) for task in tasks), actor=actor)
    )
    add_run(state, row, tasks)
    start_waiting_runs(state, dag_id, now, out)


def start_waiting_runs(state: State, dag_id: str, now: Instant, out: Effects) -> None:
    """Start a DAG's queued runs, oldest first, up to its max_active_runs."""
    waiting = state.waiting_runs.get(dag_id, deque())
    dag = state.dags.get(dag_id)
    while waiting and not (dag is not None and dag.paused):
        run = state.runs[waiting[0]]
        if state.active_runs.get(dag_id, 0) >= run.plan.spec.max_active_runs:
            return
        waiting.popleft()
        move_run(state, run.row, RunEvent.START, now, out)
        for task in list(run.tasks.values()):
            if run.waiting[task.task_id] == 0:
                schedule(state, task, TaskEvent.SCHEDULE, now, out)
        _end_run_if_done(state, run, now, out)


def schedule(
    state: State,
    task: TaskRow,
    event: TaskEvent,
    now: Instant,
    out: Effects,
    *,
    actor: str = "dispatcher",
    reason: str = "",
) -> None:
    """Move a task instance to scheduled as its next try, and let it be placed."""
    move_task(
        state,
        task,
        event,
        now,
        out,
        actor=actor,
        reason=reason,
        try_number=task.try_number + 1,
        not_before=None,
    )
    make_ready(state, task)


def after_success(state: State, task: TaskRow, now: Instant, out: Effects) -> None:
    """Schedule what waited for *task* alone; end the run when nothing is left."""
    run = state.run_of(task)
    for name in run.plan.downstream[task.task_id]:
        run.waiting[name] -= 1
        below = run.tasks[name]
        if run.waiting[name] == 0 and below.state is TaskState.NONE:
            schedule(state, below, TaskEvent.SCHEDULE, now, out)
    settle(state, run, now, out)


def after_failure(state: State, task: TaskRow, now: Instant, out: Effects) -> None:
    """Nothing below a failed task can run any more."""
    run = state.run_of(task)
    for name in run.plan.all_below(task.task_id):
        below = run.tasks[name]
        if below.state is TaskState.NONE:
            reason = f"upstream task {task.task_id!r} failed"
            move_task(state, below, TaskEvent.UPSTREAM_FAIL, now, out, reason=reason)
    settle(state, run, now, out)


def settle(state: State, run: ActiveRun, now: Instant, out: Effects) -> None:
    """What any end of a token may allow: the run's end, held-back tasks of its DAG."""
    release_held(state, run.row.dag_id)
    _end_run_if_done(state, run, now, out)


def retry_delay(run: ActiveRun, task: TaskRow) -> timedelta:
    """How long *task* waits before its next try."""
    return timedelta(seconds=run.plan.tasks[task.task_id].retry_delay)


def _end_run_if_done(state: State, run: ActiveRun, now: Instant, out: Effects) -> None:
    if run.unfinished > 0:
        return
    failed = sorted(t.task_id for t in run.tasks.values() if t.state in UNSUCCESSFUL)
    event = RunEvent.FAIL if failed else RunEvent.SUCCEED
    reason = f"failed: {', '.join(failed[:5])}" if failed else ""
    move_run(state, run.row, event, now, out, reason=reason)
    out.notes.append(f"run {run.row.dag_id}/{run.row.run_id} ended: {run.row.state}")
    for task in run.tasks.values():
        del state.tasks[task.id]
    del state.runs[run.row.id]
    start_waiting_runs(state, run.row.dag_id, now, out)
