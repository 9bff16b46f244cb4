"""The guarded writes: what runs, task instances and tries go through.

Each write names the state it expects. All moves of a row in one flush make one change of it,
guarded by what the first one expects; that each following one begins where the one before it ended
is seen here. Rows that change the same columns share a statement, and whether each was as expected
shows in how many were changed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from peewee import Database, Field

from dispatcher.core.records import (
    CloseTry,
    MoveRun,
    MoveTask,
    OpenTry,
    SetCancelled,
    SetWish,
    TakeBackDeath,
    Wish,
)
from dispatcher.store import bulk
from dispatcher.store.models import DagRun, Table, TaskInstance, TaskTry
from dispatcher.store.rows import fetch
from flow.errors import GuardFailed
from flow.states import RUN_TERMINAL, RunState, TaskEvent, TaskState

AGAIN = "the dispatcher reads its state again"


@dataclass(slots=True)
class _Change:
    """What becomes of one row: ``before`` and ``after`` are its guarded columns."""

    first: Any
    """The write that came first."""
    before: tuple[Any, ...]
    after: tuple[Any, ...]
    values: dict[str, Any] = field(default_factory=dict)


# -- task instances ----------------------------------------------------------------------------


def move_tasks(database: Database, writes: Iterable[MoveTask | SetWish | TakeBackDeath]) -> None:
    """Raises :class:`GuardFailed` unless each task instance is in the state, and has the token,
    that its write expects."""
    changes: dict[int, _Change] = {}
    for write in writes:
        move = write if isinstance(write, MoveTask) else _as_move(write)
        before = (move.source, move.token_before)
        after = (move.target, move.values.get("token", move.token_before))
        change = changes.get(move.task_pk)
        if change is None:
            changes[move.task_pk] = _Change(move, before, after, dict(move.values))
        elif change.after == before:
            change.after = after
            change.values.update(move.values)
        else:
            raise GuardFailed(_not_as_expected(move, *change.after))
    guarded = (TaskInstance.state, TaskInstance.token)
    for part in _alike(changes):
        if _apply(database, TaskInstance, guarded, part) != len(part):
            raise GuardFailed(_task_mismatch(database, part))


def _as_move(write: SetWish | TakeBackDeath) -> MoveTask:
    """What is no transition as a move from a state to itself, so that it keeps its place among the
    task's moves: the token that a wish is on may end in the same flush."""
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


def _task_mismatch(database: Database, part: dict[int, _Change]) -> str:
    """Which task was not as expected. Those that were have moved already, within this
    transaction."""
    query = TaskInstance.select(TaskInstance.id, TaskInstance.state, TaskInstance.token)
    found = {
        pk: (state, token)
        for pk, state, token in fetch(database, query.where(TaskInstance.id.in_(list(part))))
    }
    for pk, change in part.items():
        if found.get(pk) != change.after:
            return _not_as_expected(change.first, *found.get(pk, ("no such row", 0)))
    first: MoveTask = next(iter(part.values())).first
    return (
        f"task instances {list(part)}: expected state {first.source.value!r} with token "
        f"{first.token_before} in each, got another in some; {AGAIN}"
    )


def _not_as_expected(move: MoveTask, state: str, token: int) -> str:
    return (
        f"task instance {move.task_pk}: expected state {move.source.value!r} with token "
        f"{move.token_before} for {move.event.value!r}, got {str(state)!r} with token {token}; "
        f"{AGAIN}"
    )


# -- runs --------------------------------------------------------------------------------------


def move_runs(database: Database, writes: Iterable[MoveRun | SetCancelled]) -> None:
    """Raises :class:`GuardFailed` unless each run is there, in the state that its first move
    expects. They keep their order: a restart forgets who cancelled the run before it."""
    changes: dict[int, _Change] = {}
    for write in writes:
        change = changes.setdefault(write.run_pk, _Change(write, (), ()))
        if isinstance(write, SetCancelled):
            change.values["cancelled_by"] = write.by
            continue
        if not change.before:
            change.first, change.before = write, (write.source,)
        elif change.after != (write.source,):
            raise GuardFailed(_run_expected(write))
        change.after = (write.target,)
        change.values |= _dates(write)
    for part in _alike(changes):
        guarded = (DagRun.state,) if next(iter(part.values())).before else ()
        if _apply(database, DagRun, guarded, part) != len(part):
            raise GuardFailed(_run_mismatch(database, part))


