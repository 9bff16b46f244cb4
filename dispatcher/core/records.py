"""Rows as the core knows them, and what it wants written: the vocabulary shared with the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from flow.dagspec import DagSpec
from flow.schedules import Interval
from flow.states import RunEvent, RunState, TaskEvent, TaskState


class AgentState(StrEnum):
    """What the dispatcher believes of an agent."""

    ONLINE = "online"
    LOST = "lost"  # heartbeats are missing; its lease, and its tasks, may still hold
    DEAD = "dead"  # taken over
    OFFLINE = "offline"  # said goodbye


class Wish(StrEnum):
    """What somebody wants of a running task instance. Its token is asked to end, never taken."""

    NONE = ""
    CANCEL = "cancel"
    CLEAR = "clear"


class RunType(StrEnum):
    """Who asked for a run."""

    MANUAL = "manual"
    SCHEDULED = "scheduled"


# -- rows --------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class DagRow:
    """A DAG and its current version."""

    dag_id: str
    version_id: int
    spec: DagSpec
    paused: bool = False
    active: bool = True
    """False once its file no longer holds it."""
    bundle: str | None = None
    """The DAG folder as it was when its file was last read: what new runs take."""


@dataclass(slots=True, kw_only=True)
class RunRow:
    """One DAG run. It keeps the version and the bundle it started with."""

    id: int
    dag_id: str
    run_id: str
    version_id: int
    bundle: str | None = None
    state: RunState
    conf: Mapping[str, Any] = field(default_factory=dict)
    run_type: RunType = RunType.MANUAL
    logical_date: datetime | None = None
    data_interval_start: datetime | None = None
    data_interval_end: datetime | None = None
    previous_pk: int | None = None
    """The DAG's run by schedule before this one; for runs by schedule."""
    created_at: datetime
    start_date: datetime | None = None
    end_date: datetime | None = None
    cancelled_by: str = ""
    """Who wants it to end; empty: nobody."""


@dataclass(slots=True, kw_only=True)
class TaskRow:
    """One task instance. ``token`` only ever grows; it is live while ``state`` is running."""

    id: int
    run_pk: int
    task_id: str
    map_index: int = -1
    state: TaskState = TaskState.NONE
    try_number: int = 0
    failures: int = 0
    """Tries that count against ``retries``: a lost agent does not."""
    deaths: int = 0
    """Unclean ends of sessions charged to this instance, and not taken back."""
    releases: int = 0
    """Tokens given back in a row without having run."""
    token: int = 0
    queue: str
    agent: str | None = None
    session: int | None = None
    not_before: datetime | None = None
    queued_at: datetime | None = None
    start_date: datetime | None = None
    end_date: datetime | None = None
    reason: str = ""
    wish: Wish = Wish.NONE
    """What is to become of it once its live token ends."""
    wish_by: str = ""


@dataclass(slots=True, kw_only=True)
class AgentRow:
    """One agent and its latest session."""

    name: str
    session: int
    state: AgentState
    home_id: str = ""
    boot_id: str = ""
    incarnation: str = ""
    queues: tuple[str, ...] = ()
    slots: int = 1
    lease: float = 60.0
    software: str = ""
    suspended: str = ""
    """Why it starts nothing new for now, if so."""
    cores: int = 0
    memory: int = 0
    """Bytes."""
    gpus: tuple[str, ...] = ()
    gpu_share: int = 1
    limits: bool = False
    """As in :class:`flow.wire.Hello`, all five."""
    drained: str = ""
    """Who wants it to take nothing new, and why; empty: nobody. Outlives its sessions."""
    wanted_queues: tuple[str, ...] | None = None
    """What it was told to serve in the place of its settings, until somebody takes it back."""
    wanted_slots: int | None = None
    charged: tuple[int, ...] = ()
    """Task instances that run again, charged with a death when this session was taken over."""
    last_heartbeat: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedRun:
    """A run that has ended, with all its task instances and the version it kept."""

    run: RunRow
    tasks: tuple[TaskRow, ...]
    spec: DagSpec
    past: frozenset[str] = frozenset()
    """Tasks that did not succeed in the run before it, if that has ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """A command's request: ``kind`` is one of those that ``dispatcher.core.requests`` handles."""

    id: int
    kind: str
    arguments: Mapping[str, Any]
    """trigger: ``dag_id, run_id, conf``; pause, unpause: ``dag_id``; cancel:
    ``dag_id, run_id``; clear: ``dag_id, run_id, task_id, upstream, downstream, failed``;
    declare_dead, drain (and ``reason``), resume, set_agent (and ``queues, slots, reset``):
    ``agent``; all: ``actor``, who asked."""
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class LastScheduled:
    """The latest run that a DAG's schedule has made."""

    run_pk: int
    interval: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """All that a new reign starts from: live DAGs, unfinished runs with all their task instances
    (finished ones included), every version those use, every agent, and the highest ids and token
    in use."""

    dags: tuple[DagRow, ...] = ()
    versions: Mapping[int, DagSpec] = field(default_factory=dict)
    runs: tuple[RunRow, ...] = ()
    tasks: tuple[TaskRow, ...] = ()
    agents: tuple[AgentRow, ...] = ()
    last_scheduled: Mapping[str, LastScheduled] = field(default_factory=dict)
    """Per DAG, active or not."""
    past: Mapping[int, frozenset[str]] = field(default_factory=dict)
    """By ended run that the next one of its DAG may depend on: the tasks that did not succeed."""
    last_run_pk: int = 0
    last_task_pk: int = 0
    last_token: int = 0


