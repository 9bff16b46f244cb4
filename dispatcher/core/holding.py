"""Whether an agent has room for a task, and room that is kept for a task that needs much.

Tasks of one slot would take each slot of an agent as it becomes free, and one that needs several
would wait for ever. So the first task of a queue, by rank, that fits nowhere has an agent's room
*held* for it: the agent goes on with what it runs, but what becomes free there is not given to
tasks that rank below, whatever their queue, until there is enough. Only that much is held, of one
agent, and for one task per agent. A task that ranks above takes what is free, and may take the
hold. Slots are not held while devices are lacking: nothing could be done with them.
"""

from __future__ import annotations

from dispatcher.core.queues import Hold, Rank, Shape
from dispatcher.core.records import TaskRow
from dispatcher.core.state import Agent, State
from flow.states import TaskState


def refusal(state: State, agent: Agent, task: TaskRow) -> str:
    """Why the agent cannot take this task now, or ``""``."""
    if agent.row.suspended:
        return f"agent {agent.row.name} is suspended: {agent.row.suspended}"
    if agent.row.drained:
        return f"agent {agent.row.name} is drained: {agent.row.drained}"
    if not agent.serves(task.queue):
        return f"agent {agent.row.name} shall no longer serve queue {task.queue!r}"
    if lack := _lack(state, agent, state.shape(task), state.rank(task)):
        return lack
    if is_suspect(state, task) and any(
        is_suspect(state, state.tasks[pk]) for pk in agent.tokens.values()
    ):
        # One suspect at a time, so that the next death has one culprit.
        return f"agent {agent.row.name} runs another task that may have killed an agent"
    return ""


def is_suspect(state: State, task: TaskRow) -> bool:
    """Whether one more death of an agent fails the task as poison. Not sooner: after an agent's
    first death all that it ran shall run again side by side."""
    return task.deaths >= state.rules.max_deaths - 1


def hold_room(state: State, task: TaskRow) -> None:
    """Keep what becomes free at one agent for *task*: at the one that lacks least, unless nobody
    could ever take it."""
    if task.id in state.holds:
        return
    shape, rank = state.shape(task), state.rank(task)
    able = [agent for agent in state.serving(task.queue) if _may_hold(agent, shape, rank)]
    if not able:
        return
    chosen = min(able, key=lambda agent: (*_missing(agent, shape), agent.row.name))
    if chosen.hold is not None:
        del state.holds[chosen.hold.task_pk]
    chosen.hold = Hold(task.id, shape, rank)
    state.holds[task.id] = chosen.row.name


def drop_holds(state: State) -> list[Agent]:
    """End the holds that are of no use any more; return the agents whose room they kept."""
    return [
        _drop(state, task_pk) for task_pk in list(state.holds) if not _is_wanted(state, task_pk)
    ]


def _is_wanted(state: State, task_pk: int) -> bool:
    agent, task = state.agents[state.holds[task_pk]], state.tasks.get(task_pk)
    if task is None or agent.hold is None or not agent.taking or not agent.serves(task.queue):
        return False
    if task.state is TaskState.SCHEDULED and state.allowance(task) <= 0:
        return False
    waits = task.state in (TaskState.SCHEDULED, TaskState.QUEUED)
    return waits and agent.hold.shape.fits(agent.capacity)


def _drop(state: State, task_pk: int) -> Agent:
    agent = state.agents[state.holds.pop(task_pk)]
    agent.hold = None
    return agent


def _may_hold(agent: Agent, shape: Shape, rank: Rank) -> bool:
    free_for_it = agent.hold is None or rank < agent.hold.rank
    return agent.taking and free_for_it and shape.fits(agent.capacity)


def _missing(agent: Agent, shape: Shape) -> tuple[int, int]:
    lacking = shape.plus(agent.free, -1)
    return max(0, lacking.gpus), max(0, lacking.slots)


def _lack(state: State, agent: Agent, shape: Shape, rank: Rank) -> str:
    """What of the task's shape the agent has not got now, or ``""``."""
    if shape.fits(agent.room(rank)):
        return ""
    name, free, capacity = agent.row.name, agent.free, agent.capacity
    if agent.hold is not None and shape.fits(free):
        held = state.tasks[agent.hold.task_pk].task_id
        return f"what is free at agent {name} is kept for task {held!r}, which needs more of it"
    if free.slots == 0:
        return f"all {capacity.slots} slots of agent {name} are busy"
    if shape.slots > free.slots:
        return (
            f"it needs {shape.slots} slots, agent {name} has {free.slots} of {capacity.slots} free"
        )
    need = "a GPU" if shape.gpus == 1 else f"{shape.gpus} GPUs"
    return f"it needs {need}, agent {name} has {free.gpus} of {capacity.gpus} free"
