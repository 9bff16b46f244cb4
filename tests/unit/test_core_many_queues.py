"""Many queues: an event costs what it concerns, not what there is."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from dispatcher.core import placing
from dispatcher.core.core import Rules
from flow.dagspec import DagSpec
from tests.unit.core_world import World, dag, task

QUEUES = [f"q{number}" for number in range(50)]


class Looks:
    """Which queues are looked at for something to publish."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        place = placing.place

        def watched(state: object, name: str, *rest: object, **more: object) -> int:
            self.names.append(name)
            return place(state, name, *rest, **more)  # type: ignore[arg-type]

        monkeypatch.setattr(placing, "place", watched)

    def taken(self) -> list[str]:
        names, self.names = self.names, []
        return names


def crowded() -> DagSpec:
    """Two tasks in each of the queues, and one in q7 below the first of q3."""
    tasks = [task(f"{name}-{n}", queue=name) for name in QUEUES for n in (1, 2)]
    return dag("crowd", *tasks, task("below", "q3-1", queue="q7"), max_active_tasks=1000)


def world(served: Sequence[str]) -> World:
    made = World(crowded(), rules=Rules(lookahead=0))
    made.trigger("crowd")
    for name in served:
        made.hello(agent=f"node-{name}", queues=(name,), slots=1)
    return made


def test_an_agents_event_has_the_queues_looked_at_that_it_serves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = world(["q3", "q5"])
    looks = Looks(monkeypatch)
    made.heartbeat(agent="node-q5")
    assert set(looks.taken()) <= {"q5"}


def test_what_becomes_ready_is_published_wherever_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    made = world(["q3"])
    first = next(message for message in made.published if message.queue == "q3")
    grant = made.grant(first, agent="node-q3")
    looks = Looks(monkeypatch)
    made.finish(grant, agent="node-q3")
    assert set(looks.taken()) == {"q3", "q7"}
    assert made.task("q3-2").state == "queued"


def test_a_request_has_all_queues_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    made = world(["q3"])
    looks = Looks(monkeypatch)
    made.trigger("crowd", "again")
    assert set(looks.taken()) == set(QUEUES)


def test_an_agent_that_comes_later_is_found_by_what_waits_for_it() -> None:
    made = world([])
    assert [made.task(f"q9-{n}").state for n in (1, 2)] == ["scheduled", "scheduled"]
    made.hello(agent="late", queues=("q9",), slots=1)
    assert made.task("q9-1").state == "queued"
    made.hello(agent="late", session=2, queues=("q8",), slots=1)
    assert made.task("q8-1").state == "queued"
    assert made.task("q9-2").state == "scheduled"
