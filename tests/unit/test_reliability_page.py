"""docs/reliability.md names scenarios that exist, and has figures for all of them."""

from __future__ import annotations

import re

from tests.chaos.faults import SCENARIOS
from tests.chaos.page import PAGE, listed, placed, table

REPORT = {
    "name": "agent-killed",
    "fault": "kill -9",
    "expected": "a | b",
    "ok": True,
    "recovery": 1.25,
    "bound": 5.0,
    "tasks": 3,
    "starts": 4,
    "lost": 0,
    "twice": 0,
}


def test_the_table_has_every_scenario_in_their_order() -> None:
    assert listed(PAGE.read_text()) == [scenario.name for scenario in SCENARIOS]


def test_the_scenarios_named_beside_the_promises_exist() -> None:
    promises = PAGE.read_text().partition("## Promises")[2].partition("\n## ")[0]
    names = {
        name
        for line in promises.splitlines()
        if line.startswith("| ")
        for name in re.findall(r"`([a-z0-9-]+)`", line.rsplit("|", 2)[1])
    }
    assert names
    assert names <= {scenario.name for scenario in SCENARIOS}


def test_figures_take_the_place_of_older_ones() -> None:
    page = PAGE.read_text()
    once = placed(page, table([REPORT]))
    assert placed(once, table([REPORT])) == once
    assert listed(once) == ["agent-killed"]
    assert "| 1.2 s | 5 s | 3 | 4 | 0 | 0 |" in once
    assert "a \\| b" in once


def test_a_scenario_that_failed_says_so() -> None:
    assert "**failed**: kill -9" in table([{**REPORT, "ok": False, "recovery": None}])
