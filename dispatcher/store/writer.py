"""Applying the writes of one flush.

They are done kind by kind and in bulk instead of one by one. Nobody can see the difference: all of
them appear at once or not at all, and those of different kinds touch different columns, except
that a run is there before it moves and a try is opened before it is closed. Two moves of one task
keep their order, and the audit has the order of the writes.
"""

from __future__ import annotations

from collections import defaultdict
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
    Wish,
    Write,
)
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
    TaskTry,
)
from dispatcher.store.rows import chunks, columns, fetch, values
from dispatcher.store.values import save_xcoms
from flow.errors import GuardFailed
from flow.states import RUN_TERMINAL, RunState, TaskEvent, TaskState

Kind = TypeVar("Kind")


def apply(database: Database, writes: Sequence[Write]) -> None:
    """Apply *writes* in the transaction that the caller holds.

    Raises :class:`GuardFailed`; the caller then rolls back.
    """
    _insert_runs(database, _only(InsertRun, writes))
    for write in writes:
        # In their order: a restart forgets who cancelled the run before it.
        if isinstance(write, MoveRun):
            _move_run(database, write)
        elif isinstance(write, SetCancelled):
            _set_cancelled(database, write)
    moving = MoveTask | SetWish | TakeBackDeath
    _move_tasks(database, [_as_move(x) for x in writes if isinstance(x, moving)])
    _open_tries(database, _only(OpenTry, writes))
    for close in _only(CloseTry, writes):
        _close_try(database, close)
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
        raise GuardFailed(f"{expected}, got none; the dispatcher reads its state again")


# -- runs and tasks ----------------------------------------------------------------------------


def _insert_runs(database: Database, inserts: Iterable[InsertRun]) -> None:
    runs = [values(DagRun, insert.run) for insert in inserts]
    tasks = [values(TaskInstance, task) for insert in inserts for task in insert.tasks]
    _insert(database, DagRun, columns(DagRun, RunRow), runs)
    _insert(database, TaskInstance, columns(TaskInstance, TaskRow), tasks)


def _insert(database: Database, table: Any, into: Sequence[Any], rows: list[Any]) -> None:
    for chunk in chunks(rows):
        # Without as_rowcount the library would ask for the new keys, one answer row each.
        table.insert_many(chunk, into).as_rowcount().execute(database)


def _move_run(database: Database, move: MoveRun) -> None:
    changes: dict[str, Any] = {"state": move.target}
    if move.target is RunState.RUNNING:
        changes["start_date"] = move.at
    elif move.target in RUN_TERMINAL:
        changes["end_date"] = move.at
    else:
        changes |= {"start_date": None, "end_date": None, "cancelled_by": ""}
    statement = DagRun.update(changes).where(DagRun.id == move.run_pk, DagRun.state == move.source)
    _guarded(database, statement, f"run {move.run_pk}: expected one in state {move.source.value!r}")


def _move_tasks(database: Database, moves: Iterable[MoveTask]) -> None:
    """Guarded updates; tasks that make the same move share a statement.

    The first moves of all tasks come first, then the second ones, and so on.
    """
    nth: defaultdict[int, int] = defaultdict(int)
    alike: defaultdict[tuple[Any, ...], list[MoveTask]] = defaultdict(list)
    for move in moves:
        same = (move.source, move.target, move.token_before, tuple(sorted(move.values.items())))
        alike[(nth[move.task_pk], *same)].append(move)
        nth[move.task_pk] += 1
    for key in sorted(alike, key=lambda key: key[0]):
        for chunk in chunks(alike[key]):
            _move_alike(database, chunk)


def _move_alike(database: Database, moves: Sequence[MoveTask]) -> None:
    first = moves[0]
    keys = [move.task_pk for move in moves]
    changes = {TaskInstance.column(name): value for name, value in first.values.items()}
    statement = TaskInstance.update({TaskInstance.state: first.target, **changes}).where(
        TaskInstance.id == keys[0] if len(keys) == 1 else TaskInstance.id.in_(keys),
        TaskInstance.state == first.source,
        TaskInstance.token == first.token_before,
    )
    if statement.execute(database) != len(keys):
        raise GuardFailed(_task_mismatch(database, moves))


