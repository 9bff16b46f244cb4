"""The checker has teeth: a record that is right passes, and each wrong one names its invariant."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.acceptance.ledger import Life, now
from tests.chaos.checker import Record, Run, Step, Task, Try, check
from tests.chaos.scenario import Outcome

BOOT = time.time() - now()


def wall(moment: float) -> datetime:
    return datetime.fromtimestamp(BOOT + moment, UTC)


def life(token: int, first: float, last: float, **changes: Any) -> Life:
    known = Life("run/a", 1, 1, token, "node1", 100, first, last, finished=False)
    return replace(known, **changes)


def path(*steps: str, entity: str = "task") -> list[Step]:
    """Audit lines, each as ``source event target``."""
    pk = 1 if entity == "task" else None
    return [
        Step(entity, 1, pk, step.split()[1], step.split()[0], step.split()[2]) for step in steps
    ]


RUN = [
    Step("run", 1, None, "create", "", "queued"),
    *path("queued start running", "running succeed success", entity="run"),
]
#: Lost with its agent once, then a success.
TASK = path(
    "none schedule scheduled",
    "scheduled queue queued",
    "queued grant running",
    "running lose scheduled",
    "scheduled queue queued",
    "queued grant running",
    "running succeed success",
)
GOOD = Record(
    runs=[Run(1, "dag", "run", "success", "manual", None)],
    tasks=[Task(1, 1, "a", "success", 20)],
    tries=[
        Try(1, 10, wall(10.0), wall(14.0), "lost"),
        Try(1, 20, wall(15.0), wall(17.0), "success"),
    ],
    steps=[*RUN, *TASK],
    lives=[life(10, 10.0, 12.0), life(20, 15.0, 16.0, finished=True)],
    kept_dags=frozenset({"dag"}),
)
ALLOWED = Outcome(reruns_allowed=1)


def changed(**changes: Any) -> Callable[[], Record]:
    return lambda: replace(GOOD, **changes)


def test_a_right_record_passes_and_is_counted() -> None:
    verdict = check(GOOD, ALLOWED)
    assert verdict.violations == ()
    assert (verdict.tasks, verdict.starts, verdict.reruns) == (1, 2, 1)
    assert (verdict.lost, verdict.twice) == (0, 0)


@pytest.mark.parametrize(
    ("invariant", "make"),
    [
        ("I1: expected task instances", changed(tasks=[], lives=[], tries=[])),
        ("I1/I8: dag/run/a is queued", changed(tasks=[Task(1, 1, "a", "queued", 20)])),
        (
            "I1: dag/run/a: expected success, got failed",
            changed(tasks=[Task(1, 1, "a", "failed", 20)]),
        ),
        ("I1: run dag/run is running", changed(runs=[GOOD.runs[0]._replace(state="running")])),
        ("its copy never ended", changed(lives=[GOOD.lives[0], life(20, 15.0, 16.0)])),
        (
            "was accepted 2 times",
            changed(tries=[GOOD.tries[0]._replace(outcome="success"), GOOD.tries[1]]),
        ),
        ("I2:", changed(lives=[life(10, 10.0, 15.0), GOOD.lives[1]])),
        (
            "never granted",
            changed(lives=[*GOOD.lives, life(30, 18.0, 19.0, instance=2, task="run/b")]),
        ),
        (
            "I4: dag/run/a: token 10 after 20",
            changed(tries=[GOOD.tries[0]._replace(token=20), GOOD.tries[1]._replace(token=10)]),
        ),
        (
            "was granted while",
            changed(tries=[GOOD.tries[0]._replace(closed_at=wall(15.5)), GOOD.tries[1]]),
        ),
        (
            "was granted while",
            changed(tries=[GOOD.tries[0]._replace(closed_at=None), GOOD.tries[1]]),
        ),
        ("its token is 21", changed(tasks=[Task(1, 1, "a", "success", 21)])),
        (
            "although its last token is alive",
            changed(tries=[GOOD.tries[0], GOOD.tries[1]._replace(closed_at=None)]),
        ),
        ("but it was", changed(steps=[*RUN, *TASK[:3], *TASK[4:]])),
        (
            "is not in the table",
            changed(steps=[*RUN, *TASK[:-1], TASK[-1]._replace(event="skip")]),
        ),
        ("which the audit does not lead to", changed(steps=[*RUN, *TASK[:-1]])),
        ("I6:", changed(lives=[life(10, 10.0, 14.5), GOOD.lives[1]])),
        (
            "I7: dag has 2 runs",
            changed(
                runs=[
                    Run(pk, "dag", f"run{pk}", "success", "scheduled", wall(0.0)) for pk in (1, 2)
                ]
            ),
        ),
    ],
)
def test_a_wrong_record_is_found_out(invariant: str, make: Callable[[], Record]) -> None:
    assert found(make(), ALLOWED, invariant)


def test_a_rerun_that_nothing_accounts_for_is_found_out() -> None:
    assert found(GOOD, Outcome(), "I3: expected at most 0 reruns, got 1: run/a 2x")


def test_an_ending_that_was_expected_is_right() -> None:
    failed = replace(
        GOOD,
        tasks=[Task(1, 1, "a", "failed", 20)],
        tries=[GOOD.tries[0], GOOD.tries[1]._replace(outcome="failed")],
        steps=[*RUN, *TASK[:-1], *path("running fail failed")],
    )
    assert check(failed, replace(ALLOWED, endings={"a": "failed"})).violations == ()


def test_what_is_lost_and_what_is_twice_is_counted() -> None:
    assert check(replace(GOOD, tasks=[Task(1, 1, "a", "running", 20)]), ALLOWED).lost == 1
    overlapping = [life(10, 10.0, 15.5), GOOD.lives[1]]
    assert check(replace(GOOD, lives=overlapping), ALLOWED).twice == 1


def found(record: Record, outcome: Outcome, text: str) -> bool:
    """Whether a violation says *text*."""
    violations: Sequence[str] = check(record, outcome).violations
    return any(text in violation for violation in violations)
