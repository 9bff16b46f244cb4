"""Rows as the core knows them, and what it wants written: the vocabulary shared with the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from flow.dagspec import DagSpec
from flow.states import RunEvent, RunState, TaskEvent, TaskState


class AgentState(StrEnum):
    """What the dispatcher believes of an agent."""

    ONLINE = "online"
    SILENT = "silent"  # heartbeats are missing, the lease may still hold
    LOST = "lost"  # taken over
    OFFLINE = "offline"  # said goodbye


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


@dataclass(slots=True, kw_only=True)
class RunRow:
    """One DAG run. It keeps the version it started with."""

    id: int
    dag_id: str
    run_id: str
    version_id: int
    state: RunState
    conf: Mapping[str, Any] = field(default_factory=dict)
    logical_date: datetime | None = None
    created_at: datetime
    start_date: datetime | None = None
    end_date: datetime | None = None


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
    """Unclean ends of sessions charged to this instance; above 0 it is a suspect."""
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
    last_heartbeat: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """A command's request. ``kind`` is ``trigger``, ``pause`` or ``unpause``."""

    id: int
    kind: str
    arguments: Mapping[str, Any]
    """trigger: ``dag_id, run_id, conf``; pause, unpause: ``dag_id``; all: ``actor``, who asked."""
    created_at: datetime


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
    """A run's transition, guarded by ``id`` and ``source``; leaves a line in the audit."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveAgent:
    """Insert or replace the agent's row, and the row of its session when that is new."""

    agent: AgentRow
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class EndSession:
    """A session is over: ``how`` is goodbye, superseded, lapsed or lost."""

    agent: str
    session: int
    how: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class TouchAgents:
    """When agents were last heard, for display only: leases live in memory."""

    heard: Mapping[str, datetime]


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
    | OpenTry
    | CloseTry
    | SaveAgent
    | EndSession
    | TouchAgents
    | SetPaused
    | CloseIntent
)
