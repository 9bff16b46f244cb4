"""``depends_on_past``: a task that waits for itself in the run before.

Runs by schedule are linked, each to the one before it. Of a run that has ended and has left memory,
the tasks that did not succeed are remembered for as long as the next one may ask.
"""

from __future__ import annotations

from collections.abc import Iterable

from dispatcher.core.records import RunType
from dispatcher.core.state import ActiveRun, State
from flow.states import RunState, TaskState

#: Ends that let the same task of the next run begin.
GOOD_ENDS = frozenset({TaskState.SUCCESS, TaskState.SKIPPED})


def holds_back(state: State, run: ActiveRun, task_id: str) -> bool:
    """Whether a task must wait for the same task of the previous run. A run that somebody
    triggered follows none."""
    previous_pk = run.row.previous_pk
    if previous_pk is None or not run.plan.tasks[task_id].depends_on_past:
        return False
    previous = state.runs.get(previous_pk)
    if previous is None:
        return task_id in state.past.get(previous_pk, frozenset())
    same = previous.tasks.get(task_id)
    return same is not None and same.state not in GOOD_ENDS


def follower(state: State, run: ActiveRun) -> ActiveRun | None:
    """The unfinished run that follows *run* by schedule."""
    return state.runs.get(state.followers.get(run.row.id, 0))


def wanted_by_a_running_one(state: State, waiting: Iterable[int]) -> int | None:
    """The first of the queued runs *waiting*, cleared ones mostly, that holds a task of a running
    one back."""
    for run_pk in waiting:
        following = follower(state, state.runs[run_pk])
        if following is not None and following.row.state is RunState.RUNNING:
            tasks = following.tasks.values()
            idle = [task.task_id for task in tasks if task.state is TaskState.NONE]
            if any(holds_back(state, following, name) for name in idle):
                return run_pk
    return None


def run_ended(state: State, run: ActiveRun) -> None:
    """*run* has left memory: keep of it what the next one may ask for."""
    row = run.row
    if row.previous_pk is not None:
        state.past.pop(row.previous_pk, None)
        state.followers.pop(row.previous_pk, None)
    last = state.agenda.last.get(row.dag_id)
    will_follow = row.id in state.followers or (last is not None and last.run_pk == row.id)
    bad = frozenset(task.task_id for task in run.tasks.values() if task.state not in GOOD_ENDS)
    if row.run_type is RunType.SCHEDULED and will_follow and bad:
        state.past[row.id] = bad
    else:
        state.past.pop(row.id, None)
