"""Applying the writes of one flush.

They are done kind by kind and in bulk instead of one by one. Nobody can see the difference: all of
them appear at once or not at all, and those of different kinds touch different columns, except
that a run is there before it moves and a try is opened before it is closed. Two moves of one task
keep their order, and the audit has the order of the writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from peewee import Case, Database, SqliteDatabase

from dispatcher.core.records import (
    CloseIntent,
    CloseTry,
    EndSession,
    InsertRun,
    MoveRun,
    MoveTask,
    OpenTry,
    RunRow,
    SaveAgent,
    SaveXcoms,
    SetCancelled,
    SetPaused,
    SetWish,
    TakeBackDeath,
    TaskRow,
    TouchAgents,
    TouchLeader,
    Write,
)
from dispatcher.store import bulk
from dispatcher.store.audit import write_audit
from dispatcher.store.fields import UtcField
from dispatcher.store.models import (
    Agent,
    AgentSession,
    Dag,
    DagRun,
    Intent,
    Leader,
    TaskInstance,
)
from dispatcher.store.moves import AGAIN, close_tries, move_runs, move_tasks, open_tries
from dispatcher.store.rows import columns, values
from dispatcher.store.values import save_xcoms
from flow.errors import GuardFailed

Kind = TypeVar("Kind")


def apply(database: Database, writes: Sequence[Write]) -> None:
    """Apply *writes* in the transaction that the caller holds.

    Raises :class:`GuardFailed`; the caller then rolls back.
    """
    _insert_runs(database, _only(InsertRun, writes))
    move_runs(database, (x for x in writes if isinstance(x, MoveRun | SetCancelled)))
    move_tasks(database, (x for x in writes if isinstance(x, MoveTask | SetWish | TakeBackDeath)))
    open_tries(database, _only(OpenTry, writes))
    close_tries(database, _only(CloseTry, writes))
    _close_intents(database, _only(CloseIntent, writes))
    save_xcoms(database, _only(SaveXcoms, writes))
    for write in writes:
        one_by_one = _ONE_BY_ONE.get(type(write))
        if one_by_one is not None:
            one_by_one(database, write)
    write_audit(database, writes)


def _only(kind: type[Kind], writes: Sequence[Write]) -> list[Kind]:
    return [write for write in writes if isinstance(write, kind)]


def _guarded(database: Database, statement: Any, expected: str) -> None:
    if statement.execute(database) != 1:
        raise GuardFailed(f"{expected}, got none; {AGAIN}")


# -- runs and tasks ----------------------------------------------------------------------------


def _insert_runs(database: Database, inserts: Iterable[InsertRun]) -> None:
    runs = [values(DagRun, insert.run) for insert in inserts]
    tasks = [values(TaskInstance, task) for insert in inserts for task in insert.tasks]
    bulk.insert(database, DagRun, columns(DagRun, RunRow), runs)
    bulk.insert(database, TaskInstance, columns(TaskInstance, TaskRow), tasks)


# -- agents ------------------------------------------------------------------------------------


def _save_agent(database: Database, save: SaveAgent) -> None:
    row = save.agent
    into = columns(Agent, type(row))
    (
        Agent.insert_many([values(Agent, row)], into)
        .on_conflict(conflict_target=[Agent.name], preserve=[x for x in into if x != Agent.name])
        .as_rowcount()
        .execute(database)
    )
    session = {
        AgentSession.agent: row.name,
        AgentSession.session: row.session,
        AgentSession.home_id: row.home_id,
        AgentSession.boot_id: row.boot_id,
        AgentSession.incarnation: row.incarnation,
        AgentSession.software: row.software,
        AgentSession.started_at: save.at,
    }
    AgentSession.insert(session).on_conflict_ignore().as_rowcount().execute(database)


def _end_session(database: Database, end: EndSession) -> None:
    """A session ends once: the first way stays. It has no row if it was never accepted."""
    AgentSession.update(ended_at=end.at, how=end.how).where(
        AgentSession.agent == end.agent,
        AgentSession.session == end.session,
        AgentSession.ended_at.is_null(),
    ).execute(database)


def _touch_agents(database: Database, touch: TouchAgents) -> None:
    if not touch.heard:
        return
    moments = [(name, UtcField().db_value(at)) for name, at in touch.heard.items()]
    # Postgres cannot see that the text in a CASE is meant as a moment.
    kind = "TEXT" if isinstance(database, SqliteDatabase) else "TIMESTAMPTZ"
    heard = Case(Agent.name, moments).cast(kind)
    names = list(touch.heard)
    Agent.update({Agent.last_heartbeat: heard}).where(Agent.name.in_(names)).execute(database)


# -- what commands asked for -------------------------------------------------------------------


def _set_paused(database: Database, pause: SetPaused) -> None:
    statement = Dag.update(paused=pause.paused).where(Dag.dag_id == pause.dag_id)
    _guarded(database, statement, f"dag {pause.dag_id!r}: expected a row")


def _close_intents(database: Database, closes: Sequence[CloseIntent]) -> None:
    rows = [(close.at, close.error, close.intent_id) for close in closes]
    changed = (Intent.done_at, Intent.error)
    pending = '"done_at" IS NULL'
    if bulk.update(database, Intent, changed, [Intent.id], [], rows, only=pending) != len(rows):
        names = ", ".join(str(close.intent_id) for close in closes)
        raise GuardFailed(f"intent {names}: expected a pending one, got none; {AGAIN}")


def _touch_leader(database: Database, write: TouchLeader) -> None:
    Leader.update(heard_at=write.at).execute(database)


_ONE_BY_ONE: dict[type, Callable[[Database, Any], None]] = {
    SaveAgent: _save_agent,
    EndSession: _end_session,
    TouchAgents: _touch_agents,
    TouchLeader: _touch_leader,
    SetPaused: _set_paused,
}
