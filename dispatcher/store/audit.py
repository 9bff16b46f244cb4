"""The append-only record of every transition: when, who, what, from, to, why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from peewee import Database, SqliteDatabase

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
from dispatcher.store import bulk
from dispatcher.store.models import Audit
from dispatcher.store.rows import Raw, chunks

#: What a line is made of. Of a run or a task instance it has the key alone; their names are looked
#: up where the line is written.
_TOLD = (
    Audit.at,
    Audit.actor,
    Audit.entity,
    Audit.event,
    Audit.source,
    Audit.target,
    Audit.reason,
    Audit.dag_id,
    Audit.agent,
    Audit.run_pk,
    Audit.task_pk,
)
_INSERT = """
    INSERT INTO audit (at, actor, entity, event, source, target, reason, dag_id, agent, run_pk,
        task_pk, run_id, task_id, map_index)
    SELECT {told}, COALESCE(r.dag_id, {dag}), {agent}, r.id, t.id, r.run_id, t.task_id, t.map_index
    FROM {source} LEFT JOIN task_instance t ON t.id = {task}
    LEFT JOIN dag_run r ON r.id = COALESCE(t.run_pk, {run}) ORDER BY {order}
"""


def write_audit(database: Database, writes: Sequence[Write]) -> None:
    """Add a line for each of *writes* that is a transition, in their order."""
    add_lines(database, (_line(write) for write in writes if isinstance(write, _TRANSITIONS)))


def dag_line(at: datetime, actor: str, dag_id: str, event: str, *, source: str, target: str) -> Raw:
    """A line about a DAG."""
    return (at, actor, "dag", event, source, target, "", dag_id, None, None, None)


def add_lines(database: Database, lines: Iterable[Raw]) -> None:
    """Append *lines*."""
    rows = list(lines)
    if isinstance(database, SqliteDatabase):
        names = {"dag": "a.c7", "agent": "a.c8", "run": "a.c9", "task": "a.c10", "order": "1"}
        told = ", ".join(f"a.c{number}" for number in range(7))
        marks = ", ".join(f"? AS c{number}" for number in range(len(_TOLD)))
        statement = _INSERT.format(told=told, source=f"(SELECT {marks}) a", **names)
        bulk.repeat(database, statement, _TOLD, rows)
        return
    for chunk in chunks(rows):
        source = bulk.Source(_TOLD, chunk)
        dag, agent, run, task = source.columns[7:]
        names = {"dag": dag, "agent": agent, "run": run, "task": task, "order": "v.n"}
        told = ", ".join(source.columns[:7])
        bulk.execute(database, _INSERT.format(told=told, source=source, **names), source)


def _line(write: Write) -> Raw:
    match write:
        case MoveTask():
            return (*_transition("task", write), "", None, None, write.task_pk)
        case MoveRun():
            return (*_transition("run", write), "", None, write.run_pk, None)
        case InsertRun(run=run):
            created = (run.created_at, write.actor, "run", "create", "", run.state.value, "")
            return (*created, "", None, run.id, None)
        case SetWish():
            asked = (write.at, write.actor, "task", f"ask to {write.wish}", "running", "running")
            return (*asked, "", "", None, None, write.task_pk)
        case TakeBackDeath():
            was = write.state.value
            told = (write.at, "dispatcher", "task", "take back a death", was, was, write.reason)
            return (*told, "", None, None, write.task_pk)
        case SetCancelled():
            event = "cancel" if write.by else "go on"
            return (write.at, write.actor, "run", event, "", "", "", "", None, write.run_pk, None)
        case ToldAgent():
            wanted = (write.at, write.actor, "agent", write.event, "", "", write.reason)
            return (*wanted, "", write.agent, None, None)
        case SetPaused():
            states = ("unpaused", "paused")
            event = "pause" if write.paused else "unpause"
            source, target = states if write.paused else reversed(states)
            return dag_line(
                write.at, write.actor, write.dag_id, event, source=source, target=target
            )
    raise AssertionError(f"no transition: {write!r}")


_TRANSITIONS = (
    *(MoveTask, MoveRun, InsertRun, SetWish, TakeBackDeath, SetCancelled, ToldAgent, SetPaused),
)


def _transition(entity: str, move: MoveTask | MoveRun) -> Raw:
    source, target = move.source.value, move.target.value
    return (move.at, move.actor, entity, move.event.value, source, target, move.reason)
