"""The dispatcher's core: CPU time per event, in loops of pure Python that slow down with it."""

from __future__ import annotations

import time
from collections.abc import Callable

from bench.graphs import grid
from bench.workloads.core import per_event
from tests.budget import budgets
from tests.budget.budgets import hold

_TRIES = 5


def calibration() -> float:
    """Microseconds of CPU for what any event does some of: calls, attributes, dictionaries."""

    class Row:
        def __init__(self, number: int) -> None:
            self.number = number
            self.state = "none"

        def move(self, state: str) -> None:
            self.state = state

    begun = time.thread_time()
    for _ in range(200):
        rows = {number: Row(number) for number in range(50)}
        for row in rows.values():
            row.move("done")
        assert sum(row.state == "done" for row in rows.values()) == 50
    return 1e6 * (time.thread_time() - begun) / 200


def least(*measures: Callable[[], float]) -> list[float]:
    """The least of several tries of each, in turn: it has the fewest interruptions."""
    tries = [[measure() for measure in measures] for _ in range(_TRIES)]
    return [min(values) for values in zip(*tries, strict=True)]


def test_an_event_costs_the_core_no_more_than_it_may() -> None:
    event, loop = least(lambda: per_event(grid(2_000)), calibration)
    print(f"{event:.1f} us")
    hold("an event in loops", event / loop, budgets.CORE_EVENT, slack=2)


def test_an_event_costs_as_much_in_a_large_dag_as_in_a_small_one() -> None:
    large, small = least(lambda: per_event(grid(8_000)), lambda: per_event(grid(500)))
    hold("growth", large / small, budgets.CORE_GROWTH, slack=1.6)
