"""Why a task that has not run waits. Pure: derived whenever somebody looks, never stored.

A stored reason goes stale the moment an agent comes or goes; this one is as true as the rows it is
derived from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from dispatcher.core.queues import ONE, Shape
from flow.dagspec import Resources
from flow.states import TERMINAL, RunState, TaskState

#: The states that :func:`why_waiting` explains.
WAITING = frozenset({TaskState.NONE, TaskState.SCHEDULED, TaskState.QUEUED, TaskState.UP_FOR_RETRY})
#: Longer lists of upstream tasks are cut.
SHOWN_UPSTREAM = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiter:
    """One task instance that has not run, or is to run again."""

    state: TaskState
    queue: str
    upstream: Mapping[str, TaskState]
    """Its direct upstream tasks."""
    past: str = ""
    """Where the same task of the run before holds it back (``depends_on_past``): what that is."""
    failures: int = 0
    retries: int = 0
    not_before: datetime | None = None
    stored: str = ""
    """What its last transition left on the row."""
    takes: Shape = ONE
    """What it needs of an agent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueLoad:
    """The agents that serve one queue."""

    agents: int = 0
    """Those whose session has not ended."""
    lost: int = 0
    """Those of them that have not been heard lately."""
    suspended: int = 0
    """Those of the others that start nothing new: their disk is full."""
    drained: int = 0
    """Those of the others that somebody wants to take nothing new."""
    slots: int = 0
    busy: int = 0
    capacities: tuple[Shape, ...] = ()
    """What each of the agents has."""
    free: tuple[Shape, ...] = ()
    """What each of those that take tasks has free."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a task's run and DAG look like at the moment."""

    run_state: RunState
    paused: bool = False
    active_runs: int = 0
    max_active_runs: int = 16
    active_tasks: int = 0
    """Task instances of the DAG that are queued or running."""
    max_active_tasks: int = 16
    all_active_tasks: int = 0
    """The same over all DAGs."""
    parallelism: int = 0
    """How many those may be; 0: any number."""


def why_waiting(task: Waiter, around: Surroundings, load: QueueLoad, now: datetime) -> str:
    """One clause that names what must happen before *task* runs; ``""`` for other states.

    Where several things hold it up, the one that lasts longest without anybody acting comes first.
    """
    if task.state not in WAITING:
        return ""
    if task.state is TaskState.QUEUED:
        # Already published: neither a pause nor a limit holds it back any more.
        return no_room(task.queue, task.takes, load) or "waits to be claimed"
    if around.run_state is RunState.QUEUED:
        return why_run_waits(around)
    if task.state is TaskState.NONE:
        return _upstream(task)
    if task.not_before is not None and task.not_before > now:
        return _delayed(task, task.not_before)
    if around.paused:
        return "the DAG is paused"
    if around.active_tasks >= around.max_active_tasks:
        return f"max_active_tasks={around.max_active_tasks} of the DAG is reached"
    if 0 < around.parallelism <= around.all_active_tasks:
        return f"parallelism={around.parallelism} of the dispatcher is reached"
    return no_room(task.queue, task.takes, load) or task.stored or "waits for the dispatcher"


def why_run_waits(around: Surroundings) -> str:
    """Why a run in state queued has not started."""
    if around.paused:
        return "the DAG is paused"
    if around.active_runs >= around.max_active_runs:
        return f"max_active_runs={around.max_active_runs} of the DAG is reached"
    return "waits for the dispatcher"


def no_agent(queue: str, load: QueueLoad) -> str:
    """``queue q2: 0 agents``, or that all its agents are lost, suspended or drained; ``""`` where
    one takes tasks."""
    if load.agents == 0:
        return f"queue {queue}: 0 agents"
    if load.lost >= load.agents:
        return f"queue {queue}: {_count(load.agents, 'agent')}, lost"
    if load.lost + load.suspended + load.drained >= load.agents:
        held = {"suspended": load.suspended, "drained": load.drained}
        words = " or ".join(word for word, number in held.items() if number)
        return f"queue {queue}: {_count(load.agents, 'agent')}, {words}"
    return ""


def no_room(queue: str, takes: Shape, load: QueueLoad) -> str:
    """What is missing at the agents of *queue* for a task that *takes* so much; ``""``: nothing."""
    if missing := no_agent(queue, load) or never_fits(queue, takes, load):
        return missing
    if load.busy >= load.slots:
        return f"queue {queue}: all {_count(load.slots, 'slot')} busy"
    if takes != ONE and load.free and not any(map(takes.fits, load.free)):
        return f"queue {queue}: needs {_amount(takes)}, {_not_now(takes, load.free)}"
    return ""


def shape_of(resources: Resources) -> Shape:
    """What a task of *resources* takes of its agent."""
    return Shape(resources.slots, resources.gpus)


def never_fits(queue: str, takes: Shape, load: QueueLoad) -> str:
    """``queue gpu: needs 8 slots, the largest agent has 4``; ``""`` where an agent of *queue* has
    what a task *takes*."""
    if not load.capacities or any(map(takes.fits, load.capacities)):
        return ""
    return f"queue {queue}: needs {_amount(takes)}, {_never(takes, load.capacities)}"


def _never(takes: Shape, capacities: Iterable[Shape]) -> str:
    slots = max(shape.slots for shape in capacities)
    gpus = max(shape.gpus for shape in capacities)
    if takes.slots > slots:
        return f"the largest agent has {slots}"
    if takes.gpus > gpus:
        return f"the most that an agent has is {gpus}" if gpus else "no agent has one"
    return "no agent has both"


def _not_now(takes: Shape, free: Iterable[Shape]) -> str:
    slots, gpus = max(shape.slots for shape in free), max(shape.gpus for shape in free)
    if takes.slots > slots:
        return f"the most that are free at one agent are {slots}"
    if takes.gpus > gpus:
        return f"the most that are free at one agent are {gpus}" if gpus else "all are busy"
    return "no agent has both free"


def _amount(takes: Shape) -> str:
    gpus = _count(takes.gpus, "GPU")
    if takes.slots == 1 and takes.gpus:
        return gpus
    slots = _count(takes.slots, "slot")
    return f"{slots} and {gpus}" if takes.gpus else slots


def _upstream(task: Waiter) -> str:
    missing = [name for name, state in task.upstream.items() if state not in TERMINAL]
    if not missing:
        return f"depends_on_past: {task.past}" if task.past else "waits for the dispatcher"
    return f"waits for upstream {_names(missing)}"


def _delayed(task: Waiter, until: datetime) -> str:
    at = until.isoformat(timespec="seconds")
    if task.state is TaskState.UP_FOR_RETRY:
        return f"retry {task.failures} of {task.retries} at {at}"
    return f"{task.stored or 'put off'}; again at {at}"


def _names(names: Iterable[str]) -> str:
    listed = sorted(names)
    shown = ", ".join(listed[:SHOWN_UPSTREAM])
    rest = len(listed) - SHOWN_UPSTREAM
    return shown if rest <= 0 else f"{shown} and {rest} more"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
