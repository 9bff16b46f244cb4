"""What the dispatcher holds in memory during one reign, built from a snapshot of the database."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

import msgspec

from dispatcher.core.agenda import Agenda
from dispatcher.core.plan import Plan
from dispatcher.core.queues import NOTHING, Hold, QueueState, Rank, Shape
from dispatcher.core.records import (
    AgentRow,
    AgentState,
    DagRow,
    RunRow,
    Snapshot,
    TaskRow,
    Write,
)
from dispatcher.core.rules import Upstream
from flow.states import ACTIVE, TERMINAL, RunState, TaskState
from flow.wire import Reply, Task, Terms, Wanted


@dataclass(frozen=True, slots=True)
class Instant:
    """One moment on two clocks: ``wall`` (aware, UTC) dates rows, ``mono`` (seconds, of this
    process only) measures leases and delays."""

    wall: datetime
    mono: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Settings that the core's rules read."""

    lookahead: int = 2
    """Messages kept in a queue beyond its agents' free slots, where nobody is handed tasks."""
    parallelism: int = 0
    """Task instances of all DAGs that may be queued or running; 0: any number."""
    grace: float = 15.0
    """G: seconds beyond an agent's own lease before it is taken over."""
    heartbeat_interval: float = 5.0
    """Seconds between two heartbeats of an agent, and between two pulses (``leases``)."""
    lost_after: float = 15.0
    """Seconds without a word after which an agent is shown as lost."""
    schedules: bool = True
    """Whether runs begin by schedule, or only when somebody asks for one."""
    max_deaths: int = 3
    max_releases: int = 3
    release_backoff: float = 5.0

    @property
    def short_silence(self) -> float:
        """Seconds of silence that mean nothing yet: one heartbeat may be late, or lost."""
        return 2 * self.heartbeat_interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """Values of a run that a running task asks for, and whom to send them to."""

    agent: str
    session: int
    incarnation: str = ""
    request: int
    run_pk: int
    wanted: tuple[Wanted, ...]


@dataclass(slots=True)
class Effects:
    """What is to be done, in this order: ``writes`` in one transaction, then the rest."""

    writes: list[Write] = field(default_factory=list)
    replies: list[tuple[str, Reply]] = field(default_factory=list)
    publications: list[Task] = field(default_factory=list)
    markers: list[int] = field(default_factory=list)
    lookups: list[Lookup] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Lines for the operator's log."""

    def reply(self, agent: Agent, reply: Reply) -> None:
        """Answer the agent process that has the agent's present session, and no other that uses
        its name."""
        addressed = msgspec.structs.replace(reply, incarnation=agent.row.incarnation)
        self.replies.append((agent.row.name, addressed))

    def absorb(self, later: Effects) -> None:
        """Append *later*, which happened after this."""
        self.writes += later.writes
        self.replies += later.replies
        self.publications += later.publications
        self.markers += later.markers
        self.lookups += later.lookups
        self.notes += later.notes


@dataclass(slots=True)
class ActiveRun:
    """A run that has not ended."""

    row: RunRow
    plan: Plan
    tasks: dict[str, TaskRow]
    upstream: dict[str, Upstream]
    """Per task: how its direct upstream tasks have ended so far."""
    unfinished: int

    def recount(self) -> None:
        """Derive ``upstream`` anew from the states of the tasks."""
        for spec in self.plan.spec.tasks:
            counts = self.upstream[spec.task_id] = Upstream()
            for name in spec.upstream:
                counts.count(self.tasks[name].state)


@dataclass(frozen=True, slots=True)
class Pulse:
    """The marker that is on its way to prove the events queue clear, and when (mono) it left."""

    number: int
    sent: float


