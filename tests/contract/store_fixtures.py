"""Rows and writes for tests of the store, with everything filled in that a test does not name."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from peewee import Database

from dispatcher.core.records import (
    AgentRow,
    AgentState,
    InsertRun,
    MoveRun,
    MoveTask,
    OpenTry,
    RunRow,
    TaskRow,
)
from dispatcher.store import Store
from dispatcher.store.models import Table
from flow.dagspec import DagSpec, TaskSpec
from flow.states import (
    RUN_TRANSITIONS,
    TASK_TRANSITIONS,
    RunEvent,
    RunState,
    TaskEvent,
    TaskState,
)

START = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)


def at(seconds: float) -> datetime:
    """A moment *seconds* after the start of the story."""
    return START + timedelta(seconds=seconds)


def spec(dag_id: str = "etl", command: str = "true", file: str = "etl.py") -> DagSpec:
    """A DAG of one task; another *command* is another version."""
    task = TaskSpec(task_id="extract", operator="bash", arguments={"command": command})
    return DagSpec(dag_id=dag_id, tasks=(task,), file=file)


def run_row(pk: int, version_id: int, **given: Any) -> RunRow:
    """A queued run ``etl/run-<pk>``."""
    values: dict[str, Any] = {
        "id": pk,
        "dag_id": "etl",
        "run_id": f"run-{pk}",
        "version_id": version_id,
        "state": RunState.QUEUED,
        "created_at": START,
    }
    return RunRow(**{**values, **given})


def task_row(pk: int, run_pk: int, **given: Any) -> TaskRow:
    """A task instance ``task-<pk>`` on which nothing has happened."""
    values: dict[str, Any] = {"id": pk, "run_pk": run_pk, "task_id": f"task-{pk}", "queue": "q1"}
    return TaskRow(**{**values, **given})


def agent_row(name: str = "node1", session: int = 1, **given: Any) -> AgentRow:
    """An agent that is online."""
    values: dict[str, Any] = {"state": AgentState.ONLINE, "queues": ("q1", "gpu.a100"), "slots": 4}
    return AgentRow(name=name, session=session, **{**values, **given})


def move_task(
    pk: int,
    event: TaskEvent,
    source: TaskState = TaskState.NONE,
    token_before: int = 0,
    reason: str = "",
    **values: Any,
) -> MoveTask:
    """A transition from the table, by the dispatcher at the start of the story."""
    return MoveTask(
        task_pk=pk,
        event=event,
        source=source,
        target=TASK_TRANSITIONS[source, event],
        token_before=token_before,
        values=values,
        at=START,
        actor="dispatcher",
        reason=reason,
    )


def move_run(pk: int, event: RunEvent, source: RunState, when: datetime = START) -> MoveRun:
    """A transition from the table."""
    return MoveRun(
        run_pk=pk,
        event=event,
        source=source,
        target=RUN_TRANSITIONS[source, event],
        at=when,
        actor="dispatcher",
    )


def open_try(pk: int, try_number: int = 1, token: int = 1000) -> OpenTry:
    """A try on node1, session 1."""
    return OpenTry(
        task_pk=pk, try_number=try_number, token=token, agent="node1", session=1, at=START
    )


def insert_run(pk: int, version_id: int, tasks: Iterable[int] = ()) -> InsertRun:
    """A queued run with a task instance for each key in *tasks*."""
    return InsertRun(run=run_row(pk, version_id), tasks=tuple(task_row(task, pk) for task in tasks))


def reign_with_run(store: Store, tasks: Iterable[int] = (1,)) -> int:
    """A reign with one DAG ``etl`` and its run 1, whose task instances are *tasks*: the epoch."""
    epoch = store.begin_reign("first", START)
    [dag] = store.record_dags(epoch, "etl.py", [spec()], "source", START)
    store.commit(epoch, [insert_run(1, dag.version_id, tasks)])
    return epoch


def rows_of(table: type[Table], database: Database) -> list[dict[str, Any]]:
    """All rows of *table*, oldest first."""
    keys = table.select().order_by(table._meta.primary_key)
    return list(keys.dicts().execute(database))


def state_of(store: Store) -> dict[int, TaskState]:
    """The states of all task instances of unfinished runs."""
    return {task.id: task.state for task in store.load().tasks}
