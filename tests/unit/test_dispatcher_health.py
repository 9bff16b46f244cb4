"""The line that ``systemctl status flow-dispatcher`` shows, and what the watchdog is told."""

from __future__ import annotations

import pytest

from dispatcher.health import DATABASE_PATIENCE, Health, Reigning
from flow.errors import BrokerRefused, FlowError, SchemaError, StoreError, TransportError


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def leading(**changed: float) -> Health:
    values = {"epoch": 3, "running": 12, "agents": 2, "late": 0.0, **changed}
    health = Health(clock=Clock())
    health.reign = lambda: Reigning(**values)  # type: ignore[arg-type]
    return health


def advance(health: Health, seconds: float) -> None:
    assert isinstance(health.clock, Clock)
    health.clock.now += seconds


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (StoreError("is it running?"), "waiting for the database: is it running?"),
        (SchemaError("migrate"), "waiting for the database: migrate"),
        (TransportError("gone"), "waiting for the broker: gone"),
        (BrokerRefused("no"), "waiting for the broker: no"),
        (FlowError("else"), "else"),
    ],
)
def test_one_that_waits_is_ready_and_says_for_what(error: FlowError, status: str) -> None:
    health = Health()
    assert not health.standing().ready
    health.waits(error)
    assert (health.standing().status, health.standing().ready) == (status, True)


def test_one_that_stands_for_election_is_ready() -> None:
    health = Health()
    health.stands_by()
    assert (health.standing().status, health.standing().ready) == ("stands by", True)


def test_a_leader_says_its_epoch_and_what_runs() -> None:
    assert leading().standing().status == "leads: epoch 3, 12 running, 2 agents"
    assert leading(agents=1).standing().status == "leads: epoch 3, 12 running, 1 agent"


def test_after_a_reign_nothing_is_said_of_it() -> None:
    health = leading()
    health.ends()
    assert health.standing().status == "between reigns"


def test_a_leader_whose_database_says_nothing_says_so_and_then_is_stuck() -> None:
    health = leading()
    with health.asking():
        advance(health, 5)
        assert health.standing().status.endswith("; the database has not answered for 5 s")
        assert health.standing().stuck == ""
        advance(health, DATABASE_PATIENCE)
        assert health.standing().stuck == (
            "the database has not answered for 40 s, and no other dispatcher can lead"
        )
    assert health.standing().stuck == ""


def test_the_same_holds_while_an_elected_one_reads_the_database() -> None:
    health = Health(clock=Clock())
    health.begins()
    with health.asking():
        advance(health, DATABASE_PATIENCE + 1)
        assert health.standing().stuck


def test_waiting_for_a_database_while_not_leading_is_no_standstill() -> None:
    health = Health(clock=Clock())
    health.waits(StoreError("is it running?"))
    advance(health, 10_000)
    assert health.standing().stuck == ""


def test_a_leader_whose_timers_do_not_fire_is_stuck() -> None:
    assert leading(late=9.0).standing().stuck == ""
    assert leading(late=11.0).standing().stuck == "the core wanted to be called 11 s ago"
