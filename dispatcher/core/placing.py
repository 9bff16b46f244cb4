"""Which scheduled task is published next: priorities and limits live here, not in the broker.

A queue holds only as many messages as its agents have free slots, plus a small lookahead, so that
a task of higher priority that turns up later overtakes all but those few.
"""

from __future__ import annotations

import heapq
from datetime import datetime

from dispatcher.core.moves import move_task
from dispatcher.core.records import TaskRow
from dispatcher.core.state import Effects, Instant, State
from flow.states import TaskEvent, TaskState
from flow.wire import Task


def make_ready(state: State, task: TaskRow) -> None:
    """Put a scheduled task whose delay has passed where :func:`place` finds it."""
    heapq.heappush(state.queue(task.queue).ready, _rank(state, task))


def place(state: State, name: str, now: Instant, out: Effects, most: int | None = None) -> int:
    """Queue the best of a queue's scheduled tasks while it has room, *most* at the most; how many
    it were."""
    queue = state.queue(name)
    room = sum(agent.free for agent in state.serving(name)) - len(queue.queued)
    if not queue.parked:
        room += state.rules.lookahead
    if most is not None:
        room = min(room, most)
    placed = 0
    while placed < room and queue.ready:
        task = state.tasks.get(heapq.heappop(queue.ready)[2])
        if task is None or task.state is not TaskState.SCHEDULED:
            continue
        if _room_for(state, task) <= 0:
            held = state.held.setdefault(state.run_of(task).row.dag_id, [])
            heapq.heappush(held, _rank(state, task))
            continue
        move_task(state, task, TaskEvent.QUEUE, now, out, queued_at=now.wall)
        queue.queued.add(task.id)
        out.publications.append(publication(state, task))
        placed += 1
    return placed


def place_all(state: State, now: Instant, out: Effects) -> None:
    """:func:`place` for every queue with something to publish."""
    if state.rules.parallelism:
        room = state.rules.parallelism - sum(state.active_tasks.values())
        _place_best(state, room, now, out)
        return
    for name, queue in state.queues.items():
        if queue.ready:
            place(state, name, now, out)


def _place_best(state: State, room: int, now: Instant, out: Effects) -> None:
    """Queue the *room* best tasks of all queues, one by one: what is left over stays ready, and is
    looked at again with the next event."""
    open_queues = [queue for queue in state.queues.values() if queue.ready]
    while room > 0 and open_queues:
        best = min(open_queues, key=lambda queue: queue.ready[0])
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
    becomes free; at once, if another agent has one now."""
    queue = state.queue(task.queue)
    queue.parked.add(task.id)
    free = sum(agent.free for agent in state.serving(task.queue))
    if free > len(queue.queued):
        unpark(state, task.queue)


def unpark(state: State, name: str) -> None:
    """A slot may have become free for queue *name*."""
    queue = state.queue(name)
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
            if _room_for(state, task) <= let_go:
                return
            make_ready(state, task)
            let_go += 1
        heapq.heappop(held)


def _rank(state: State, task: TaskRow) -> tuple[int, int, int]:
    spec = state.run_of(task).plan.tasks[task.task_id]
    return -spec.priority_weight, task.run_pk, task.id


def _room_for(state: State, task: TaskRow) -> int:
    """How many more task instances of the task's DAG may be queued or running now."""
    run = state.run_of(task)
    dag = state.dags.get(run.row.dag_id)
    if dag is not None and dag.paused:
        return 0
    return run.plan.spec.max_active_tasks - state.active_tasks[run.row.dag_id]
