from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow import names
from flow.names import NameRule

ID = "1 to 250 letters, digits, '_', '-', '.', not beginning with '-' or '.'"


@pytest.mark.parametrize(
    ("rule", "good"),
    [
        (names.DAG_ID, ["a", "_x", "etl.daily-2", "9", "a" * 250]),
        (names.TASK_ID, ["load", "a.b"]),
        (names.RUN_ID, ["manual__2025-01-02T03:04:05.000006+00:00", "x~1"]),
        (names.QUEUE, ["gpu.a100", "-", ".", "Q_1", "q" * 100]),
        (names.AGENT, ["node1", "box-gpu", "-", "a" * 100]),
    ],
)
def test_good_names_are_accepted(rule: NameRule, good: list[str]) -> None:
    assert [name for name in good if rule.problem(name) is not None] == []


@pytest.mark.parametrize(
    ("rule", "bad"),
    [
        (names.DAG_ID, ["", ".", "..", "-x", ".x", "a/b", "a b", "ä", "a\n", "a" * 251, None, 1]),
        (names.TASK_ID, ["../x", "a:b"]),
        (names.RUN_ID, ["", "a/b", "..", "+x", "a b"]),
        (names.QUEUE, ["", "gpu!", "a b", "q" * 101, "gpu.#", "*", "é", "q\n"]),
        (names.AGENT, ["", "Node1", "a.b", "a_b", "a" * 101]),
    ],
)
def test_bad_names_are_refused(rule: NameRule, bad: list[object]) -> None:
    assert [name for name in bad if rule.problem(name) is None] == []


def test_a_problem_names_the_rule_and_what_was_given() -> None:
    assert names.DAG_ID.problem("a b") == f"expected {ID}, got 'a b'"
    assert names.TASK_ID.problem(None) == f"expected {ID}, got None"
    assert names.QUEUE.problem("gpu!") == (
        "expected 1 to 100 letters, digits, '.', '_', '-', got 'gpu!'"
    )
    assert names.AGENT.problem("Box") == (
        "expected 1 to 100 lower-case letters, digits, '-', got 'Box'"
    )
    assert names.RUN_ID.problem("a/b") == (
        "expected 1 to 250 letters, digits, '_', '-', '.', '~', ':', '+', "
        "beginning with a letter, digit or '_', got 'a/b'"
    )


def test_a_very_long_name_is_cut_in_the_problem() -> None:
    problem = names.QUEUE.problem("x" * 5000)
    assert problem is not None
    assert problem.endswith("x...")
    assert len(problem) < 200


@given(st.text(alphabet=string.ascii_letters + string.digits + "._-", max_size=110))
def test_a_queue_name_is_good_exactly_when_its_length_is(name: str) -> None:
    assert (names.QUEUE.problem(name) is None) == (1 <= len(name) <= 100)


@given(st.text(max_size=20))
def test_no_name_reaches_out_of_a_folder(name: str) -> None:
    for rule in (names.DAG_ID, names.TASK_ID, names.RUN_ID):
        if rule.problem(name) is None:
            assert "/" not in name
            assert name.strip(".")