def _dates(move: MoveRun) -> dict[str, Any]:
    if move.target is RunState.RUNNING:
        return {"start_date": move.at}
    if move.target in RUN_TERMINAL:
        return {"end_date": move.at}
    return {"start_date": None, "end_date": None, "cancelled_by": ""}


def _run_mismatch(database: Database, part: dict[int, _Change]) -> str:
    query = DagRun.select(DagRun.id, DagRun.state).where(DagRun.id.in_(list(part)))
    found = {pk: (state,) for pk, state in fetch(database, query)}
    wrong = (
        change
        for pk, change in part.items()
        if pk not in found or (change.after and found[pk] != change.after)
    )
    return _run_expected(next(wrong, next(iter(part.values()))).first)


def _run_expected(write: MoveRun | SetCancelled) -> str:
    what = f" in state {write.source.value!r}" if isinstance(write, MoveRun) else ""
    return f"run {write.run_pk}: expected one{what}, got none; {AGAIN}"


# -- both --------------------------------------------------------------------------------------


def _alike(changes: dict[int, _Change]) -> list[dict[int, _Change]]:
    """Those that guard and change the same columns."""
    parts: defaultdict[tuple[Any, ...], dict[int, _Change]] = defaultdict(dict)
    for pk, change in changes.items():
        parts[(len(change.before), *sorted(change.values))][pk] = change
    return list(parts.values())


def _apply(
    database: Database, table: type[Table], guarded: Sequence[Field], part: dict[int, _Change]
) -> int:
    changes = list(part.values())
    names = [name for name in changes[0].values if name not in {c.column_name for c in guarded}]
    columns = [*guarded, *(table.column(name) for name in names)]
    rows = [
        (*change.after, *(change.values[name] for name in names), pk, *change.before)
        for pk, change in part.items()
    ]
    return bulk.update(database, table, columns, [table.column("id")], guarded, rows)


# -- tries -------------------------------------------------------------------------------------


def open_tries(database: Database, opened: Iterable[OpenTry]) -> None:
    """Raises :class:`GuardFailed` (by way of the index) when a try is there already."""
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
    bulk.insert(database, TaskTry, into, rows)


def close_tries(database: Database, closes: Sequence[CloseTry]) -> None:
    """Raises :class:`GuardFailed` unless each try is open, with the token given."""
    changed = (
        TaskTry.closed_at,
        TaskTry.outcome,
        TaskTry.exit_code,
        TaskTry.reason,
        TaskTry.started_at,
        TaskTry.ended_at,
        TaskTry.memory_peak,
        TaskTry.cpu_seconds,
    )
    key, guarded = (TaskTry.task, TaskTry.try_number), (TaskTry.token,)
    rows = [
        (
            *(x.at, x.outcome, x.exit_code, x.reason, x.started_at, x.ended_at),
            *(x.memory_peak, x.cpu_seconds),
            *(x.task_pk, x.try_number, x.token),
        )
        for x in closes
    ]
    still_open = '"outcome" IS NULL'
    done = bulk.update(database, TaskTry, changed, key, guarded, rows, only=still_open)
    if done != len(rows):
        raise GuardFailed(_try_mismatch(database, closes))


def _try_mismatch(database: Database, closes: Sequence[CloseTry]) -> str:
    query = TaskTry.select(TaskTry.task, TaskTry.token, TaskTry.closed_at)
    tasks = [close.task_pk for close in closes]
    found = {
        (task, token): TaskTry.closed_at.python_value(at)
        for task, token, at in fetch(database, query.where(TaskTry.task.in_(tasks)))
    }
    wrong = (x for x in closes if found.get((x.task_pk, x.token)) != x.at)
    close = next(wrong, closes[0])
    return (
        f"try {close.try_number} of task instance {close.task_pk}: expected it open with token "
        f"{close.token}, got none; {AGAIN}"
    )
