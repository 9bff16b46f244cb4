"""Trigger rules, against what Airflow's manual says of each once everything has ended."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from dispatcher.core.rules import Upstream, Verdict, judge
from flow.dagspec import TRIGGER_RULES
from flow.states import TERMINAL, TaskState

S, F, K, U = TaskState.SUCCESS, TaskState.FAILED, TaskState.SKIPPED, TaskState.UPSTREAM_FAILED
RUN, SKIP, FAIL = Verdict.RUN, Verdict.SKIP, Verdict.UPSTREAM_FAIL


def seen(*states: TaskState) -> Upstream:
    up = Upstream()
    for state in states:
        up.count(state)
    return up


@pytest.mark.parametrize(
    ("rule", "all_good", "one_bad", "one_skipped", "all_bad", "all_skipped"),
    [
        ("all_success", RUN, FAIL, SKIP, FAIL, SKIP),
        ("all_done", RUN, RUN, RUN, RUN, RUN),
        ("all_failed", SKIP, SKIP, SKIP, RUN, SKIP),
        ("one_success", RUN, RUN, RUN, FAIL, SKIP),
        ("one_failed", SKIP, RUN, SKIP, RUN, SKIP),
        ("none_failed", RUN, FAIL, RUN, FAIL, RUN),
        ("none_failed_min_one_success", RUN, FAIL, RUN, FAIL, SKIP),
        ("none_skipped", RUN, RUN, SKIP, RUN, SKIP),
        ("always", RUN, RUN, RUN, RUN, RUN),
    ],
)
def test_each_rule_once_everything_has_ended(
    rule: str,
    all_good: Verdict,
    one_bad: Verdict,
    one_skipped: Verdict,
    all_bad: Verdict,
    all_skipped: Verdict,
) -> None:
    assert judge(rule, seen(S, S)) is all_good
    assert judge(rule, seen(S, F)) is one_bad
    assert judge(rule, seen(S, K)) is one_skipped
    assert judge(rule, seen(F, U)) is all_bad
    assert judge(rule, seen(K, K)) is all_skipped


@pytest.mark.parametrize("rule", TRIGGER_RULES)
def test_a_task_without_upstream_runs(rule: str) -> None:
    assert judge(rule, seen()) is RUN


@given(
    rule=st.sampled_from(TRIGGER_RULES),
    states=st.lists(st.sampled_from(sorted(TERMINAL)), max_size=6),
)
def test_an_early_verdict_is_the_final_one(rule: str, states: list[TaskState]) -> None:
    up = seen(*[TaskState.NONE] * len(states))
    verdicts = [judge(rule, up)]
    for state in states:
        up.ended(state)
        verdicts.append(judge(rule, up))
    settled = [verdict for verdict in verdicts if verdict is not Verdict.WAIT]
    assert len(set(settled)) == 1
    assert verdicts[-1] is not Verdict.WAIT
