"""Which scheduled task is published next: priorities and limits live here, not in the broker.

A queue holds only as many messages as its agents have free slots, so that a task of higher priority
that turns up later overtakes all but those few; and somewhat more (the lookahead) while none of its
agents is handed the next task when one ends (``handover``).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from datetime import datetime

from dispatcher.core.holding import drop_holds, hold_room, refusal
from dispatcher.core.moves import move_task
from dispatcher.core.queues import NOTHING, ONE, QueueState, Rank, Shape
from dispatcher.core.records import TaskRow
from dispatcher.core.state import Agent, Effects, Instant, State
from flow.states import TaskEvent, TaskState
from flow.wire import Offer, Task


def make_ready(state: State, task: TaskRow) -> None:
    """Put a scheduled task whose delay has passed where :func:`place` finds it."""
    state.queue(task.queue).push(state.rank(task), state.shape(task))
    state.stirred[task.queue] = None


def place(state: State, name: str, now: Instant, out: Effects, most: int | None = None) -> int:
    """Queue the best of a queue's scheduled tasks while it has room, *most* at the most; how many
    it were. Where there is none for a task that needs much, those behind it that need less go on,
    but room is held for it (:mod:`dispatcher.core.holding`)."""
    queue = state.queue(name)
    sight = _Sight(state, queue)
    stuck: set[Shape] = set()
    placed = 0
    while (most is None or placed < most) and (best := queue.best(stuck)):
        rank, shape = best
        task = state.tasks.get(rank[2])
        if task is None or task.state is not TaskState.SCHEDULED:
            queue.pop(shape)
            continue
        may_go = sight.has_room(rank, shape)
        if (may_go or shape != ONE) and state.allowance(task) <= 0:
            hold_back(state, queue, rank, shape)
        elif may_go:
            queue.pop(shape)
            _send(state, task, shape, now, out)
            placed += 1
        else:
            stuck.add(shape)
            if shape != ONE:
                hold_room(state, task)
    return placed


def hold_back(state: State, queue: QueueState, rank: Rank, shape: Shape) -> None:
    """The first task of *shape* waits for its DAG's limit, or for the end of a pause."""
    queue.pop(shape)
    dag_id = state.run_of(state.tasks[rank[2]]).row.dag_id
    heapq.heappush(state.held.setdefault(dag_id, []), rank)


class _Sight:
    """What the agents of a queue could give at one moment."""

    def __init__(self, state: State, queue: QueueState) -> None:
        self._state = state
        self._queue = queue
        self._agents = list(state.serving(queue.name))
        self._anyone = sum(agent.free.slots for agent in self._agents)
        # Whoever ends a task is handed the next one: nothing need lie ready for that.
        ahead = not queue.parked and not any(agent.hands for agent in self._agents)
        self._ahead = state.rules.lookahead if ahead else 0

    def has_room(self, rank: Rank, shape: Shape) -> bool:
        """Whether a task of *shape* may be published: one like most others also somewhat ahead of
        the room there is, where that is of use."""
        state, queue = self._state, self._queue
        if shape == ONE and not state.holds:
            return queue.awaited.slots < self._anyone + self._ahead
        rooms = [agent.room(rank) for agent in self._agents]
        total = Shape(sum(room.slots for room in rooms), sum(room.gpus for room in rooms))
        if shape == ONE or not rooms:
            return queue.awaited.slots < total.slots + self._ahead
        if (own := state.holds.get(rank[2])) is not None:
            agent = state.agents[own]
            wanted = shape.plus(self._awaited_before(rank))
            fits = shape.fits(agent.room(rank)) and wanted.fits(total)
            if fits and rank[2] not in agent.offered:
                return True
        return queue.awaited.plus(shape).fits(total) and any(shape.fits(room) for room in rooms)

    def _awaited_before(self, rank: Rank) -> Shape:
        """What those will take that are on their way and rank above."""
        total = NOTHING
        for task_pk, shape in self._queue.queued.items():
            if self._state.rank(self._state.tasks[task_pk]) < rank:
                total = total.plus(shape)
        return total


def _send(state: State, task: TaskRow, shape: Shape, now: Instant, out: Effects) -> None:
    """Ring the bell for *task*: for whoever serves its queue, or for the one agent it is meant
    for."""
    names = state.holds.get(task.id), state.meant.get(task.id)
    move_task(state, task, TaskEvent.QUEUE, now, out, queued_at=now.wall)
    agents = [state.agents[name] for name in names if name is not None]
    agent = next((agent for agent in agents if _may_offer(state, agent, task)), None)
    # What is held at an agent is not shown as room: it is not taken of that a second time.
    held = agent is not None and agent.hold is not None and agent.hold.task_pk == task.id
    state.queue(task.queue).enqueue(task.id, NOTHING if held else shape)
    message = publication(state, task)
    if agent is not None:
        agent.offered.add(task.id)
    if agent is None or agent.stated is None:  # not to a release that does not know offers
        out.publications.append(message)
    else:
        out.reply(agent, Offer(session=agent.row.session, task=message))


