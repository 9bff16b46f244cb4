"""Clear and cancel: what users want of tasks and runs, fulfilled at once where nothing runs.

A live token is never taken away. What runs is asked to stop, again with every heartbeat that lists
it, and the wish is fulfilled when the token ends, in whichever way it does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from dispatcher.core.moves import move_run, move_task
from dispatcher.core.plan import Plan
from dispatcher.core.records import LoadedRun, SetCancelled, SetWish, TaskRow, Wish
from dispatcher.core.runs import begin_ready, end_run_if_done, start_waiting_runs
from dispatcher.core.state import ActiveRun, Agent, Effects, Instant, State, add_run
from flow.states import (
    RUN_TERMINAL,
    TERMINAL,
    UNSUCCESSFUL,
    RunEvent,
    RunState,
    TaskEvent,
    TaskState,
)
from flow.wire import Stop


def cancel_run(state: State, run: ActiveRun, actor: str, now: Instant, out: Effects) -> None:
    """End a run: what has not begun is skipped, what runs is asked to stop."""
    _set_cancelled(run, actor, actor, now, out)
    for task in run.tasks.values():
        if task.state is TaskState.RUNNING:
            _wish(state, task, Wish.CANCEL, actor, now, out)
        elif task.state not in TERMINAL:
            reason = f"cancelled by {actor}"
            move_task(state, task, TaskEvent.CANCEL, now, out, actor=actor, reason=reason)
    end_run_if_done(state, run, now, out)


def clear_tasks(
    state: State, run: ActiveRun, names: Iterable[str], actor: str, now: Instant, out: Effects
) -> None:
    """Have tasks of a run run again, with all their retries, once their rules allow it."""
    if run.row.id not in state.runs:
        state.plans.setdefault(run.row.version_id, run.plan)
        run = add_run(state, run.row, list(run.tasks.values()))
    for name in names:
        task = run.tasks[name]
        if task.state is TaskState.RUNNING:
            _wish(state, task, Wish.CLEAR, actor, now, out)
        elif task.state is not TaskState.NONE:
            _clear(state, task, actor, now, out)
    _go_on(state, run, actor, now, out)


def prepared(loaded: LoadedRun) -> ActiveRun:
    """A run that has ended, for :func:`clear_tasks`; not in memory before that."""
    tasks = {task.task_id: task for task in loaded.tasks}
    return ActiveRun(loaded.run, Plan.of(loaded.spec), tasks, {}, unfinished=0)


def run_again(state: State, task: TaskRow, actor: str, now: Instant, out: Effects) -> None:
    """The token of *task* has ended, and it was to be cleared."""
    _clear(state, task, actor, now, out)
    _go_on(state, state.run_of(task), actor, now, out)


def repeat(state: State, agent: Agent, tokens: Iterable[int], out: Effects) -> None:
    """A heartbeat listed *tokens*: ask again for the end of those that are wished to end, and of
    those that are not the agent's any more (after :func:`sessions.declare_dead`)."""
    for token in tokens:
        task_pk = agent.tokens.get(token)
        if task_pk is None:
            ended = Stop(session=agent.row.session, token=token, reason="its token has ended")
            out.reply(agent, ended)
        elif state.tasks[task_pk].wish:
            _ask(agent, state.tasks[task_pk], out)


def selected(
    run: ActiveRun, task_id: str | None, *, upstream: bool, downstream: bool, failed: bool
) -> list[str]:
    """The tasks that a clear means: one, or all; with what is above or below; only failed ones."""
    plan = run.plan
    names = set(plan.tasks) if task_id is None else {task_id}
    if task_id is not None and downstream:
        names |= set(plan.all_below(task_id))
    if task_id is not None and upstream:
        names |= set(plan.all_above(task_id))
    if failed:
        names = {name for name in names if run.tasks[name].state in UNSUCCESSFUL}
    return [name for name in plan.tasks if name in names]


def _go_on(state: State, run: ActiveRun, actor: str, now: Instant, out: Effects) -> None:
    run.recount()
    if run.row.state in RUN_TERMINAL:
        move_run(state, run.row, RunEvent.RESTART, now, out)
        state.waiting_runs.setdefault(run.row.dag_id, deque()).append(run.row.id)
        start_waiting_runs(state, run.row.dag_id, now, out)
        return
    if run.row.cancelled_by:
        _set_cancelled(run, "", actor, now, out)
    if run.row.state is RunState.RUNNING:
        begin_ready(state, run, now, out)
    end_run_if_done(state, run, now, out)


def _set_cancelled(run: ActiveRun, by: str, actor: str, now: Instant, out: Effects) -> None:
    run.row.cancelled_by = by
    out.writes.append(SetCancelled(run_pk=run.row.id, by=by, actor=actor, at=now.wall))


def _clear(state: State, task: TaskRow, actor: str, now: Instant, out: Effects) -> None:
    move_task(
        state,
        task,
        TaskEvent.CLEAR,
        now,
        out,
        actor=actor,
        failures=0,
        deaths=0,
        releases=0,
        not_before=None,
        start_date=None,
        end_date=None,
    )


def _wish(state: State, task: TaskRow, wish: Wish, actor: str, now: Instant, out: Effects) -> None:
    task.wish, task.wish_by = wish, actor
    out.writes.append(
        SetWish(task_pk=task.id, token=task.token, wish=wish, actor=actor, at=now.wall)
    )
    if task.agent is not None:
        _ask(state.agents[task.agent], task, out)


def _ask(agent: Agent, task: TaskRow, out: Effects) -> None:
    verb = "cancelled" if task.wish is Wish.CANCEL else "cleared"
    reason = f"{verb} by {task.wish_by}"
    out.reply(agent, Stop(session=agent.row.session, token=task.token, reason=reason))
