"""A model of the database: the rows and guards of :mod:`dispatcher.store`, and what may go wrong.

One transaction is one moment. That the rows come out as the real store's do is a test
(``test_database.py``).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from dispatcher.core.past import GOOD_ENDS
from dispatcher.core.records import (
    AgentRow,
    CloseIntent,
    CloseTry,
    DagRow,
    EndSession,
    InsertRun,
    Intent,
    LastScheduled,
    LoadedRun,
    MoveRun,
    MoveTask,
    OpenTry,
    RunRow,
    RunType,
    SaveAgent,
    SetCancelled,
    SetPaused,
    SetWish,
    Snapshot,
    TakeBackDeath,
    TaskRow,
    TouchAgents,
    Write,
)
from flow.dagspec import DagSpec
from flow.errors import EpochLost, GuardFailed
from flow.schedules import Interval
from flow.states import RUN_TERMINAL, RunState, TaskState


@dataclass(slots=True)
class Try:
    """One granted try."""

    token: int
    agent: str
    session: int
    outcome: str | None = None


@dataclass(slots=True)
class Tables:
    """All rows."""

    epoch: int = 0
    dags: dict[str, DagRow] = field(default_factory=dict)
    versions: dict[int, DagSpec] = field(default_factory=dict)
    runs: dict[int, RunRow] = field(default_factory=dict)
    tasks: dict[int, TaskRow] = field(default_factory=dict)
    tries: dict[tuple[int, int], Try] = field(default_factory=dict)
    agents: dict[str, AgentRow] = field(default_factory=dict)
    sessions: dict[tuple[str, int], str | None] = field(default_factory=dict)
    """(agent, session): how it ended; None while it has not."""
    intents: dict[int, Intent] = field(default_factory=dict)
    closed: dict[int, str] = field(default_factory=dict)
    """Intents that are dealt with, and with which error."""


class ModelDatabase:
    """``rows`` is what is committed. *watch* sees each commit once it has taken effect."""

    def __init__(self) -> None:
        self.rows = Tables()
        self.watch: Callable[[int, Sequence[Write]], None] = lambda _, __: None
        self.check: Callable[[Write], None] = lambda _: None
        """Looks at each write before it is applied."""
        self._undo: list[Callable[[], None]] = []

    def add_dags(self, specs: Iterable[DagSpec], bundle: str | None = None) -> None:
        """What the DAG folder holds."""
        for spec in specs:
            version = len(self.rows.versions) + 1
            self.rows.versions[version] = spec
            row = DagRow(dag_id=spec.dag_id, version_id=version, spec=spec, bundle=bundle)
            self.rows.dags[spec.dag_id] = row

    def begin_reign(self) -> int:
        self.rows.epoch += 1
        return self.rows.epoch

    def commit(self, epoch: int, writes: Sequence[Write]) -> None:
        """All of *writes* or none. Raises :class:`EpochLost` or :class:`GuardFailed`."""
        if epoch != self.rows.epoch:
            raise EpochLost(f"expected epoch {epoch}, got {self.rows.epoch}")
        self._undo.clear()
        try:
            for write in sorted(writes, key=lambda write: _ORDER.get(type(write), 4)):
                self.check(write)
                handler = _HANDLERS.get(type(write))
                if handler is not None:
                    handler(self, write)
        except GuardFailed:
            while self._undo:
                self._undo.pop()()
            raise
        self.watch(epoch, writes)

    # -- reading -------------------------------------------------------------------------------

    def load(self) -> Snapshot:
        """What a new reign starts from; see ``dispatcher.store.loader``."""
        rows = self.rows
        runs = {pk: run for pk, run in rows.runs.items() if run.state not in RUN_TERMINAL}
        last = self._last_scheduled()
        asked = {run.previous_pk for run in runs.values() if run.previous_pk is not None}
        asked |= {each.run_pk for each in last.values()}
        pasts = {pk: self._past(pk) for pk in sorted(asked) if pk not in runs}
        return Snapshot(
            dags=tuple(copy.copy(dag) for dag in rows.dags.values() if dag.active),
            versions=dict(rows.versions),
            runs=tuple(copy.copy(run) for run in runs.values()),
            tasks=tuple(copy.copy(row) for row in rows.tasks.values() if row.run_pk in runs),
            agents=tuple(copy.copy(rows.agents[name]) for name in sorted(rows.agents)),
            last_scheduled=last,
            past={pk: names for pk, names in pasts.items() if names},
            last_run_pk=max(rows.runs, default=0),
            last_task_pk=max(rows.tasks, default=0),
            last_token=max((each.token for each in rows.tries.values()), default=0),
        )

    def pending_intents(self) -> list[Intent]:
        return [row for pk, row in self.rows.intents.items() if pk not in self.rows.closed]

    def load_run(self, dag_id: str, run_id: str) -> LoadedRun | None:
        for run in self.rows.runs.values():
            if (run.dag_id, run.run_id) == (dag_id, run_id):
                tasks = [row for row in self.rows.tasks.values() if row.run_pk == run.id]
                previous = self.rows.runs.get(run.previous_pk or 0)
                ended = previous is not None and previous.state in RUN_TERMINAL
                return LoadedRun(
                    run=copy.copy(run),
                    tasks=tuple(copy.copy(task) for task in tasks),
                    spec=self.rows.versions[run.version_id],
                    past=self._past(run.previous_pk or 0) if ended else frozenset(),
                )
        return None

    def _last_scheduled(self) -> dict[str, LastScheduled]:
        found: dict[str, tuple[datetime, LastScheduled]] = {}
        for run in self.rows.runs.values():
            start, end, date = run.data_interval_start, run.data_interval_end, run.logical_date
            if run.run_type is not RunType.SCHEDULED or not (start and end and date):
                continue
            if run.dag_id not in found or date > found[run.dag_id][0]:
                found[run.dag_id] = (
                    date,
                    LastScheduled(run_pk=run.id, interval=Interval(start, end)),
                )
        return {dag_id: last for dag_id, (_, last) in found.items()}

    def _past(self, run_pk: int) -> frozenset[str]:
        rows = self.rows.tasks.values()
        return frozenset(
            row.task_id for row in rows if row.run_pk == run_pk and row.state not in GOOD_ENDS
        )

    # -- writing -------------------------------------------------------------------------------

    def _set(self, row: Any, **values: Any) -> None:
        before = {name: getattr(row, name) for name in values}
        for name, value in values.items():
            setattr(row, name, value)

        def undo() -> None:
            for name, value in before.items():
                setattr(row, name, value)

        self._undo.append(undo)

    def _put(self, table: dict[Any, Any], key: Any, value: Any) -> None:
        if key in table:
            before = table[key]
            self._undo.append(lambda: table.update({key: before}))
        else:
            self._undo.append(lambda: table.pop(key))
        table[key] = value

    def insert_run(self, write: InsertRun) -> None:
        names = {(run.dag_id, run.run_id) for run in self.rows.runs.values()}
        _guard(write.run.id not in self.rows.runs, f"run {write.run.id} exists")
        _guard((write.run.dag_id, write.run.run_id) not in names, f"{write.run.run_id} exists")
        self._put(self.rows.runs, write.run.id, copy.copy(write.run))
        for task in write.tasks:
            _guard(task.id not in self.rows.tasks, f"task instance {task.id} exists")
            self._put(self.rows.tasks, task.id, copy.copy(task))

    def move_run(self, write: MoveRun) -> None:
        run = self.rows.runs.get(write.run_pk)
        _guard(run is not None and run.state is write.source, f"run {write.run_pk}")
        if write.target is RunState.RUNNING:
            self._set(run, state=write.target, start_date=write.at)
        elif write.target in RUN_TERMINAL:
            self._set(run, state=write.target, end_date=write.at)
        else:
            self._set(run, state=write.target, start_date=None, end_date=None, cancelled_by="")

    def set_cancelled(self, write: SetCancelled) -> None:
        run = self.rows.runs.get(write.run_pk)
        _guard(run is not None, f"run {write.run_pk}")
        self._set(run, cancelled_by=write.by)

    def move_task(self, write: MoveTask) -> None:
        row = self.rows.tasks.get(write.task_pk)
        found = row and (row.state, row.token)
        expected = (write.source, write.token_before)
        _guard(found == expected, f"task instance {write.task_pk}: {found}, not {expected}")
        self._set(row, **write.values, state=write.target)

    def set_wish(self, write: SetWish) -> None:
        row = self.rows.tasks.get(write.task_pk)
        found = row and (row.state, row.token)
        _guard(found == (TaskState.RUNNING, write.token), f"wish on {write.task_pk}: {found}")
        self._set(row, wish=write.wish, wish_by=write.actor)

    def take_back_death(self, write: TakeBackDeath) -> None:
        row = self.rows.tasks.get(write.task_pk)
        found = row and (row.state, row.token)
        _guard(found == (write.state, write.token), f"death of {write.task_pk}: {found}")
        self._set(row, deaths=write.deaths)

    def open_try(self, write: OpenTry) -> None:
        key = (write.task_pk, write.try_number)
        _guard(key not in self.rows.tries, f"try {key} exists")
        self._put(self.rows.tries, key, Try(write.token, write.agent, write.session))

    def close_try(self, write: CloseTry) -> None:
        found = self.rows.tries.get((write.task_pk, write.try_number))
        is_open = found is not None and (found.token, found.outcome) == (write.token, None)
        _guard(is_open, f"try {write.try_number} of {write.task_pk}: {found}")
        self._set(found, outcome=write.outcome)

    def save_agent(self, write: SaveAgent) -> None:
        self._put(self.rows.agents, write.agent.name, copy.copy(write.agent))
        key = (write.agent.name, write.agent.session)
        if key not in self.rows.sessions:
            self._put(self.rows.sessions, key, None)

    def end_session(self, write: EndSession) -> None:
        key = (write.agent, write.session)
        if key in self.rows.sessions and self.rows.sessions[key] is None:
            self._put(self.rows.sessions, key, write.how)

    def touch_agents(self, write: TouchAgents) -> None:
        for name, heard in write.heard.items():
            if name in self.rows.agents:
                self._set(self.rows.agents[name], last_heartbeat=heard)

    def set_paused(self, write: SetPaused) -> None:
        dag = self.rows.dags.get(write.dag_id)
        _guard(dag is not None, f"dag {write.dag_id}")
        self._set(dag, paused=write.paused)

    def close_intent(self, write: CloseIntent) -> None:
        key = write.intent_id
        _guard(key in self.rows.intents and key not in self.rows.closed, f"intent {key}")
        self._put(self.rows.closed, key, write.error)


def _guard(holds: bool, text: str) -> None:
    if not holds:
        raise GuardFailed(text)


#: As the real writer does it: kind by kind, those of one kind in their order.
_ORDER: dict[type, int] = {
    InsertRun: 0,
    MoveRun: 1,
    SetCancelled: 1,
    MoveTask: 2,
    SetWish: 2,
    TakeBackDeath: 2,
    OpenTry: 3,
    CloseTry: 3,
}
_HANDLERS: dict[type, Callable[[ModelDatabase, Any], None]] = {
    InsertRun: ModelDatabase.insert_run,
    MoveRun: ModelDatabase.move_run,
    SetCancelled: ModelDatabase.set_cancelled,
    MoveTask: ModelDatabase.move_task,
    SetWish: ModelDatabase.set_wish,
    TakeBackDeath: ModelDatabase.take_back_death,
    OpenTry: ModelDatabase.open_try,
    CloseTry: ModelDatabase.close_try,
    SaveAgent: ModelDatabase.save_agent,
    EndSession: ModelDatabase.end_session,
    TouchAgents: ModelDatabase.touch_agents,
    SetPaused: ModelDatabase.set_paused,
    CloseIntent: ModelDatabase.close_intent,
}
