"""A world of one core: DAGs in, messages in, time by hand, and what the agents would see."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from msgspec.structs import replace

from dispatcher.core.core import Core, Effects, Instant, Rules
from dispatcher.core.records import (
    AgentRow,
    CloseIntent,
    DagRow,
    InsertRun,
    Intent,
    LastScheduled,
    LoadedRun,
    MoveRun,
    MoveTask,
    RunRow,
    RunType,
    SaveAgent,
    SetCancelled,
    SetWish,
    Snapshot,
    TakeBackDeath,
    TaskRow,
    Write,
)
from flow import wire
from flow.dagspec import DagSpec, TaskSpec
from flow.schedules import Interval
from flow.states import RunEvent, RunState, TaskState

START = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
LEASE = 60.0


def task(task_id: str, *upstream: str, **settings: Any) -> TaskSpec:
    """A bash task."""
    arguments: dict[str, Any] = {"command": "true", "env": {}, "cwd": None}
    return TaskSpec(
        task_id=task_id, operator="bash", arguments=arguments, upstream=upstream, **settings
    )


def dag(dag_id: str, *tasks: TaskSpec, **settings: Any) -> DagSpec:
    """A DAG without a schedule."""
    return DagSpec(dag_id=dag_id, tasks=tasks, **settings)


def chain(length: int, **settings: Any) -> DagSpec:
    """t0 >> t1 >> ... on the default queue."""
    names = [f"t{number}" for number in range(length)]
    return dag(
        "chain",
        *(task(name, *names[max(0, i - 1) : i], **settings) for i, name in enumerate(names)),
    )


class World:
    """Drives one core and keeps what a database and the agents would have received."""

    def __init__(self, *dags: DagSpec, rules: Rules | None = None) -> None:
        self.rules = rules or Rules()
        self.elapsed = 0.0
        self.intents = itertools.count(1)
        self.reign = 1
        rows = [DagRow(dag_id=spec.dag_id, version_id=n, spec=spec) for n, spec in enumerate(dags)]
        snapshot = Snapshot(dags=tuple(rows), versions={row.version_id: row.spec for row in rows})
        self.core = Core(snapshot, reign=1, rules=self.rules, now=self.now)
        self.writes: list[Write] = []
        self.replies: list[tuple[str, wire.Reply]] = []
        self.published: list[wire.Task] = []
        self.markers: list[int] = []
        self.take(self.core.begin(self.now))

    @property
    def now(self) -> Instant:
        return Instant(START + timedelta(seconds=self.elapsed), 1000.0 + self.elapsed)

    def take(self, effects: Effects) -> Effects:
        self.writes += effects.writes
        self.replies += effects.replies
        self.published += effects.publications
        self.markers += effects.markers
        return effects

    # -- what happens ---------------------------------------------------------------------------

    def change(self, spec: DagSpec, *, active: bool = True) -> None:
        """Its file was read again; due runs are made at once."""
        version = 1 + max(self.core.state.plans, default=0)
        paused = spec.dag_id in self.core.state.dags and self.core.state.dags[spec.dag_id].paused
        row = DagRow(
            dag_id=spec.dag_id, version_id=version, spec=spec, active=active, paused=paused
        )
        self.core.dags_changed([row])
        self.pass_time(0)

    def trigger(self, dag_id: str, run_id: str = "run") -> str:
        """Returns the error, if the request is refused."""
        return self.request("trigger", dag_id=dag_id, run_id=run_id, conf={})

    def request(self, kind: str, loaded: LoadedRun | None = None, **arguments: Any) -> str:
        intent = Intent(
            id=next(self.intents), kind=kind, arguments=arguments, created_at=self.now.wall
        )
        effects = self.take(self.core.request([intent], self.now, {intent.id: loaded}))
        closed = [write for write in effects.writes if isinstance(write, CloseIntent)]
        assert [write.intent_id for write in closed] == [intent.id]
        return closed[0].error

    def hello(
        self,
        agent: str = "node1",
        session: int = 1,
        *,
        queues: Sequence[str] = ("default",),
        slots: int = 4,
        home: str = "",
        process: str = "",
        boot: str = "boot",
        **more: Any,
    ) -> list[wire.Reply]:
        return self.send(
            wire.Hello(
                agent=agent,
                session=session,
                home_id=home or f"home of {agent}",
                boot_id=boot,
                uptime=100.0,
                incarnation=process or f"process {session}",
                queues=tuple(queues),
                slots=slots,
                lease=LEASE,
                **more,
            )
        )

    def send(self, message: wire.Message) -> list[wire.Reply]:
        """The replies to the sender, without the name of its process."""
        effects = self.take(self.core.receive(message, self.now))
        return [replace(reply, incarnation="") for _, reply in effects.replies]

    def claim(self, message: wire.Task, agent: str = "node1", session: int = 1) -> wire.Reply:
        replies = self.send(
            wire.Claim(
                agent=agent,
                session=session,
                task_instance_id=message.task_instance_id,
                try_number=message.try_number,
                queue=message.queue,
                free_slots=1,
            )
        )
        # An agent's claim may bring others their turn.
        (reply,) = [x for x in replies if not isinstance(x, wire.Offer)]
        return reply

    def grant(self, message: wire.Task, agent: str = "node1", session: int = 1) -> wire.Grant:
        reply = self.claim(message, agent, session)
        assert isinstance(reply, wire.Grant), reply
        return reply

    def finish(
        self,
        grant: wire.Grant,
        state: str = "success",
        agent: str = "node1",
        session: int | None = None,
        reason: str = "",
    ) -> list[wire.Reply]:
        return self.send(
            wire.Finished(
                agent=agent,
                session=session or grant.session,
                task_instance_id=grant.task_instance_id,
                try_number=grant.try_number,
                token=grant.token,
                state=state,  # type: ignore[arg-type]  # the tests state it as text
                exit_code=0 if state == "success" else 1,
                reason=reason,
                started_at=self.now.wall.timestamp(),
                ended_at=self.now.wall.timestamp(),
            )
        )

    def heartbeat(
        self, agent: str = "node1", session: int = 1, tokens: tuple[int, ...] = ()
    ) -> list[wire.Reply]:
        return self.send(wire.Heartbeat(agent=agent, session=session, lease=LEASE, tokens=tokens))

    def run_next(self, state: str = "success", agent: str = "node1", session: int = 1) -> wire.Task:
        """Claim and finish the oldest published task that nobody has taken."""
        message = self.next_task()
        self.finish(self.grant(message, agent, session), state, agent)
        return message

    def next_task(self) -> wire.Task:
        return self.published.pop(0)

    def pass_time(self, seconds: float, *, clear: bool = True) -> None:
        """Let time pass, calling the core exactly when it asked to be called. *clear*: markers
        come back at once."""
        end = self.elapsed + seconds
        while True:
            wakeup = self.core.next_wakeup()
            if wakeup is None or wakeup - 1000.0 > end:
                break
            before = wakeup
            self.elapsed = max(self.elapsed, wakeup - 1000.0)
            self.take(self.core.tick(self.now))
            if clear:
                self.return_markers()
            assert self.core.next_wakeup() != before, "the core asks for the same moment again"
        self.elapsed = end

    def return_markers(self) -> None:
        """The broker delivers this reign's markers, behind all events sent before."""
        markers, self.markers = self.markers, []
        for number in markers:
            self.send(wire.Marker(reign=self.core.state.reign, number=number))

    def new_reign(self) -> None:
        """Another dispatcher loads what was written; nothing in memory survives."""
        self.reign += 1
        snapshot = Replay(self.core.state.dags, self.writes).snapshot(self.core)
        self.core = Core(snapshot, reign=self.reign, rules=self.rules, now=self.now)
        self.markers, self.published = [], []
        self.take(self.core.begin(self.now))

    def loaded(self, run_id: str) -> LoadedRun | None:
        """A run as the database has it."""
        replay = Replay(self.core.state.dags, self.writes)
        for run in replay.runs.values():
            if run.run_id == run_id:
                tasks = tuple(row for row in replay.tasks.values() if row.run_pk == run.id)
                spec = self.core.state.plans[run.version_id].spec
                past = replay.past(run.previous_pk or 0)
                return LoadedRun(run=run, tasks=tasks, spec=spec, past=past)
        return None

    # -- what is seen ---------------------------------------------------------------------------

    def task(self, task_id: str, run_id: str = "run") -> TaskRow:
        """The row as the writes left it."""
        replay = Replay(self.core.state.dags, self.writes)
        (run,) = [run for run in replay.runs.values() if run.run_id == run_id]
        (row,) = [
            row for row in replay.tasks.values() if (row.run_pk, row.task_id) == (run.id, task_id)
        ]
        return row

    def states(self, run_id: str = "run") -> dict[str, str]:
        replay = Replay(self.core.state.dags, self.writes)
        (run,) = [run for run in replay.runs.values() if run.run_id == run_id]
        return {
            row.task_id: row.state.value for row in replay.tasks.values() if row.run_pk == run.id
        }

    def run_state(self, run_id: str = "run") -> RunState:
        replay = Replay(self.core.state.dags, self.writes)
        (run,) = [run for run in replay.runs.values() if run.run_id == run_id]
        return run.state


