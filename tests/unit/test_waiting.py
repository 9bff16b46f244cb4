"""Why a task waits: every clause with its full text."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dispatcher.core.queues import Shape
from dispatcher.waiting import (
    QueueLoad,
    Surroundings,
    Waiter,
    no_agent,
    why_run_waits,
    why_waiting,
)
from flow.states import RunState, TaskState

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
IDLE = QueueLoad(agents=1, slots=4)
RUNNING = Surroundings(run_state=RunState.RUNNING)


def waiter(state: TaskState, **values: Any) -> Waiter:
    return Waiter(**{"state": state, "queue": "q2", "upstream": {}, **values})


def test_a_queued_task_whose_queue_nobody_serves_names_the_queue() -> None:
    reason = why_waiting(waiter(TaskState.QUEUED), RUNNING, QueueLoad(), NOW)
    assert reason == "queue q2: 0 agents"


def test_a_scheduled_task_whose_queue_nobody_serves_names_the_queue() -> None:
    reason = why_waiting(waiter(TaskState.SCHEDULED), RUNNING, QueueLoad(), NOW)
    assert reason == "queue q2: 0 agents"


def test_agents_that_are_not_heard_are_called_lost() -> None:
    assert no_agent("q2", QueueLoad(agents=1, lost=1, slots=4)) == "queue q2: 1 agent, lost"
    assert no_agent("q2", QueueLoad(agents=2, lost=2, slots=4)) == "queue q2: 2 agents, lost"
    assert no_agent("q2", QueueLoad(agents=2, lost=1, slots=4)) == ""


def test_agents_that_take_nothing_are_called_suspended() -> None:
    one = QueueLoad(agents=1, suspended=1, slots=4)
    assert no_agent("q2", one) == "queue q2: 1 agent, suspended"
    two = QueueLoad(agents=2, suspended=1, lost=1, slots=4)
    assert no_agent("q2", two) == "queue q2: 2 agents, suspended"
    assert no_agent("q2", QueueLoad(agents=2, suspended=1, slots=4)) == ""


def test_a_task_for_full_agents_waits_for_a_slot() -> None:
    full = QueueLoad(agents=2, slots=4, busy=4)
    reason = why_waiting(waiter(TaskState.QUEUED), RUNNING, full, NOW)
    assert reason == "queue q2: all 4 slots busy"
    one = QueueLoad(agents=1, slots=1, busy=1)
    reason = why_waiting(waiter(TaskState.SCHEDULED), RUNNING, one, NOW)
    assert reason == "queue q2: all 1 slot busy"


def test_a_queued_task_with_a_free_agent_waits_to_be_claimed() -> None:
    assert why_waiting(waiter(TaskState.QUEUED), RUNNING, IDLE, NOW) == "waits to be claimed"


def test_a_pause_does_not_hold_back_what_is_published_already() -> None:
    paused = Surroundings(run_state=RunState.RUNNING, paused=True, active_tasks=16)
    assert why_waiting(waiter(TaskState.QUEUED), paused, IDLE, NOW) == "waits to be claimed"


def test_a_task_names_the_upstream_tasks_that_have_not_succeeded() -> None:
    upstream = {
        "b": TaskState.RUNNING,
        "a": TaskState.NONE,
        "c": TaskState.SUCCESS,
    }
    reason = why_waiting(waiter(TaskState.NONE, upstream=upstream), RUNNING, IDLE, NOW)
    assert reason == "waits for upstream a, b"


def test_a_long_list_of_upstream_tasks_is_cut() -> None:
    upstream = {f"t{number}": TaskState.NONE for number in range(8)}
    reason = why_waiting(waiter(TaskState.NONE, upstream=upstream), RUNNING, IDLE, NOW)
    assert reason == "waits for upstream t0, t1, t2, t3, t4 and 3 more"


def test_a_task_whose_upstream_has_succeeded_waits_for_the_dispatcher() -> None:
    ready = waiter(TaskState.NONE, upstream={"a": TaskState.SUCCESS})
    assert why_waiting(ready, RUNNING, IDLE, NOW) == "waits for the dispatcher"
    scheduled = waiter(TaskState.SCHEDULED)
    assert why_waiting(scheduled, RUNNING, IDLE, NOW) == "waits for the dispatcher"


def test_a_retry_tells_which_one_it_is_and_when() -> None:
    later = NOW + timedelta(minutes=5)
    failed = waiter(TaskState.UP_FOR_RETRY, failures=2, retries=3, not_before=later)
    reason = why_waiting(failed, RUNNING, QueueLoad(), NOW)
    assert reason == "retry 2 of 3 at 2026-11-21T12:05:00+00:00"


def test_a_task_given_back_tells_why_and_when_it_is_tried_again() -> None:
    later = NOW + timedelta(seconds=10)
    given_back = waiter(TaskState.SCHEDULED, stored="no disk space", not_before=later)
    reason = why_waiting(given_back, RUNNING, IDLE, NOW)
    assert reason == "no disk space; again at 2026-11-21T12:00:10+00:00"


def test_what_put_a_scheduled_task_back_is_told_when_nothing_else_holds_it() -> None:
    put_back = waiter(TaskState.SCHEDULED, stored="agent node1 runs another suspect")
    assert why_waiting(put_back, RUNNING, IDLE, NOW) == "agent node1 runs another suspect"


def test_a_paused_dag_holds_its_scheduled_tasks() -> None:
    paused = Surroundings(run_state=RunState.RUNNING, paused=True)
    reason = why_waiting(waiter(TaskState.SCHEDULED), paused, QueueLoad(), NOW)
    assert reason == "the DAG is paused"


def test_max_active_tasks_is_named_with_its_value() -> None:
    full = Surroundings(run_state=RunState.RUNNING, active_tasks=2, max_active_tasks=2)
    reason = why_waiting(waiter(TaskState.SCHEDULED), full, IDLE, NOW)
    assert reason == "max_active_tasks=2 of the DAG is reached"


def test_tasks_of_a_queued_run_wait_for_the_run() -> None:
    around = Surroundings(run_state=RunState.QUEUED, active_runs=1, max_active_runs=1)
    reason = why_waiting(waiter(TaskState.NONE), around, IDLE, NOW)
    assert reason == "max_active_runs=1 of the DAG is reached"


def test_a_queued_run_tells_why() -> None:
    assert (
        why_run_waits(Surroundings(run_state=RunState.QUEUED, paused=True)) == "the DAG is paused"
    )
    assert why_run_waits(Surroundings(run_state=RunState.QUEUED)) == "waits for the dispatcher"


@pytest.mark.parametrize(
    "state",
    [TaskState.RUNNING, TaskState.SUCCESS, TaskState.FAILED, TaskState.UPSTREAM_FAILED],
)
def test_what_runs_or_has_ended_waits_for_nothing(state: TaskState) -> None:
    assert why_waiting(waiter(state), RUNNING, QueueLoad(), NOW) == ""


def test_a_task_that_depends_on_its_past_names_the_run_and_what_became_of_it_there() -> None:
    held = waiter(TaskState.NONE, past="it is failed in scheduled__2026-11-20T00:00:00+00:00")
    reason = why_waiting(held, RUNNING, IDLE, NOW)
    assert reason == "depends_on_past: it is failed in scheduled__2026-11-20T00:00:00+00:00"


def test_parallelism_is_named_with_its_value() -> None:
    full = Surroundings(run_state=RunState.RUNNING, all_active_tasks=4, parallelism=4)
    reason = why_waiting(waiter(TaskState.SCHEDULED), full, IDLE, NOW)
    assert reason == "parallelism=4 of the dispatcher is reached"
    unlimited = Surroundings(run_state=RunState.RUNNING, all_active_tasks=4)
    assert why_waiting(waiter(TaskState.SCHEDULED), unlimited, IDLE, NOW) != reason


def test_agents_that_are_drained_are_called_that() -> None:
    assert no_agent("q2", QueueLoad(agents=1, drained=1)) == "queue q2: 1 agent, drained"
    both = QueueLoad(agents=2, drained=1, suspended=1)
    assert no_agent("q2", both) == "queue q2: 2 agents, suspended or drained"
    assert no_agent("q2", QueueLoad(agents=2, drained=1, slots=4)) == ""


def fleet(*agents: tuple[int, int, int, int]) -> QueueLoad:
    """Agents by their slots, devices, and how much of both is free."""
    return QueueLoad(
        agents=len(agents),
        slots=sum(slots for slots, *_ in agents),
        busy=sum(slots - free for slots, _, free, _ in agents),
        capacities=tuple(Shape(slots, gpus) for slots, gpus, _, _ in agents),
        free=tuple(Shape(slots, gpus) for _, _, slots, gpus in agents),
    )


@pytest.mark.parametrize(
    ("takes", "load", "reason"),
    [
        (Shape(8, 0), fleet((4, 0, 4, 0), (2, 0, 2, 0)), "needs 8 slots, the largest agent has 4"),
        (Shape(1, 1), fleet((4, 0, 4, 0)), "needs 1 GPU, no agent has one"),
        (
            Shape(2, 4),
            fleet((4, 2, 4, 2)),
            "needs 2 slots and 4 GPUs, the most that an agent has is 2",
        ),
        (
            Shape(8, 1),
            fleet((8, 0, 8, 0), (2, 2, 2, 2)),
            "needs 8 slots and 1 GPU, no agent has both",
        ),
        (Shape(1, 1), fleet((4, 0, 0, 0)), "needs 1 GPU, no agent has one"),
        (
            Shape(4, 0),
            fleet((4, 0, 3, 0)),
            "needs 4 slots, the most that are free at one agent are 3",
        ),
        (Shape(1, 1), fleet((4, 1, 3, 0)), "needs 1 GPU, all are busy"),
        (
            Shape(1, 2),
            fleet((4, 2, 3, 1)),
            "needs 2 GPUs, the most that are free at one agent are 1",
        ),
        (
            Shape(2, 1),
            fleet((4, 1, 2, 0), (2, 1, 1, 1)),
            "needs 2 slots and 1 GPU, no agent has both free",
        ),
        (Shape(4, 0), fleet((4, 0, 0, 0)), "all 4 slots busy"),
        (Shape(1, 0), fleet((4, 0, 0, 0)), "all 4 slots busy"),
    ],
)
@pytest.mark.parametrize("state", [TaskState.SCHEDULED, TaskState.QUEUED])
def test_what_its_agents_lack_for_a_task_is_told_with_the_figures(
    state: TaskState, takes: Shape, load: QueueLoad, reason: str
) -> None:
    assert why_waiting(waiter(state, takes=takes), RUNNING, load, NOW) == f"queue q2: {reason}"


def test_a_task_for_which_there_is_room_waits_for_no_agent() -> None:
    roomy = fleet((4, 1, 4, 1))
    assert why_waiting(waiter(TaskState.QUEUED, takes=Shape(4, 1)), RUNNING, roomy, NOW) == (
        "waits to be claimed"
    )
