"""The transition tables: complete, without dead ends, and nothing but what they say."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from itertools import product
from pathlib import Path

import pytest

from flow.states import (
    ACTIVE,
    RUN_TERMINAL,
    RUN_TRANSITIONS,
    TASK_TRANSITIONS,
    TERMINAL,
    UNSUCCESSFUL,
    RunEvent,
    RunState,
    TaskEvent,
    TaskState,
)

#: The whole truth, written once more: a pair not listed is refused.
TASK_PAIRS = """
    none          schedule       scheduled
    none          upstream_fail  upstream_failed
    scheduled     queue          queued
    queued        put_back       scheduled
    queued        grant          running
    running       succeed        success
    running       fail           failed
    running       retry          up_for_retry
    running       release        scheduled
    running       lose           scheduled
    running       skip           skipped
    up_for_retry  retry_due      scheduled
    none          skip           skipped
    none          cancel         skipped
    scheduled     cancel         skipped
    queued        cancel         skipped
    up_for_retry  cancel         skipped
    scheduled     clear          none
    queued        clear          none
    up_for_retry  clear          none
    success       clear          none
    failed        clear          none
    upstream_failed  clear       none
    skipped       clear          none
"""
RUN_PAIRS = """
    queued   start    running
    running  succeed  success
    running  fail     failed
    queued   fail     failed
    success  restart  queued
    failed   restart  queued
"""


def rows(text: str) -> dict[tuple[str, str], str]:
    split = (line.split() for line in text.strip().splitlines())
    return {(state, event): target for state, event, target in split}


@pytest.mark.parametrize(("state", "event"), list(product(TaskState, TaskEvent)))
def test_every_pair_of_a_task_is_in_the_table_or_refused(
    state: TaskState, event: TaskEvent
) -> None:
    assert TASK_TRANSITIONS.get((state, event)) == rows(TASK_PAIRS).get((state, event))


@pytest.mark.parametrize(("state", "event"), list(product(RunState, RunEvent)))
def test_every_pair_of_a_run_is_in_the_table_or_refused(state: RunState, event: RunEvent) -> None:
    assert RUN_TRANSITIONS.get((state, event)) == rows(RUN_PAIRS).get((state, event))


def reached(start: Iterable[StrEnum], arrows: Iterable[tuple[StrEnum, StrEnum]]) -> set[StrEnum]:
    """All states that can be got to from *start*."""
    found = set(start)
    arrows = list(arrows)
    while more := {end for begin, end in arrows if begin in found} - found:
        found |= more
    return found


TASK_ARROWS = [(state, target) for (state, _), target in TASK_TRANSITIONS.items()]
RUN_ARROWS = [(state, target) for (state, _), target in RUN_TRANSITIONS.items()]


def test_every_state_can_be_reached() -> None:
    assert reached({TaskState.NONE}, TASK_ARROWS) == set(TaskState)
    assert reached({RunState.QUEUED}, RUN_ARROWS) == set(RunState)


@pytest.mark.parametrize("state", sorted(set(TaskState) - TERMINAL))
def test_every_unfinished_task_can_still_succeed_or_fail_or_be_skipped_over(
    state: TaskState,
) -> None:
    ends = reached({state}, TASK_ARROWS) & TERMINAL
    assert {TaskState.SUCCESS, TaskState.FAILED} <= ends


@pytest.mark.parametrize("state", sorted(set(RunState) - RUN_TERMINAL))
def test_every_unfinished_run_can_still_succeed_and_fail(state: RunState) -> None:
    assert reached({state}, RUN_ARROWS) >= RUN_TERMINAL


def test_nothing_but_a_wish_leads_out_of_a_terminal_state() -> None:
    ends = {TaskState.SUCCESS, TaskState.FAILED, TaskState.UPSTREAM_FAILED, TaskState.SKIPPED}
    assert ends == TERMINAL
    assert {RunState.SUCCESS, RunState.FAILED} == RUN_TERMINAL
    assert {event for state, event in TASK_TRANSITIONS if state in TERMINAL} == {TaskEvent.CLEAR}
    restarts = {event for state, event in RUN_TRANSITIONS if state in RUN_TERMINAL}
    assert restarts == {RunEvent.RESTART}


def test_the_sets_agree_with_each_other() -> None:
    assert {TaskState.FAILED, TaskState.UPSTREAM_FAILED} == UNSUCCESSFUL
    assert not ACTIVE & TERMINAL


def test_every_event_can_happen() -> None:
    assert {event for _, event in TASK_TRANSITIONS} == set(TaskEvent)
    assert {event for _, event in RUN_TRANSITIONS} == set(RunEvent)


def test_a_task_runs_only_by_a_grant_and_a_grant_only_makes_it_run() -> None:
    into_running = {event for (_, event), end in TASK_TRANSITIONS.items() if end == "running"}
    assert into_running == {TaskEvent.GRANT}


def test_a_live_token_ends_in_no_other_way_than_the_design_says() -> None:
    out = {event for state, event in TASK_TRANSITIONS if state is TaskState.RUNNING}
    assert out == {
        *(TaskEvent.SUCCEED, TaskEvent.FAIL, TaskEvent.RETRY, TaskEvent.SKIP),  # finished
        TaskEvent.RELEASE,  # released
        TaskEvent.LOSE,  # its session ended
    }


def diagram() -> str:
    lines = [
        f"    {source} --> {target} : {event}"
        for (source, event), target in TASK_TRANSITIONS.items()
    ]
    return "\n".join(["stateDiagram-v2", "    [*] --> none", *lines])


def test_the_diagram_in_the_docs_is_the_table() -> None:
    text = (Path(__file__).parents[2] / "docs" / "architecture.md").read_text()
    assert f"```mermaid\n{diagram()}\n```" in text, diagram()
