"""What must hold of the tables and of the core's memory after every flush, whatever happened."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from dataclasses import replace
from typing import Any

from peewee import Database

from dispatcher.core.records import AgentState, Wish
from dispatcher.core.state import State
from dispatcher.store.models import (
    Agent,
    AgentSession,
    Audit,
    Dag,
    DagRun,
    Intent,
    Leader,
    TaskInstance,
    TaskTry,
    Xcom,
)
from dispatcher.store.rows import fetch
from flow.states import (
    RUN_TERMINAL,
    RUN_TRANSITIONS,
    TASK_TRANSITIONS,
    TERMINAL,
    RunEvent,
    RunState,
    TaskEvent,
    TaskState,
)

#: How a try may end, by the event with which its task instance left ``running``.
OUTCOMES = {
    TaskEvent.SUCCEED: {"success"},
    TaskEvent.SKIP: {"skipped"},
    TaskEvent.RETRY: {"failed"},
    TaskEvent.FAIL: {"failed", "released", "lost"},
    TaskEvent.RELEASE: {"released"},
    TaskEvent.LOSE: {"lost"},
}


#: What a flush can write.
WRITTEN = (DagRun, TaskInstance, TaskTry, Xcom, Agent, AgentSession, Intent, Audit, Leader, Dag)


Known = dict[str, Any]


def checksum(database: Database) -> str:
    """Changes with any row that a flush could have changed."""
    digest = hashlib.sha256()
    for table in WRITTEN:
        for row in sorted(map(repr, fetch(database, table.select()))):
            digest.update(row.encode())
    return digest.hexdigest()


# -- memory ------------------------------------------------------------------------------------


def check_memory(state: State, stored: Known) -> None:
    """What another reign would know is what this one knows."""
    ours = known(state)
    for what, theirs in stored.items():
        assert ours[what] == theirs, f"{what} in memory: {ours[what]}\nstored: {theirs}"
    _check_nothing_is_forgotten(state)


def known(state: State) -> Known:
    """The state by topic, without what is for display or belongs to one reign only."""
    return {
        "dags": {
            row.dag_id: (row.version_id, row.paused, row.active) for row in state.dags.values()
        },
        "runs": {pk: (run.row, run.unfinished) for pk, run in state.runs.items()},
        # Only a task that has not begun will ask how its upstream tasks ended.
        "upstream": {
            (pk, name): run.upstream[name]
            for pk, run in state.runs.items()
            for name, task in run.tasks.items()
            if task.state is TaskState.NONE
        },
        "tasks": state.tasks,
        "agents": {
            name: (replace(agent.row, last_heartbeat=None), agent.tokens)
            for name, agent in state.agents.items()
        },
        "waiting runs": {dag: sorted(runs) for dag, runs in state.waiting_runs.items() if runs},
        "active": ({k: n for k, n in state.active_tasks.items() if n}, _some(state.active_runs)),
        "queued": {name: set(queue.queued) for name, queue in state.queues.items() if queue.queued},
        "last": state.agenda.last,
        "past": state.past,
        "ids": (state.last_run_pk, state.last_task_pk, state.last_token),
    }


def _some(counts: dict[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count}


def _check_nothing_is_forgotten(state: State) -> None:
    """Every task instance that waits is where somebody will look at it again."""
    timed = {(pk, try_number) for _, pk, try_number in state.timers}
    heaps = [heap for queue in state.queues.values() for heap in queue.ready.values()]
    ready = {pk for heap in heaps for *_, pk in heap}
    held = {pk for heap in state.held.values() for *_, pk in heap}
    parked = {pk for queue in state.queues.values() for pk in queue.parked}
    for task in state.tasks.values():
        if task.state is TaskState.SCHEDULED:
            assert task.id in ready | held | parked or (task.id, task.try_number) in timed, task
        elif task.state is TaskState.UP_FOR_RETRY:
            assert (task.id, task.try_number) in timed, task


# -- tables ------------------------------------------------------------------------------------


class Story:
    """Reads the tables again and again: each row legal, each history one that the tables of
    transitions allow, with one end for each try."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._last_line = 0
        self._tasks: defaultdict[int, TaskState] = defaultdict(lambda: TaskState.NONE)
        self._runs: dict[int, RunState] = {}
        self._ends: defaultdict[int, list[TaskEvent]] = defaultdict(list)
        """By task instance: the events by which it left ``running``, in order."""
        self._grants: Counter[int] = Counter()

    def check(self) -> None:
        """Read on, and look at every row."""
        self._read_on()
        tries = self._tries()
        for task in self._rows(TaskInstance):
            self._check_task(task, tries[task.id])
        self._check_tokens(tries)
        self._check_runs()
        self._check_sessions()

    def _rows(self, table: Any, *where: Any) -> list[Any]:
        query = table.select().order_by(table._meta.primary_key)
        return list((query.where(*where) if where else query).namedtuples().execute(self._database))

    def _read_on(self) -> None:
        for line in self._rows(Audit, Audit.id > self._last_line):
            self._last_line = line.id
            if line.entity == "run":
                self._read_run(line)
            elif line.entity == "task":
                self._read_task(line)

    def _read_run(self, line: Any) -> None:
        if line.event == "create":
            assert line.run_pk not in self._runs
            self._runs[line.run_pk] = RunState(line.target)
        elif line.event not in ("cancel", "go on"):
            source = RunState(line.source)
            assert self._runs[line.run_pk] is source
            assert RUN_TRANSITIONS[source, RunEvent(line.event)] == line.target
            self._runs[line.run_pk] = RunState(line.target)

    def _read_task(self, line: Any) -> None:
        source = TaskState(line.source)
        assert self._tasks[line.task_pk] is source, line
        if line.event in ("ask to cancel", "ask to clear"):
            assert source is TaskState.RUNNING, line
            return
        if line.event == "take back a death":
            assert source == line.target, line
            assert source not in TERMINAL, line
            return
        event = TaskEvent(line.event)
        assert TASK_TRANSITIONS[source, event] == line.target, line
        self._tasks[line.task_pk] = TaskState(line.target)
        if event is TaskEvent.GRANT:
            self._grants[line.task_pk] += 1
        if source is TaskState.RUNNING:
            self._ends[line.task_pk].append(event)

    def _tries(self) -> defaultdict[int, list[Any]]:
        found: defaultdict[int, list[Any]] = defaultdict(list)
        for row in self._rows(TaskTry):
            found[row.task].append(row)
        return found

    def _check_task(self, task: Any, tries: list[Any]) -> None:
        assert task.state is self._tasks[task.id], task
        running = task.state is TaskState.RUNNING
        open_tries = [row for row in tries if row.outcome is None]
        assert len(open_tries) == running, (task, tries)
        if running:
            [now] = open_tries
            assert now is tries[-1]
            assert (now.try_number, now.token) == (task.try_number, task.token), (task, now)
            assert (now.agent, now.session) == (task.agent, task.session), (task, now)
        else:
            assert task.wish is Wish.NONE, task
        assert (task.end_date is not None) >= (task.state in TERMINAL), task
        # One grant and one end for each try, and the end that the try records.
        assert self._grants[task.id] == len(tries), (task, tries)
        closed = [row.outcome for row in tries if row.outcome is not None]
        assert len(closed) == len(self._ends[task.id]), (task, tries)
        for outcome, event in zip(closed, self._ends[task.id], strict=True):
            assert outcome in OUTCOMES[event], (task, tries)
        assert task.try_number >= max((row.try_number for row in tries), default=0)
        assert task.token == max((row.token for row in tries), default=0), (task, tries)

    def _check_tokens(self, tries: defaultdict[int, list[Any]]) -> None:
        for rows in tries.values():
            for numbers in ([row.token for row in rows], [row.try_number for row in rows]):
                assert numbers == sorted(set(numbers)), rows
        tokens = Counter(row.token for rows in tries.values() for row in rows)
        assert not tokens or max(tokens.values()) == 1, tokens

    def _check_runs(self) -> None:
        ended: defaultdict[int, list[bool]] = defaultdict(list)
        for run_pk, state in fetch(
            self._database, TaskInstance.select(TaskInstance.run, TaskInstance.state)
        ):
            ended[run_pk].append(state in TERMINAL)
        runs = self._rows(DagRun)
        for run in runs:
            assert run.state is self._runs[run.id], run
            assert all(ended[run.id]) == (run.state in RUN_TERMINAL), run
            assert (run.end_date is not None) == (run.state in RUN_TERMINAL), run
        slots = Counter((run.dag_id, run.data_interval_start) for run in runs if run.previous_pk)
        assert not slots or max(slots.values()) == 1, slots

    def _check_sessions(self) -> None:
        agents = {row.name: row for row in self._rows(Agent)}
        by_agent: defaultdict[str, list[Any]] = defaultdict(list)
        for row in self._rows(AgentSession):
            by_agent[row.agent].append(row)
        assert by_agent.keys() == agents.keys()
        for name, sessions in by_agent.items():
            numbers = [row.session for row in sessions]
            assert numbers == sorted(set(numbers)), sessions
            assert numbers[-1] == agents[name].session
            lasting = [row.session for row in sessions if row.ended_at is None]
            live = agents[name].state in (AgentState.ONLINE, AgentState.LOST)
            assert lasting == numbers[-1:] * live, (agents[name], sessions)
