"""Trigger rules: what the ends of its upstream tasks mean for a task that has not begun.

The rules and their meaning are Airflow's (its manual, "Trigger Rules").
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from flow.states import TaskState


class Verdict(Enum):
    """What becomes of the task now."""

    WAIT = auto()
    RUN = auto()
    SKIP = auto()
    UPSTREAM_FAIL = auto()


@dataclass(slots=True)
class Upstream:
    """How many of a task's direct upstream tasks have ended, and how."""

    pending: int = 0
    success: int = 0
    failed: int = 0
    """Failed themselves, or upstream_failed."""
    skipped: int = 0

    @property
    def total(self) -> int:
        """How many there are."""
        return self.pending + self.success + self.failed + self.skipped

    def count(self, state: TaskState, step: int = 1) -> None:
        """Take in an upstream task in *state*."""
        match state:
            case TaskState.SUCCESS:
                self.success += step
            case TaskState.SKIPPED:
                self.skipped += step
            case TaskState.FAILED | TaskState.UPSTREAM_FAILED:
                self.failed += step
            case _:
                self.pending += step

    def ended(self, state: TaskState) -> None:
        """One that was pending has come to *state*."""
        self.pending -= 1
        self.count(state)


def judge(rule: str, up: Upstream) -> Verdict:
    """Decide by *rule*; a verdict other than WAIT is final, whatever the rest comes to.

    So the end of a run does not depend on the order in which its tasks end. (Airflow skips an
    ``all_success`` task as soon as one above it is skipped, even where another one fails later.)
    """
    return _RULES[rule](up) if up.total else Verdict.RUN


def _at_the_end(up: Upstream, verdict: Verdict) -> Verdict:
    return Verdict.WAIT if up.pending else verdict


def _all_success(up: Upstream) -> Verdict:
    if up.failed:
        return Verdict.UPSTREAM_FAIL
    return _at_the_end(up, Verdict.SKIP if up.skipped else Verdict.RUN)


def _none_failed(up: Upstream) -> Verdict:
    return Verdict.UPSTREAM_FAIL if up.failed else _at_the_end(up, Verdict.RUN)


def _none_failed_min_one_success(up: Upstream) -> Verdict:
    if up.failed:
        return Verdict.UPSTREAM_FAIL
    return _at_the_end(up, Verdict.RUN if up.success else Verdict.SKIP)


def _all_failed(up: Upstream) -> Verdict:
    return Verdict.SKIP if up.success or up.skipped else _at_the_end(up, Verdict.RUN)


def _none_skipped(up: Upstream) -> Verdict:
    return Verdict.SKIP if up.skipped else _at_the_end(up, Verdict.RUN)


def _one_failed(up: Upstream) -> Verdict:
    return Verdict.RUN if up.failed else _at_the_end(up, Verdict.SKIP)


def _one_success(up: Upstream) -> Verdict:
    if up.success:
        return Verdict.RUN
    return _at_the_end(up, Verdict.UPSTREAM_FAIL if up.failed else Verdict.SKIP)


def _all_done(up: Upstream) -> Verdict:
    return _at_the_end(up, Verdict.RUN)


def _always(_: Upstream) -> Verdict:
    return Verdict.RUN


_RULES: dict[str, Callable[[Upstream], Verdict]] = {
    "all_success": _all_success,
    "all_done": _all_done,
    "all_failed": _all_failed,
    "one_success": _one_success,
    "one_failed": _one_failed,
    "none_failed": _none_failed,
    "none_failed_min_one_success": _none_failed_min_one_success,
    "none_skipped": _none_skipped,
    "always": _always,
}
