"""A run from its request to its end: which tasks become runnable, and what the run comes to."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

from dispatcher.core import past
from dispatcher.core.moves import move_run, move_task
from dispatcher.core.placing import make_ready, release_held
from dispatcher.core.records import DagRow, InsertRun, LastScheduled, RunRow, RunType, TaskRow
from dispatcher.core.rules import Verdict, judge
from dispatcher.core.state import ActiveRun, Effects, Instant, State, add_run
from flow.schedules import Interval
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
    interval: Interval | None = None,
) -> None:
    """Insert a run of the DAG's current version, in state queued, and start it if it may.

    *interval* is that of a run by schedule; it follows the DAG's last one.
    """
    dag = state.dags[dag_id]
    plan = state.plans[dag.version_id]
    about = interval or _interval_of_manual_run(state, dag, now)
    last = state.agenda.last.get(dag_id) if interval is not None else None
    state.last_run_pk += 1
    row = RunRow(
        id=state.last_run_pk,
        dag_id=dag_id,
        run_id=run_id,
        version_id=dag.version_id,
        bundle=dag.bundle,
        state=RunState.QUEUED,
        conf=conf,
        run_type=RunType.SCHEDULED if interval is not None else RunType.MANUAL,
        logical_date=interval.start if interval is not None else now.wall,
        data_interval_start=about.start,
        data_interval_end=about.end,
        previous_pk=last.run_pk if last is not None else None,
        created_at=now.wall,
    )
    if interval is not None:
        state.agenda.last[dag_id] = LastScheduled(run_pk=row.id, interval=interval)
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


def _interval_of_manual_run(state: State, dag: DagRow, now: Instant) -> Interval:
    schedule = state.agenda.schedule(dag)
    return schedule.manual(now.wall) if schedule is not None else Interval(now.wall, now.wall)


def start_waiting_runs(state: State, dag_id: str, now: Instant, out: Effects) -> None:
    """Start a DAG's queued runs, oldest first, up to its max_active_runs; beyond it where a running
    one waits for its past: otherwise both would wait for ever."""
    waiting = state.waiting_runs.get(dag_id, deque())
    dag = state.dags.get(dag_id)
    while waiting and not (dag is not None and dag.paused):
        wanted = past.wanted_by_a_running_one(state, waiting)
        run = state.runs[waiting[0] if wanted is None else wanted]
        full = state.active_runs.get(dag_id, 0) >= run.plan.spec.max_active_runs
        if full and wanted is None:
            return
        waiting.remove(run.row.id)
        move_run(state, run.row, RunEvent.START, now, out)
        begin_ready(state, run, now, out)
        end_run_if_done(state, run, now, out)


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


def after_end(state: State, task: TaskRow, now: Instant, out: Effects) -> None:
    """A task has ended for good: tell what is below it; end the run when nothing is left."""
    run = state.run_of(task)
    spread(state, run, [task], now, out)
    settle(state, run, now, out)


def spread(state: State, run: ActiveRun, ended: list[TaskRow], now: Instant, out: Effects) -> None:
    """Count each of *ended* below it, and decide what becomes of tasks whose rule that settles."""
    while ended:
        task = ended.pop()
        _let_follow(state, run, task, now, out)
        for name in run.plan.downstream[task.task_id]:
            run.upstream[name].ended(task.state)
            below = run.tasks[name]
            if below.state is TaskState.NONE and _decide(state, run, below, now, out):
                ended.append(below)


def _let_follow(state: State, run: ActiveRun, task: TaskRow, now: Instant, out: Effects) -> None:
    """The same task of the next run may have waited for this one."""
    following = past.follower(state, run)
    if following is None or following.row.state is not RunState.RUNNING:
        return
    same = following.tasks.get(task.task_id)
    if same is not None and same.state is TaskState.NONE:
        _decide(state, following, same, now, out)


def begin_ready(state: State, run: ActiveRun, now: Instant, out: Effects) -> None:
    """Decide about every task of a running run that has not begun."""
    ended = [
        task
        for task in run.tasks.values()
        if task.state is TaskState.NONE and _decide(state, run, task, now, out)
    ]
    spread(state, run, ended, now, out)


def _decide(state: State, run: ActiveRun, task: TaskRow, now: Instant, out: Effects) -> bool:
    """Act on the verdict of the task's trigger rule; whether that has ended it."""
    spec = run.plan.tasks[task.task_id]
    match judge(spec.trigger_rule, run.upstream[task.task_id]):
        case Verdict.RUN if not past.holds_back(state, run, task.task_id):
            schedule(state, task, TaskEvent.SCHEDULE, now, out)
        case Verdict.SKIP:
            reason = f"trigger rule {spec.trigger_rule}"
            move_task(state, task, TaskEvent.SKIP, now, out, reason=reason)
            return True
        case Verdict.UPSTREAM_FAIL:
            failed = next(name for name in spec.upstream if run.tasks[name].state in UNSUCCESSFUL)
            reason = f"upstream task {failed!r} failed"
            move_task(state, task, TaskEvent.UPSTREAM_FAIL, now, out, reason=reason)
            return True
    return False


