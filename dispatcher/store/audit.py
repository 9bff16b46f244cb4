"""The append-only record of every transition: when, who, what, from, to, why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

from peewee import Database

from dispatcher.core.records import (
    InsertRun,
    MoveRun,
    MoveTask,
    SetCancelled,
    SetPaused,
    SetWish,
    TakeBackDeath,
    ToldAgent,
    Write,
)
from dispatcher.store.models import Audit, DagRun, TaskInstance
from dispatcher.store.rows import Raw, chunks, fetch

_COLUMNS = (
    Audit.at,
    Audit.actor,
    Audit.entity,
    Audit.event,
    Audit.source,
    Audit.target,
    Audit.reason,
    Audit.dag_id,
    Audit.run_id,
    Audit.run_pk,
    Audit.task_id,
    Audit.map_index,
    Audit.task_pk,
    Audit.agent,
)


def write_audit(database: Database, writes: Sequence[Write]) -> None:
    """Add a line for each of *writes* that is a transition, in their order."""
    task_names = _task_names(
        database, {x.task_pk for x in writes if isinstance(x, MoveTask | SetWish | TakeBackDeath)}
    )
    run_names = _run_names(
        database, {x.run_pk for x in writes if isinstance(x, MoveRun | SetCancelled)}
    )
    add_lines(database, _lines(writes, task_names, run_names))


def dag_line(at: datetime, actor: str, dag_id: str, event: str, *, source: str, target: str) -> Raw:
    """A line about a DAG."""
    told = (at, actor, "dag", event, source, target, "")
    return (*told, dag_id, None, None, None, None, None, None)


def add_lines(database: Database, lines: Iterable[Raw]) -> None:
    """Append *lines*."""
    for chunk in chunks(tuple(lines)):
        Audit.insert_many(chunk, _COLUMNS).as_rowcount().execute(database)


def _lines(
    writes: Iterable[Write], task_names: dict[int, Raw], run_names: dict[int, Raw]
) -> Iterator[Raw]:
    for write in writes:
        if isinstance(write, MoveTask):
            yield (*_transition("task", write), *task_names[write.task_pk], None)
        elif isinstance(write, InsertRun):
            run = write.run
            created = (run.created_at, write.actor, "run", "create", "", run.state.value, "")
            yield (*created, run.dag_id, run.run_id, run.id, None, None, None, None)
        elif isinstance(write, MoveRun):
            yield (*_transition("run", write), *run_names[write.run_pk], None, None, None, None)
        elif isinstance(write, SetWish):
            asked = (
                write.at,
                write.actor,
                "task",
                f"ask to {write.wish}",
                "running",
                "running",
                "",
            )
            yield (*asked, *task_names[write.task_pk], None)
        elif isinstance(write, TakeBackDeath):
            was = write.state.value
            told = (write.at, "dispatcher", "task", "take back a death", was, was, write.reason)
            yield (*told, *task_names[write.task_pk], None)
        elif isinstance(write, SetCancelled):
            event = "cancel" if write.by else "go on"
            told = (write.at, write.actor, "run", event, "", "", "")
            yield (*told, *run_names[write.run_pk], None, None, None, None)
        elif isinstance(write, ToldAgent):
            wanted = (write.at, write.actor, "agent", write.event, "", "", write.reason)
            yield (*wanted, "", None, None, None, None, None, write.agent)
        elif isinstance(write, SetPaused):
            states = ("unpaused", "paused")
            event = "pause" if write.paused else "unpause"
            source, target = states if write.paused else reversed(states)
            yield dag_line(write.at, write.actor, write.dag_id, event, source=source, target=target)


def _transition(entity: str, move: MoveTask | MoveRun) -> Raw:
    source, target = move.source.value, move.target.value
    return (move.at, move.actor, entity, move.event.value, source, target, move.reason)


def _task_names(database: Database, keys: set[int]) -> dict[int, Raw]:
    names: dict[int, Raw] = {}
    chosen = (DagRun.dag_id, DagRun.run_id, DagRun.id, TaskInstance.task_id, TaskInstance.map_index)
    query: Any = TaskInstance.select(*chosen, TaskInstance.id).join(DagRun)
    for chunk in chunks(sorted(keys)):
        for raw in fetch(database, query.where(TaskInstance.id.in_(chunk))):
            names[raw[-1]] = raw
    return names


def _run_names(database: Database, keys: set[int]) -> dict[int, Raw]:
    names: dict[int, Raw] = {}
    query: Any = DagRun.select(DagRun.dag_id, DagRun.run_id, DagRun.id)
    for chunk in chunks(sorted(keys)):
        for raw in fetch(database, query.where(DagRun.id.in_(chunk))):
            names[raw[-1]] = raw
    return names
