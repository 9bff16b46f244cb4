"""The list of mutants keeps up with the code: each changes one place, and somebody must notice."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.mutants.mutant import Mutant
from tests.mutants.mutants import MUTANTS

ROOT = Path(__file__).resolve().parent.parent.parent

#: Without these rules flow would lose tasks, or run them twice.
PILLARS = {
    "compare-and-set",
    "token check",
    "lapse latch",
    "keeper's deadline",
    "proof of death",
    "session order",
    "marker",
    "fresh timers",
    "publish-pending",
    "reconciler",
    "adoption",
    "wishes",
    "spool in hello",
    "epoch check",
}

each_mutant = pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)


def test_every_rule_that_the_promise_rests_on_is_switched_off_once() -> None:
    names = [mutant.name for mutant in MUTANTS]
    assert len(names) == len(set(names))
    assert set(names) >= PILLARS


@each_mutant
def test_a_mutant_changes_one_place_and_is_still_a_program(mutant: Mutant) -> None:
    text = (ROOT / mutant.file).read_text()
    changed = mutant.applied(text)
    assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(text))


@each_mutant
def test_the_tests_that_must_fail_exist(mutant: Mutant) -> None:
    assert mutant.killed_by
    for file, tests in mutant.killed_by.items():
        functions = {
            node.name
            for node in ast.walk(ast.parse((ROOT / file).read_text()))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        assert {test.partition("[")[0] for test in tests} <= functions


def test_a_place_that_moved_is_named() -> None:
    with pytest.raises(ValueError, match=r"once in flow/names\.py, got it 0 times"):
        Mutant(
            name="moved", what="", file="flow/names.py", old="gone", new="", killed_by={}
        ).applied("else")