class Replay:
    """What a database holds after a list of writes, guards checked."""

    def __init__(self, dags: dict[str, DagRow], writes: Sequence[Write]) -> None:
        self.dags = dags
        self.runs: dict[int, RunRow] = {}
        self.tasks: dict[int, TaskRow] = {}
        self.agents: dict[str, AgentRow] = {}
        for write in writes:
            self._apply(write)

    def _apply(self, write: Write) -> None:
        match write:
            case InsertRun(run=run, tasks=tasks):
                self.runs[run.id] = _copy(run)
                self.tasks.update((row.id, _copy(row)) for row in tasks)
            case MoveRun():
                run = self.runs[write.run_pk]
                assert run.state is write.source
                run.state = write.target
                if write.event is RunEvent.RESTART:
                    run.cancelled_by = ""
            case SetCancelled():
                self.runs[write.run_pk].cancelled_by = write.by
            case SetWish():
                row = self.tasks[write.task_pk]
                assert (row.state, row.token) == (TaskState.RUNNING, write.token)
                row.wish, row.wish_by = write.wish, write.actor
            case TakeBackDeath():
                row = self.tasks[write.task_pk]
                assert (row.state, row.token) == (write.state, write.token)
                assert 0 <= write.deaths < row.deaths
                row.deaths = write.deaths
            case MoveTask():
                row = self.tasks[write.task_pk]
                assert (row.state, row.token) == (write.source, write.token_before)
                for name, value in write.values.items():
                    setattr(row, name, value)
                assert row.token >= write.token_before
                row.state = write.target
            case SaveAgent(agent=agent):
                self.agents[agent.name] = _copy(agent)

    def snapshot(self, core: Core) -> Snapshot:
        open_runs = {
            run.id: run
            for run in self.runs.values()
            if run.state in (RunState.QUEUED, RunState.RUNNING)
        }
        return Snapshot(
            dags=tuple(self.dags.values()),
            versions={pk: plan.spec for pk, plan in core.state.plans.items()},
            runs=tuple(open_runs.values()),
            tasks=tuple(row for row in self.tasks.values() if row.run_pk in open_runs),
            agents=tuple(self.agents.values()),
            last_scheduled=self._last_scheduled(),
            past=self._pasts(open_runs),
            last_run_pk=max(self.runs, default=0),
            last_task_pk=max(self.tasks, default=0),
            last_token=max((row.token for row in self.tasks.values()), default=0),
        )

    def _last_scheduled(self) -> dict[str, LastScheduled]:
        found = {}
        for run in sorted(self.runs.values(), key=lambda run: run.logical_date or START):
            if run.run_type is RunType.SCHEDULED:
                assert run.data_interval_start
                assert run.data_interval_end
                interval = Interval(run.data_interval_start, run.data_interval_end)
                found[run.dag_id] = LastScheduled(run_pk=run.id, interval=interval)
        return found

    def _pasts(self, open_runs: dict[int, RunRow]) -> dict[int, frozenset[str]]:
        asked = {run.previous_pk for run in open_runs.values() if run.previous_pk is not None}
        asked |= {last.run_pk for last in self._last_scheduled().values()}
        pasts = {pk: self.past(pk) for pk in asked - open_runs.keys()}
        return {pk: names for pk, names in pasts.items() if names}

    def past(self, run_pk: int) -> frozenset[str]:
        """The tasks of a run that have not succeeded."""
        good = (TaskState.SUCCESS, TaskState.SKIPPED)
        return frozenset(
            row.task_id
            for row in self.tasks.values()
            if row.run_pk == run_pk and row.state not in good
        )


def _copy(row: Any) -> Any:
    return type(row)(**{name: getattr(row, name) for name in row.__dataclass_fields__})