def skip_below(
    state: State, task: TaskRow, follow: tuple[str, ...] | None, now: Instant, out: Effects
) -> None:
    """Skip what a branch does not *follow* (``None``: everything below), whatever its rule says.

    A direct downstream task that can also be reached over a followed one is left to its rule.
    """
    run = state.run_of(task)
    if follow is None:
        names, why = list(run.plan.all_below(task.task_id)), "stopped"
    else:
        wanted = {name for chosen in follow for name in (chosen, *run.plan.all_below(chosen))}
        names = [name for name in run.plan.downstream[task.task_id] if name not in wanted]
        why = "branched elsewhere"
    reason = f"upstream task {task.task_id!r} {why}"
    ended = [run.tasks[name] for name in names if run.tasks[name].state is TaskState.NONE]
    for below in ended:
        move_task(state, below, TaskEvent.SKIP, now, out, reason=reason)
    spread(state, run, ended, now, out)


def settle(state: State, run: ActiveRun, now: Instant, out: Effects) -> None:
    """What any end of a token may allow: the run's end, held-back tasks of its DAG."""
    release_held(state, run.row.dag_id)
    end_run_if_done(state, run, now, out)


def retry_delay(run: ActiveRun, task: TaskRow) -> timedelta:
    """How long *task* waits before its next try."""
    return timedelta(seconds=run.plan.tasks[task.task_id].retry_delay)


def end_run_if_done(state: State, run: ActiveRun, now: Instant, out: Effects) -> None:
    """End a run of which nothing is left to do.

    As in Airflow its leaves decide: a failure that a task below has dealt with fails no run.
    """
    if run.unfinished > 0:
        return
    leaves = [task for name, task in run.tasks.items() if not run.plan.downstream[name]]
    failed = sorted(task.task_id for task in run.tasks.values() if task.state in UNSUCCESSFUL)
    reason = ""
    if run.row.cancelled_by and any(t.state is not TaskState.SUCCESS for t in leaves):
        reason = f"cancelled by {run.row.cancelled_by}"
    elif any(task.state in UNSUCCESSFUL for task in leaves):
        reason = f"failed: {', '.join(failed[:5])}"
    event = RunEvent.FAIL if reason else RunEvent.SUCCEED
    if run.row.state is RunState.QUEUED:
        state.waiting_runs[run.row.dag_id].remove(run.row.id)
    move_run(state, run.row, event, now, out, reason=reason)
    out.notes.append(f"run {run.row.dag_id}/{run.row.run_id} ended: {run.row.state}")
    for task in run.tasks.values():
        del state.tasks[task.id]
    del state.runs[run.row.id]
    following = past.follower(state, run)
    past.run_ended(state, run)
    if following is not None and following.row.state is RunState.RUNNING:
        begin_ready(state, following, now, out)
    start_waiting_runs(state, run.row.dag_id, now, out)
