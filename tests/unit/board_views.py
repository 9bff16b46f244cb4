"""Views for tests of the board: one full of everything, and random ones."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from dispatcher.core.records import AgentState
from dispatcher.store.views import (
    AgentView,
    BoardView,
    FailureView,
    ImportErrorView,
    LeaderView,
    QueueView,
    RunProgress,
    RunView,
)
from flow.states import RUN_TERMINAL, RunState, TaskState

NOW = datetime(2026, 11, 21, 12, 34, 56, tzinfo=UTC)


def ago(seconds: float) -> datetime:
    """A moment before now."""
    return NOW - timedelta(seconds=seconds)


def agent(name: str, *queues: str, **given: Any) -> AgentView:
    """An agent that is online."""
    values: dict[str, Any] = {"slots": 8, "busy": 2, "state": AgentState.ONLINE}
    return AgentView(name=name, queues=queues, **{**values, "last_heartbeat": ago(3), **given})


def queue(name: str, waiting: int = 0, running: int = 0, agents: int = 1) -> QueueView:
    """A queue."""
    return QueueView(name=name, waiting=waiting, running=running, agents=agents)


def run(number: int, state: RunState, dag_id: str = "train", **tasks: int) -> RunProgress:
    """A run that began 100 s ago, with so many tasks per state."""
    view = RunView(
        pk=number,
        dag_id=dag_id,
        run_id=f"manual__2026-11-21T12:{number % 60:02}:00.000000+00:00__{number:04x}",
        state=state,
        conf={},
        logical_date=None,
        created_at=ago(100),
        start_date=None if state is RunState.QUEUED else ago(100),
        end_date=ago(40) if state in RUN_TERMINAL else None,
        version_pk=1,
    )
    return RunProgress(run=view, tasks={TaskState(name): count for name, count in tasks.items()})


def failure(task_id: str, reason: str, **given: Any) -> FailureView:
    """A task that failed 90 s ago."""
    values: dict[str, Any] = {
        "dag_id": "train",
        "run_id": "manual__2026-11-21T12:01:00.000000+00:00__0001",
        "state": TaskState.FAILED,
        "try_number": 1,
        "agent": "gpu-box",
        "at": ago(90),
    }
    return FailureView(task_id=task_id, reason=reason, **{**values, **given})


def full_view() -> BoardView:
    """Something of everything."""
    return BoardView(
        at=ago(0.1),
        leader=LeaderView(dispatcher="control-1-4711", epoch=4, heard_at=ago(2)),
        agents=(
            agent("cpu-1", "cpu", "default", slots=16, busy=11),
            agent(
                "cpu-2",
                "cpu",
                "default",
                slots=16,
                busy=0,
                state=AgentState.LOST,
                last_heartbeat=ago(19),
            ),
            agent("gpu-box", "gpu", "gpu.a100", slots=4, busy=4),
            agent("old", "cpu", state=AgentState.OFFLINE, busy=0, last_heartbeat=ago(90_000)),
            agent("tape", "archive", state=AgentState.DEAD, busy=0, last_heartbeat=ago(130)),
        ),
        queues=(
            queue("archive", agents=0),
            queue("cpu", waiting=7, running=11, agents=2),
            queue("default"),
            queue("gpu", waiting=2, running=4),
            queue("gpuu", waiting=1, agents=0),
        ),
        active_runs=3,
        runs=(
            run(9, RunState.RUNNING, success=9, running=4, queued=2, none=5, failed=1),
            run(
                8,
                RunState.RUNNING,
                dag_id="nightly_report",
                success=50,
                up_for_retry=1,
                running=3,
                scheduled=9,
                none=40,
            ),
            run(7, RunState.QUEUED, dag_id="nightly_report", none=12),
            run(6, RunState.SUCCESS, success=20),
            run(5, RunState.FAILED, success=11, failed=2, upstream_failed=7),
            *(
                run(number, RunState.SUCCESS, dag_id="two_queues", success=4)
                for number in range(4, 0, -1)
            ),
        ),
        failures=(
            failure("evaluate", "exit code 1"),
            failure("fetch", "killed after execution_timeout of 3600 s", at=ago(700)),
            failure("load", "agent tape was lost", state=TaskState.UP_FOR_RETRY, try_number=2),
        ),
        errors=(
            ImportErrorView(
                file="broken.py",
                at=ago(3000),
                message="broken.py:12: dag 'x': expected a task, got None; return it",
            ),
        ),
    )


_texts = st.text(max_size=60)
_small = st.integers(min_value=0, max_value=50)
_counts = st.integers(min_value=0, max_value=10**9)
_ages = st.floats(min_value=-1e5, max_value=1e8).map(ago)
_agents = st.builds(
    AgentView,
    name=_texts,
    queues=st.lists(_texts, max_size=4).map(tuple),
    slots=_counts,
    busy=_counts,
    state=st.sampled_from(AgentState),
    last_heartbeat=st.none() | _ages,
)
_queues = st.builds(QueueView, name=_texts, waiting=_counts, running=_counts, agents=_small)
_runs = st.builds(
    RunProgress,
    run=st.builds(
        RunView,
        pk=_counts,
        dag_id=_texts,
        run_id=_texts,
        state=st.sampled_from(RunState),
        conf=st.just({}),
        logical_date=st.none(),
        created_at=_ages,
        start_date=st.none() | _ages,
        end_date=st.none() | _ages,
        version_pk=_counts,
    ),
    tasks=st.dictionaries(st.sampled_from(TaskState), _counts),
)
_failures = st.builds(
    FailureView,
    dag_id=_texts,
    run_id=_texts,
    task_id=_texts,
    state=st.sampled_from(TaskState),
    try_number=_small,
    agent=st.none() | _texts,
    reason=_texts,
    at=st.none() | _ages,
)
_errors = st.builds(ImportErrorView, file=_texts, message=_texts, at=_ages)
_leaders = st.builds(LeaderView, dispatcher=_texts, epoch=_counts, heard_at=_ages)


@st.composite
def views(draw: st.DrawFn) -> BoardView:
    """Any view at all."""
    runs = draw(st.lists(_runs, max_size=30).map(tuple))
    active = sum(progress.run.state not in RUN_TERMINAL for progress in runs)
    return BoardView(
        at=draw(_ages),
        leader=draw(st.none() | _leaders),
        agents=draw(st.lists(_agents, max_size=30).map(tuple)),
        queues=draw(st.lists(_queues, max_size=30).map(tuple)),
        active_runs=active + draw(_small),
        runs=runs,
        failures=draw(st.lists(_failures, max_size=15).map(tuple)),
        errors=draw(st.lists(_errors, max_size=15).map(tuple)),
    )