def place_all(
    state: State, now: Instant, out: Effects, concerned: Iterable[str] | None = None
) -> None:
    """:func:`place` for every queue with something to publish. *concerned*: since they were last
    looked at, nothing has changed for agents but those of these queues; then those in which nothing
    has changed either are left as they are."""
    for agent in drop_holds(state):
        for name in agent.row.queues:
            unpark(state, name)
        concerned = None
    stirred, state.stirred = state.stirred, {}
    if state.rules.parallelism:
        _place_best(state, state.parallel_room, now, out)
        return
    everywhere = concerned is None or state.holds
    for name in state.queues if everywhere else {**dict.fromkeys(concerned or ()), **stirred}:
        queue = state.queues.get(name)
        if queue is not None and queue.ready:
            place(state, name, now, out)


def _place_best(state: State, room: int, now: Instant, out: Effects) -> None:
    """Queue the *room* best tasks of all queues, one by one: what is left over stays ready, and is
    looked at again with the next event."""
    open_queues = [queue for queue in state.queues.values() if queue.ready]
    while room > 0 and open_queues:
        best = min(open_queues, key=lambda queue: min(heap[0] for heap in queue.ready.values()))
        placed = place(state, best.name, now, out, most=1)
        room -= placed
        if not placed or not best.ready:
            open_queues.remove(best)


def publication(state: State, task: TaskRow) -> Task:
    """The message that rings the bell for *task*."""
    run = state.run_of(task)
    spec = run.plan.tasks[task.task_id]
    return Task(
        task_instance_id=task.id,
        dag_id=run.row.dag_id,
        run_id=run.row.run_id,
        task_id=task.task_id,
        map_index=task.map_index,
        try_number=task.try_number,
        queue=task.queue,
        operator=spec.operator,
        arguments=dict(spec.arguments),
        execution_timeout=spec.execution_timeout,
        on_agent_lost=spec.on_agent_lost,
        logical_date=_iso(run.row.logical_date),
        data_interval_start=_iso(run.row.data_interval_start),
        data_interval_end=_iso(run.row.data_interval_end),
        bundle=run.row.bundle,
        dag_file=run.plan.spec.file or None,
        line=spec.line,
        resources=spec.resources,
    )


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment is not None else None


def park(state: State, task: TaskRow) -> None:
    """Keep a task that an agent just had no room for. It goes back to the ready ones when a slot
    becomes free; at once, if another agent has room now. Then it is left to chance no more, which
    might bring it to the wrong agent again and again: it is offered to that one."""
    queue, shape = state.queue(task.queue), state.shape(task)
    queue.parked.add(task.id)
    if shape != ONE:
        hold_room(state, task)
    agents = list(state.serving(task.queue))
    roomy = [agent for agent in agents if _may_offer(state, agent, task)]
    free = sum(agent.room(state.rank(task)).slots for agent in agents)
    if roomy and (shape != ONE or queue.awaited.slots < free):
        chosen = max(roomy, key=lambda agent: (agent.free, agent.row.name))
        state.meant[task.id] = chosen.row.name
        queue.parked.discard(task.id)
        make_ready(state, task)


def _may_offer(state: State, agent: Agent, task: TaskRow) -> bool:
    """Whether *agent* has room for *task*, and was not offered it since its last heartbeat."""
    return agent.taking and task.id not in agent.offered and not refusal(state, agent, task)


def unpark(state: State, name: str) -> None:
    """A slot may have become free for queue *name*."""
    queue = state.queue(name)
    if not queue.parked:
        return
    state.stirred[name] = None
    parked, queue.parked = queue.parked, set()
    for task_pk in sorted(parked):
        task = state.tasks.get(task_pk)
        if task is not None and task.state is TaskState.SCHEDULED:
            make_ready(state, task)


def release_held(state: State, dag_id: str) -> None:
    """A DAG's limit or pause may hold its tasks back no longer: let as many go as there is room."""
    held = state.held.get(dag_id, [])
    let_go = 0
    while held:
        task = state.tasks.get(held[0][2])
        if task is not None and task.state is TaskState.SCHEDULED:
            if state.allowance(task) <= let_go:
                return
            make_ready(state, task)
            let_go += 1
        heapq.heappop(held)