def _as_move(write: MoveTask | SetWish | TakeBackDeath) -> MoveTask:
    """What is no transition as a move from a state to itself, so that it keeps its place among the
    task's moves: the token that a wish is on may end in the same flush."""
    if isinstance(write, MoveTask):
        return write
    if isinstance(write, TakeBackDeath):
        return MoveTask(
            task_pk=write.task_pk,
            event=TaskEvent.LOSE,
            source=write.state,
            target=write.state,
            token_before=write.token,
            values={"deaths": write.deaths},
            at=write.at,
            actor="dispatcher",
        )
    return MoveTask(
        task_pk=write.task_pk,
        event=TaskEvent.CANCEL if write.wish is Wish.CANCEL else TaskEvent.CLEAR,
        source=TaskState.RUNNING,
        target=TaskState.RUNNING,
        token_before=write.token,
        values={"wish": write.wish, "wish_by": write.actor},
        at=write.at,
        actor=write.actor,
    )


def _set_cancelled(database: Database, write: SetCancelled) -> None:
    statement = DagRun.update(cancelled_by=write.by).where(DagRun.id == write.run_pk)
    _guarded(database, statement, f"run {write.run_pk}: expected one")


def _task_mismatch(database: Database, moves: Sequence[MoveTask]) -> str:
    """Which task was not as expected. Those that were have moved already, within this
    transaction."""
    keys = [move.task_pk for move in moves]
    query = TaskInstance.select(TaskInstance.id, TaskInstance.state, TaskInstance.token)
    found = {
        pk: (state, token)
        for pk, state, token in fetch(database, query.where(TaskInstance.id.in_(keys)))
    }
    first = moves[0]
    moved = (first.target.value, first.values.get("token", first.token_before))
    for move in moves:
        if found.get(move.task_pk) != moved:
            state, token = found.get(move.task_pk, ("no such row", 0))
            return (
                f"task instance {move.task_pk}: expected state {move.source.value!r} with token "
                f"{move.token_before} for {move.event.value!r}, got {state!r} with token {token}; "
                "the dispatcher reads its state again"
            )
    return (
        f"task instances {keys}: expected state {first.source.value!r} with token "
        f"{first.token_before} in each, got another in some; the dispatcher reads its state again"
    )


# -- tries -------------------------------------------------------------------------------------


def _open_tries(database: Database, opened: Iterable[OpenTry]) -> None:
    into = (
        TaskTry.task,
        TaskTry.try_number,
        TaskTry.token,
        TaskTry.agent,
        TaskTry.session,
        TaskTry.opened_at,
        TaskTry.reason,
    )
    rows = [(x.task_pk, x.try_number, x.token, x.agent, x.session, x.at, "") for x in opened]
    _insert(database, TaskTry, into, rows)


def _close_try(database: Database, close: CloseTry) -> None:
    statement = TaskTry.update(
        closed_at=close.at,
        outcome=close.outcome,
        exit_code=close.exit_code,
        reason=close.reason,
        started_at=close.started_at,
        ended_at=close.ended_at,
        memory_peak=close.memory_peak,
        cpu_seconds=close.cpu_seconds,
    ).where(
        TaskTry.task == close.task_pk,
        TaskTry.try_number == close.try_number,
        TaskTry.token == close.token,
        TaskTry.outcome.is_null(),
    )
    expected = f"try {close.try_number} of task instance {close.task_pk}: expected it open"
    _guarded(database, statement, f"{expected} with token {close.token}")


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


def _close_intent(database: Database, close: CloseIntent) -> None:
    statement = Intent.update(done_at=close.at, error=close.error).where(
        Intent.id == close.intent_id, Intent.done_at.is_null()
    )
    _guarded(database, statement, f"intent {close.intent_id}: expected a pending one")


def _touch_leader(database: Database, write: TouchLeader) -> None:
    Leader.update(heard_at=write.at).execute(database)


_ONE_BY_ONE: dict[type, Callable[[Database, Any], None]] = {
    SaveAgent: _save_agent,
    EndSession: _end_session,
    TouchAgents: _touch_agents,
    TouchLeader: _touch_leader,
    SetPaused: _set_paused,
    CloseIntent: _close_intent,
}
