"""What the :mod:`~dispatcher.store.reader` returns: rows as people and programs look at them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dispatcher.core.records import AgentState, RunType
from flow.dagspec import DagSpec
from flow.schedules import Interval
from flow.states import RunState, TaskState


@dataclass(frozen=True, slots=True, kw_only=True)
class DagView:
    """A DAG and its current version."""

    spec: DagSpec
    paused: bool
    active: bool
    """False once its file no longer holds it."""
    last: Interval | None = None
    """Of its latest run by schedule."""
    source: str = ""
    """The text of its file; filled for one DAG only, not in listings."""

    @property
    def dag_id(self) -> str:
        """Its name."""
        return self.spec.dag_id


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportErrorView:
    """A DAG file that cannot be read."""

    file: str
    message: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """One DAG run."""

    pk: int
    dag_id: str
    run_id: str
    state: RunState
    conf: Mapping[str, Any]
    logical_date: datetime | None
    created_at: datetime
    start_date: datetime | None
    end_date: datetime | None
    version_pk: int
    run_type: RunType = RunType.MANUAL
    data_interval_start: datetime | None = None
    data_interval_end: datetime | None = None
    previous_pk: int | None = None
    """The run by schedule before it."""

    @property
    def name(self) -> str:
        """``DAG/RUN_ID``."""
        return f"{self.dag_id}/{self.run_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskView:
    """One task instance. ``reason`` says why it waits, or what became of it."""

    pk: int
    task_id: str
    map_index: int
    state: TaskState
    try_number: int
    queue: str
    agent: str | None
    start_date: datetime | None
    end_date: datetime | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TryView:
    """One token of a task instance. ``outcome`` is ``None`` while it lives."""

    try_number: int
    agent: str
    opened_at: datetime
    closed_at: datetime | None
    outcome: str | None
    exit_code: int | None
    reason: str
    memory_peak: int | None = None
    """The most its processes used together, in bytes, where the node measures it."""
    cpu_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentView:
    """An agent, and how much of it is taken."""

    name: str
    queues: tuple[str, ...]
    slots: int
    busy: int
    """Slots that are taken."""
    running: int = 0
    """Tasks."""
    gpus: tuple[str, ...] = ()
    gpu_share: int = 1
    gpus_busy: int = 0
    """Places on devices that are taken; each has ``gpu_share``."""
    state: AgentState
    last_heartbeat: datetime | None
    suspended: str = ""
    """Why it starts nothing new for now, if so."""
    drained: str = ""
    """Why people want it to take nothing new, and who; empty: nobody does."""

    @property
    def live(self) -> bool:
        """Its session has not ended, as far as the dispatcher knows."""
        return self.state in (AgentState.ONLINE, AgentState.LOST)

    @property
    def hold(self) -> str:
        """``suspended`` or ``drained`` where it is heard, but takes no tasks; else ``""``. One that
        cannot be understood is offline and suspended: it has no session."""
        if self.suspended and self.state in (AgentState.ONLINE, AgentState.OFFLINE):
            return "suspended"
        return "drained" if self.drained and self.state is AgentState.ONLINE else ""

    @property
    def held_because(self) -> str:
        """Why it takes no tasks, where :attr:`hold` says that it does not."""
        return {"suspended": self.suspended, "drained": self.drained}.get(self.hold, "")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningTask:
    """A task that an agent has."""

    run: str
    """``DAG/RUN_ID``."""
    task_id: str
    map_index: int
    try_number: int
    since: datetime | None
    slots: int
    gpus: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentDetail:
    """All that is known of an agent and its node."""

    agent: AgentView
    session: int
    since: datetime | None
    """When its latest session began."""
    software: str
    cores: int
    memory: int
    """Bytes; 0: it did not say, and the same with ``cores``."""
    limits: bool
    """Whether it can hold tasks to memory, cpus and pids."""
    wanted_queues: tuple[str, ...] | None
    wanted_slots: int | None
    """What people want in the place of its own settings."""
    tasks: tuple[RunningTask, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueView:
    """A queue: tasks that wait for it or run, and how many live agents serve it."""

    name: str
    waiting: int
    running: int
    agents: int


@dataclass(frozen=True, slots=True, kw_only=True)
class IntentView:
    """A command's request. ``error`` says why it was not carried out."""

    id: int
    kind: str
    arguments: Mapping[str, Any]
    done: bool
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderView:
    """The dispatcher that leads, or led last. ``heard_at``: it could still write then."""

    dispatcher: str
    epoch: int
    heard_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RunProgress:
    """A run, and how many of its task instances are in which state."""

    run: RunView
    tasks: Mapping[TaskState, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureView:
    """A task instance that has failed, for good or until its next try."""

    dag_id: str
    run_id: str
    task_id: str
    state: TaskState
    try_number: int
    agent: str | None
    reason: str
    at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardView:
    """All that the board shows, as it was at one moment."""

    at: datetime
    """When it was read, or found unchanged."""
    leader: LeaderView | None = None
    """``None``: no dispatcher has ever led."""
    agents: tuple[AgentView, ...] = ()
    queues: tuple[QueueView, ...] = ()
    active_runs: int = 0
    """How many have not ended, those included that ``runs`` leaves out."""
    runs: tuple[RunProgress, ...] = ()
    """Those that have not ended, then those that have; both newest first."""
    failures: tuple[FailureView, ...] = ()
    """The latest ones, newest first."""
    errors: tuple[ImportErrorView, ...] = ()
