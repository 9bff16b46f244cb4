"""States of runs and task instances, and the only transitions between them.

The tables are the single source: the dispatcher moves rows by them, and the colours, the diagram
in the docs and the tests are derived from them. A condition (retry or not, poison or not) is
settled *before* the lookup by choosing the event, so the tables hold none.
"""

from __future__ import annotations

from enum import StrEnum


class TaskState(StrEnum):
    """State of one task instance; the names are Airflow's."""

    NONE = "none"
    SCHEDULED = "scheduled"
    QUEUED = "queued"
    RUNNING = "running"
    UP_FOR_RETRY = "up_for_retry"
    SUCCESS = "success"
    FAILED = "failed"
    UPSTREAM_FAILED = "upstream_failed"
    SKIPPED = "skipped"


class TaskEvent(StrEnum):
    """What can happen to a task instance."""

    SCHEDULE = "schedule"  # its trigger rule is fulfilled
    QUEUE = "queue"  # it is to be published; a queued row *is* the outbox
    PUT_BACK = "put_back"  # an agent had no free slot for it
    GRANT = "grant"  # an agent's claim was granted: a token lives
    SUCCEED = "succeed"
    FAIL = "fail"
    RETRY = "retry"  # it failed and has retries left
    RETRY_DUE = "retry_due"  # its retry delay has passed
    RELEASE = "release"  # the agent gave its token back
    LOSE = "lose"  # the agent's session ended with the token alive
    UPSTREAM_FAIL = "upstream_fail"
    SKIP = "skip"  # by its trigger rule, a branch, or its own word
    CANCEL = "cancel"  # its run was cancelled before it ran
    CLEAR = "clear"  # somebody wants it to run again


class RunState(StrEnum):
    """State of a DAG run."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCESS = "success"
    FAILED = "failed"


class RunEvent(StrEnum):
    """What can happen to a DAG run."""

    START = "start"
    SUCCEED = "succeed"
    FAIL = "fail"
    RESTART = "restart"  # some of its tasks were cleared


TASK_TRANSITIONS: dict[tuple[TaskState, TaskEvent], TaskState] = {
    (TaskState.NONE, TaskEvent.SCHEDULE): TaskState.SCHEDULED,
    (TaskState.NONE, TaskEvent.UPSTREAM_FAIL): TaskState.UPSTREAM_FAILED,
    (TaskState.SCHEDULED, TaskEvent.QUEUE): TaskState.QUEUED,
    (TaskState.QUEUED, TaskEvent.PUT_BACK): TaskState.SCHEDULED,
    (TaskState.QUEUED, TaskEvent.GRANT): TaskState.RUNNING,
    (TaskState.RUNNING, TaskEvent.SUCCEED): TaskState.SUCCESS,
    (TaskState.RUNNING, TaskEvent.FAIL): TaskState.FAILED,
    (TaskState.RUNNING, TaskEvent.RETRY): TaskState.UP_FOR_RETRY,
    (TaskState.RUNNING, TaskEvent.RELEASE): TaskState.SCHEDULED,
    (TaskState.RUNNING, TaskEvent.LOSE): TaskState.SCHEDULED,
    (TaskState.RUNNING, TaskEvent.SKIP): TaskState.SKIPPED,
    (TaskState.UP_FOR_RETRY, TaskEvent.RETRY_DUE): TaskState.SCHEDULED,
    (TaskState.NONE, TaskEvent.SKIP): TaskState.SKIPPED,
    (TaskState.NONE, TaskEvent.CANCEL): TaskState.SKIPPED,
    (TaskState.SCHEDULED, TaskEvent.CANCEL): TaskState.SKIPPED,
    (TaskState.QUEUED, TaskEvent.CANCEL): TaskState.SKIPPED,
    (TaskState.UP_FOR_RETRY, TaskEvent.CANCEL): TaskState.SKIPPED,
    (TaskState.SCHEDULED, TaskEvent.CLEAR): TaskState.NONE,
    (TaskState.QUEUED, TaskEvent.CLEAR): TaskState.NONE,
    (TaskState.UP_FOR_RETRY, TaskEvent.CLEAR): TaskState.NONE,
    (TaskState.SUCCESS, TaskEvent.CLEAR): TaskState.NONE,
    (TaskState.FAILED, TaskEvent.CLEAR): TaskState.NONE,
    (TaskState.UPSTREAM_FAILED, TaskEvent.CLEAR): TaskState.NONE,
    (TaskState.SKIPPED, TaskEvent.CLEAR): TaskState.NONE,
}

RUN_TRANSITIONS: dict[tuple[RunState, RunEvent], RunState] = {
    (RunState.QUEUED, RunEvent.START): RunState.RUNNING,
    (RunState.RUNNING, RunEvent.SUCCEED): RunState.SUCCESS,
    (RunState.RUNNING, RunEvent.FAIL): RunState.FAILED,
    (RunState.QUEUED, RunEvent.FAIL): RunState.FAILED,
    (RunState.SUCCESS, RunEvent.RESTART): RunState.QUEUED,
    (RunState.FAILED, RunEvent.RESTART): RunState.QUEUED,
}

#: States that nothing leads out of but a user's wish.
TERMINAL = frozenset(TaskState) - {
    state for state, event in TASK_TRANSITIONS if event is not TaskEvent.CLEAR
}
#: Ended, and not well.
UNSUCCESSFUL = TERMINAL - {TaskState.SUCCESS, TaskState.SKIPPED}
#: On its way through a queue or on a node: what limits count.
ACTIVE = frozenset({TaskState.QUEUED, TaskState.RUNNING})
RUN_TERMINAL = frozenset(RunState) - {
    state for state, event in RUN_TRANSITIONS if event is not RunEvent.RESTART
}