# -- writes (applied in order, all of one flush in one transaction) ----------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class InsertRun:
    """A new run with all its task instances."""

    run: RunRow
    tasks: tuple[TaskRow, ...]
    actor: str = "dispatcher"


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveRun:
    """A run's transition, guarded by ``id`` and ``source``; leaves a line in the audit. Starting,
    ending and restarting set or forget its dates, restarting forgets ``cancelled_by``."""

    run_pk: int
    event: RunEvent
    source: RunState
    target: RunState
    at: datetime
    actor: str
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveTask:
    """A task instance's transition, guarded by ``id``, ``source`` and ``token_before``.

    ``values`` are the columns that change besides ``state``. Leaves a line in the audit. A guard
    that matches no row raises :class:`~flow.errors.GuardFailed` and nothing of the flush is kept.
    """

    task_pk: int
    event: TaskEvent
    source: TaskState
    target: TaskState
    token_before: int
    values: Mapping[str, Any]
    at: datetime
    actor: str
    """Who: ``dispatcher``, ``agent <name>``, ``user <name>``."""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetWish:
    """Somebody wants a running task instance to end; guarded by its live ``token``. Leaves a line
    in the audit."""

    task_pk: int
    token: int
    wish: Wish
    actor: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeBackDeath:
    """A task instance has only so many ``deaths`` from now on: one agent that ran it had not died.
    No transition; guarded by ``state`` and ``token``. Leaves a line in the audit."""

    task_pk: int
    state: TaskState
    token: int
    deaths: int
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class SetCancelled:
    """Somebody wants a run to end (``by``), or no longer (``by`` is empty). Leaves a line in the
    audit."""

    run_pk: int
    by: str
    actor: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenTry:
    """A claim was granted: a try begins. (task_pk, try_number) is unique."""

    task_pk: int
    try_number: int
    token: int
    agent: str
    session: int
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseTry:
    """A token ended. ``outcome``: success, failed, released or lost. ``started_at`` and
    ``ended_at`` are the agent's, where it reported them."""

    task_pk: int
    try_number: int
    token: int
    outcome: str
    at: datetime
    exit_code: int | None = None
    reason: str = ""
    started_at: datetime | None = None
    ended_at: datetime | None = None
    memory_peak: int | None = None
    """Bytes."""
    cpu_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveXcoms:
    """What a try has pushed, by key, as JSON texts: in the place of all that its task instance
    had."""

    task_pk: int
    values: Mapping[str, str]
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveAgent:
    """Insert or replace the agent's row, and the row of its session when that is new."""

    agent: AgentRow
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ToldAgent:
    """Somebody wants something of an agent; its row comes with :class:`SaveAgent`, this is the line
    in the audit. ``event``: drain, resume or set."""

    agent: str
    event: str
    reason: str
    actor: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class EndSession:
    """A session is over: ``how`` is goodbye, superseded, lapsed, lost or declared
    dead."""

    agent: str
    session: int
    how: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class TouchAgents:
    """When agents were last heard, for display only: leases live in memory."""

    heard: Mapping[str, datetime]


@dataclass(frozen=True, slots=True, kw_only=True)
class TouchLeader:
    """The dispatcher was there and could write at this moment, for display only."""

    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class SetPaused:
    """Pause or unpause a DAG; leaves a line in the audit."""

    dag_id: str
    paused: bool
    at: datetime
    actor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseIntent:
    """An intent is dealt with; ``error`` is empty when it was carried out."""

    intent_id: int
    at: datetime
    error: str = ""


Write = (
    InsertRun
    | MoveRun
    | MoveTask
    | SetWish
    | TakeBackDeath
    | SetCancelled
    | OpenTry
    | CloseTry
    | SaveXcoms
    | SaveAgent
    | ToldAgent
    | EndSession
    | TouchAgents
    | TouchLeader
    | SetPaused
    | CloseIntent
)