@dataclass(slots=True)
class Agent:
    """An agent, its latest session, and what it holds."""

    row: AgentRow
    heard: float
    """When (mono) the last event of its session was processed, or the reign began; moved on by
    every time that does not count as silence (``leases``)."""
    spoke: float | None = None
    """When (mono) an event of its session was read in this reign."""
    tokens: dict[int, int] = field(default_factory=dict)
    """Live token -> task_pk, of this session or kept from an older one."""
    granted: dict[int, float] = field(default_factory=dict)
    """Live token -> when (mono) its grant was last sent."""
    taken: dict[int, Shape] = field(default_factory=dict)
    """Live token -> what it takes."""
    used: Shape = NOTHING
    """The sum of these."""
    gpus_elsewhere: int = 0
    """Devices that it cannot give, by its own word: another agent of its node uses them."""
    hold: Hold | None = None
    offered: set[int] = field(default_factory=set)
    """Tasks that it was offered since its last heartbeat: each once, lest they go in circles."""
    stated: Terms | None = None
    """The terms that it says it goes by; ``None``: unknown in this reign, or it cannot be told."""

    @property
    def live(self) -> bool:
        """Its session has not ended, as far as anyone knows."""
        return self.row.state in (AgentState.ONLINE, AgentState.LOST)

    @property
    def terms(self) -> Terms:
        """What people want of it."""
        row = self.row
        return Terms(drained=row.drained, queues=row.wanted_queues, slots=row.wanted_slots)

    @property
    def slots(self) -> int:
        """How many it has, or shall have, whichever is less."""
        wanted = self.row.wanted_slots
        return self.row.slots if wanted is None else min(self.row.slots, wanted)

    def serves(self, queue: str) -> bool:
        """Whether it consumes *queue*, and shall."""
        wanted = self.row.wanted_queues
        return queue in self.row.queues and (wanted is None or queue in wanted)

    @property
    def taking(self) -> bool:
        """Whether it may start anything new."""
        row = self.row
        return row.state is AgentState.ONLINE and not row.suspended and not row.drained

    @property
    def hands(self) -> bool:
        """Whether it may be handed a task that it has not claimed (``handover``)."""
        return self.taking and self.stated is not None

    @property
    def capacity(self) -> Shape:
        """What it has while nothing runs there."""
        return Shape(self.slots, len(self.row.gpus))

    @property
    def free(self) -> Shape:
        """What it could give now. Devices: how many different ones surely have a place, wherever
        its tasks share them."""
        if not self.taking:
            return NOTHING
        full = self.used.gpus // max(1, self.row.gpu_share) + self.gpus_elsewhere
        return Shape(max(0, self.slots - self.used.slots), max(0, len(self.row.gpus) - full))

    def room(self, rank: Rank) -> Shape:
        """What a task of *rank* may count on: not on what is held for one that goes before it.
        While that one lacks devices, its slots are of no use to it and anybody's."""
        free = self.free
        if self.hold is None or self.hold.rank >= rank:
            return free
        held = self.hold.shape
        slots = free.slots if held.gpus > free.gpus else free.slots - held.slots
        return Shape(max(0, slots), max(0, free.gpus - held.gpus))

    def take(self, token: int, task_pk: int, shape: Shape) -> None:
        """*token* lives from now on."""
        self.tokens[token] = task_pk
        self.taken[token] = shape
        self.used = self.used.plus(shape)

    def give_back(self, token: int) -> None:
        """*token* has ended."""
        self.tokens.pop(token, None)
        self.granted.pop(token, None)
        self.used = self.used.plus(self.taken.pop(token, NOTHING), -1)

    def devices_said(self, free_gpus: int | None) -> bool:
        """It says how many different devices it could give; ``None``: it does not say. Whether it
        has more to give than was thought."""
        before = self.gpus_elsewhere
        if free_gpus is not None:
            counted = len(self.row.gpus) - self.used.gpus // max(1, self.row.gpu_share)
            self.gpus_elsewhere = max(0, counted - free_gpus)
        return self.gpus_elsewhere < before


@dataclass(slots=True)
class State:
    """Everything the rules read and change."""

    rules: Rules
    reign: int
    dags: dict[str, DagRow] = field(default_factory=dict)
    plans: dict[int, Plan] = field(default_factory=dict)
    runs: dict[int, ActiveRun] = field(default_factory=dict)
    tasks: dict[int, TaskRow] = field(default_factory=dict)
    queues: dict[str, QueueState] = field(default_factory=dict)
    stirred: dict[str, None] = field(default_factory=dict)
    """Queues in which something has become ready or has left, since they were last looked at."""
    agents: dict[str, Agent] = field(default_factory=dict)
    servers: dict[str, list[Agent]] | None = None
    """By queue: the agents whose settings have it. ``None``: to be made anew, after a hello."""
    waiting_runs: dict[str, deque[int]] = field(default_factory=dict)
    """Per DAG: runs in state queued, oldest first."""
    held: dict[str, list[Rank]] = field(default_factory=dict)
    """Per DAG: heap, like ``ready``, of tasks held back by its pause or its max_active_tasks."""
    active_tasks: dict[str, int] = field(default_factory=dict)
    """Per DAG: task instances queued or running."""
    active_runs: dict[str, int] = field(default_factory=dict)
    agenda: Agenda = field(default_factory=Agenda)
    past: dict[int, frozenset[str]] = field(default_factory=dict)
    """By ended run that another one follows by schedule: the tasks that did not succeed."""
    followers: dict[int, int] = field(default_factory=dict)
    """By run: the unfinished one that follows it by schedule."""
    seen_intents: set[int] = field(default_factory=set)
    timers: list[tuple[float, int, int]] = field(default_factory=list)
    """Heap of (mono, task_pk, try_number): when a delayed task may be looked at again."""
    holds: dict[int, str] = field(default_factory=dict)
    """By task_pk: the agent that has a :class:`Hold` for it."""
    meant: dict[int, str] = field(default_factory=dict)
    """By task_pk: the agent that it is offered to, since another one had no room for it."""
    last_run_pk: int = 0
    last_task_pk: int = 0
    last_token: int = 0
    last_marker: int = 0
    pulse: Pulse | None = None
    last_pulse: float = -math.inf
    """When (mono) a pulse last came back."""

    def queue(self, name: str) -> QueueState:
        """The queue's state, made on first use."""
        return self.queues.setdefault(name, QueueState(name))

    def run_of(self, task: TaskRow) -> ActiveRun:
        """The run a task instance belongs to."""
        return self.runs[task.run_pk]

    def shape(self, task: TaskRow) -> Shape:
        """What *task* takes of its agent."""
        resources = self.run_of(task).plan.tasks[task.task_id].resources
        return Shape(resources.slots, resources.gpus)

    def rank(self, task: TaskRow) -> Rank:
        """When it is *task*'s turn."""
        spec = self.run_of(task).plan.tasks[task.task_id]
        return -spec.priority_weight, task.run_pk, task.id

    def allowance(self, task: TaskRow) -> int:
        """How many more task instances of the task's DAG may be queued or running now."""
        run = self.run_of(task)
        dag = self.dags.get(run.row.dag_id)
        if dag is not None and dag.paused:
            return 0
        return run.plan.spec.max_active_tasks - self.active_tasks[run.row.dag_id]

    @property
    def parallel_room(self) -> int:
        """How many more task instances of all DAGs may be queued or running, by ``parallelism``."""
        return self.rules.parallelism - sum(self.active_tasks.values())

    def serving(self, queue: str) -> Iterable[Agent]:
        """Live agents that serve *queue*."""
        if self.servers is None:
            self.servers = {}
            for agent in self.agents.values():
                for name in agent.row.queues:
                    self.servers.setdefault(name, []).append(agent)
        return (a for a in self.servers.get(queue, ()) if a.live and a.serves(queue))

    def next_marker(self) -> int:
        """A number for a marker of this reign."""
        self.last_marker += 1
        return self.last_marker

    def next_token(self, wall: datetime) -> int:
        """A fencing token above all before it, of whatever task instance: messages name a token
        alone. Unix milliseconds keep it growing even over a database that lost its newest rows."""
        self.last_token = max(self.last_token + 1, int(wall.timestamp() * 1000))
        return self.last_token

    def wake_at(self, mono: float, task: TaskRow) -> None:
        """Look at *task* again at *mono*, unless its try has changed by then."""
        heapq.heappush(self.timers, (mono, task.id, task.try_number))


