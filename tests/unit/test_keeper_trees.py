from __future__ import annotations

import subprocess

from agent.keeper.task import Task
from agent.keeper.trees import Trees
from tests.waiting import until


def task(*, timeout: float | None = None) -> Task:
    return Task(1, 2**22 + 1, keep=False, timeout=timeout, grace=5.0, now=100.0)


def test_a_running_task_is_not_doomed_and_one_that_ended_is() -> None:
    running = task()
    assert not running.doomed(1e9)
    running.status = 0
    assert running.doomed(100.0)


def test_a_task_that_is_being_killed_is_doomed_after_its_grace() -> None:
    dying = task()
    dying.kill_at = 105.0
    assert not dying.doomed(104.9)
    assert dying.doomed(105.0)
    dying.status = 15  # what its main process left behind keeps the grace
    assert not dying.doomed(104.9)


def test_the_next_event_is_the_timeout_then_the_kill_then_a_look_soon() -> None:
    trees = Trees("id", lambda: 0.0)
    assert trees.next_event(100.0) is None
    trees.tasks[1] = running = task(timeout=30.0)
    assert trees.next_event(100.0) == 130.0
    running.kill_at = 107.0
    assert trees.next_event(101.0) == 107.0
    running.doomed_at = 107.0
    assert trees.next_event(107.0) == 107.005
    assert trees.next_event(109.0) == 109.5
    assert trees.next_event(999.0) == 1000.0


def test_no_task_is_finished_while_an_orphan_may_be_its_own() -> None:
    trees = Trees("id", lambda: 0.0)
    trees.tasks[1] = ended = task()
    ended.status = 0
    assert trees._finish([ended], {None}) == []
    assert trees._finish([ended], {1}) == []
    assert trees._finish([ended], {2}) == [ended]
    assert trees.tasks == {}


def test_what_resists_sigkill_is_reported_once_with_its_processes() -> None:
    trees = Trees("id", lambda: 0.0)
    trees.tasks[1] = stubborn = task()
    with subprocess.Popen(["/bin/sleep", "60"]) as child:
        stubborn.doomed_at = 100.0
        assert trees.unkillable(109.0) == ([], [])
        until(lambda: f"pid {child.pid} (sleep)" in " ".join(_described(trees, stubborn)))
        assert trees.unkillable(112.0) == ([], [])
        child.kill()


def _described(trees: Trees, stubborn: Task) -> list[str]:
    stubborn.reported = False
    tokens, left = trees.unkillable(111.0)
    assert tokens == [1]
    return left
