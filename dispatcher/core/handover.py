"""An agent that has just ended a task is handed the next one, with its grant.

Who takes a task needs no finding out then: the agent has room, since its task has left it, and is
alive, since it has just said so. That saves a message in the queue, a claim and a commit for most
tasks of a busy agent, and for every task that follows another. Only one for each that ended: what
else has become ready goes through the queue, to whoever has room. And only to an agent that states
its terms: an older release starts nothing that it has not claimed.
"""

from __future__ import annotations

from dispatcher.core.claims import grant
from dispatcher.core.holding import hold_room, refusal
from dispatcher.core.moves import move_task
from dispatcher.core.placing import hold_back, publication
from dispatcher.core.queues import ONE, QueueState, Rank, Shape
from dispatcher.core.records import TaskRow
from dispatcher.core.state import Agent, Effects, Instant, State
from flow.states import TaskEvent, TaskState


def hand_over(state: State, agent: Agent, now: Instant, out: Effects) -> None:
    """Grant *agent* the best of what is ready in its queues, if it has room for it."""
    if not agent.hands or (state.rules.parallelism and state.parallel_room <= 0):
        return
    found: list[tuple[Rank, Shape, str]] = []
    for name in agent.row.queues:
        queue = state.queues.get(name)
        if queue is not None and queue.ready:
            found += _best(state, agent, queue)
    if not found:
        return
    rank, shape, name = min(found)
    state.queue(name).pop(shape)
    task = state.tasks[rank[2]]
    move_task(state, task, TaskEvent.QUEUE, now, out, queued_at=now.wall)
    grant(state, agent, task, now, out, message=publication(state, task))


def _best(state: State, agent: Agent, queue: QueueState) -> list[tuple[Rank, Shape, str]]:
    """The first task of *queue* that the agent may be handed, or nothing."""
    stuck: set[Shape] = set()
    while best := queue.best(stuck):
        rank, shape = best
        task = state.tasks.get(rank[2])
        if task is None or task.state is not TaskState.SCHEDULED:
            queue.pop(shape)
        elif state.allowance(task) <= 0:
            hold_back(state, queue, rank, shape)
        elif _suits(state, agent, queue, task, shape):
            return [(rank, shape, queue.name)]
        else:
            stuck.add(shape)
            if shape != ONE:
                hold_room(state, task)
    return []


def _suits(state: State, agent: Agent, queue: QueueState, task: TaskRow, shape: Shape) -> bool:
    """Whether *agent* has room for *task* although all that is on its way in the queue came to it,
    and nobody else is to have the task."""
    others = {state.holds.get(task.id), state.meant.get(task.id)} - {None, agent.row.name}
    fits = queue.awaited.plus(shape).fits(agent.free)
    return fits and not others and not refusal(state, agent, task)