def rebuild(snapshot: Snapshot, *, reign: int, rules: Rules, now: Instant) -> State:
    """The state a reign starts from. Lease timers start afresh: what was heard in an earlier
    reign counts for nothing, since nobody knows what lies unread in the events queue."""
    state = State(rules=rules, reign=reign)
    state.last_run_pk, state.last_task_pk = snapshot.last_run_pk, snapshot.last_task_pk
    state.last_token = snapshot.last_token
    state.plans = {pk: Plan.of(spec) for pk, spec in snapshot.versions.items()}
    state.dags = {row.dag_id: row for row in snapshot.dags}
    state.agents = {row.name: Agent(row, heard=now.mono) for row in snapshot.agents}
    state.agenda = Agenda.of(state.dags, snapshot.last_scheduled)
    state.past = dict(snapshot.past)
    tasks_of: dict[int, list[TaskRow]] = {}
    for task in snapshot.tasks:
        tasks_of.setdefault(task.run_pk, []).append(task)
    for run in sorted(snapshot.runs, key=lambda row: row.id):
        _adopt_run(state, run, tasks_of.get(run.id, []), now)
    return state


def _adopt_run(state: State, row: RunRow, tasks: list[TaskRow], now: Instant) -> None:
    add_run(state, row, tasks)
    for task in tasks:
        match task.state:
            case TaskState.SCHEDULED | TaskState.UP_FOR_RETRY:
                delay = (task.not_before - now.wall).total_seconds() if task.not_before else 0.0
                state.wake_at(now.mono + max(0.0, delay), task)
            case TaskState.QUEUED:
                state.queue(task.queue).enqueue(task.id, state.shape(task))
            case TaskState.RUNNING:
                if task.agent is not None:
                    holder = state.agents[task.agent]
                    holder.take(task.token, task.id, state.shape(task))
                    holder.granted[task.token] = now.mono


def add_run(state: State, row: RunRow, tasks: list[TaskRow]) -> ActiveRun:
    """Take a run, new or loaded, into the counters."""
    plan = state.plans[row.version_id]
    unfinished = sum(task.state not in TERMINAL for task in tasks)
    run = ActiveRun(row, plan, {task.task_id: task for task in tasks}, {}, unfinished)
    run.recount()
    state.runs[row.id] = run
    if row.previous_pk is not None:
        state.followers[row.previous_pk] = row.id
    state.tasks.update((task.id, task) for task in tasks)
    if row.state is RunState.QUEUED:
        state.waiting_runs.setdefault(row.dag_id, deque()).append(row.id)
    elif row.state is RunState.RUNNING:
        state.active_runs[row.dag_id] = state.active_runs.get(row.dag_id, 0) + 1
    active = sum(task.state in ACTIVE for task in tasks)
    state.active_tasks[row.dag_id] = state.active_tasks.get(row.dag_id, 0) + active
    return run
