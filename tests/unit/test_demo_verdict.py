"""What ``make demo-kill`` concludes from a ledger."""

from __future__ import annotations

from dataclasses import replace

from tests.acceptance.ledger import Life
from tests.demo.verdict import Kill, judge

KILL = Kill("node2", moment=10.0, back=11.0)
LIFE = Life(
    task="load/run/a",
    instance=1,
    try_number=1,
    token=1,
    agent="node1",
    pid=1,
    first=1.0,
    last=2.0,
    finished=True,
)
A = LIFE
B = replace(LIFE, task="load/run/b", token=2, agent="node2", first=8.0, last=10.0, finished=False)
C = replace(B, task="load/run/c", token=3, first=9.0)
B_AGAIN = replace(B, token=4, agent="node1", first=12.0, last=13.0, finished=True)
C_AGAIN = replace(C, token=5, first=12.5, last=14.0, finished=True)
GOOD = [A, B, C, B_AGAIN, C_AGAIN]
ALL = ("a", "b", "c")


def test_a_good_run_holds_and_says_when_the_last_interrupted_task_ran_again() -> None:
    verdict = judge(GOOD, KILL, ALL, ALL)
    assert verdict.holds
    assert verdict.interrupted == ("b", "c")
    assert verdict.line() == "lost 0, twice 0, recovered in 2.5 s"
    assert verdict.complaints() == []


def test_a_task_that_never_finished_is_lost() -> None:
    verdict = judge([A, B, C, B_AGAIN, replace(C_AGAIN, finished=False)], KILL, ALL, ALL)
    assert not verdict.holds
    assert verdict.line() == "lost 1, twice 0, recovered in 2.5 s"
    assert verdict.complaints() == ["lost: c"]


def test_a_task_of_which_the_system_knows_no_success_is_lost() -> None:
    verdict = judge(GOOD, KILL, ALL, ("b", "c"))
    assert not verdict.holds
    assert verdict.lost == ("a",)


def test_an_interrupted_task_that_does_not_run_again_is_lost_and_never_recovers() -> None:
    verdict = judge([A, B, C, B_AGAIN], KILL, ALL, ("a", "b"))
    assert not verdict.holds
    assert verdict.line() == "lost 1, twice 0, never recovered"


def test_two_copies_at_the_same_time_are_told() -> None:
    verdict = judge([A, replace(B, last=12.1), C, B_AGAIN, C_AGAIN], KILL, ALL, ALL)
    assert not verdict.holds
    assert verdict.line() == "lost 0, twice 1, recovered in 2.5 s"
    assert verdict.complaints() == ["two copies at the same time: b"]


def test_a_task_of_another_agent_that_runs_again_is_told() -> None:
    again = replace(A, token=6, first=12.0, last=13.0)
    verdict = judge([*GOOD, again], KILL, ALL, ALL)
    assert not verdict.holds
    assert verdict.complaints() == ["ran again for no reason: a"]


def test_an_interrupted_task_that_runs_again_more_than_once_is_told() -> None:
    verdict = judge([*GOOD, replace(B_AGAIN, token=6, first=14.0, last=15.0)], KILL, ALL, ALL)
    assert not verdict.holds
    assert verdict.needless == ("b",)


def test_a_task_that_ended_as_its_agent_was_killed_may_run_once_more() -> None:
    ended = replace(A, agent="node2", first=9.0, last=9.99)
    again = replace(ended, token=6, agent="node3", first=12.0, last=13.0)
    verdict = judge([ended, again, B, C, B_AGAIN, C_AGAIN], KILL, ALL, ALL)
    assert verdict.holds
    assert verdict.interrupted == ("b", "c")


def test_what_the_keeper_still_started_after_the_kill_is_no_recovery() -> None:
    doomed = replace(B, token=6, first=10.01, last=10.02)
    before = replace(B, last=9.5)
    verdict = judge([A, before, C, doomed, B_AGAIN, C_AGAIN], KILL, ALL, ALL)
    assert verdict.holds
    assert verdict.recovered == 2.5


def test_a_kill_that_interrupted_nothing_shows_nothing() -> None:
    verdict = judge([A], KILL, ("a",), ("a",))
    assert not verdict.holds
    assert verdict.complaints() == ["the kill interrupted nothing, so it has shown nothing"]
