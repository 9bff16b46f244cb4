"""A few of the scenarios of `make chaos`, in every `make test`."""

from __future__ import annotations

import pytest

from tests.chaos.faults import SCENARIOS
from tests.chaos.runner import run
from tests.chaos.scenario import QUICK, Scenario

SHORT = [scenario for scenario in SCENARIOS if scenario.short]


def test_names_are_unique() -> None:
    assert len({scenario.name for scenario in SCENARIOS}) == len(SCENARIOS)


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("scenario", SHORT, ids=lambda scenario: scenario.name)
def test_every_invariant_and_bound_holds_under(scenario: Scenario) -> None:
    report = run(scenario, QUICK, seed=1)
    print(report.line())
    assert report.ok, f"{report.line()}\n{report.logs}"
