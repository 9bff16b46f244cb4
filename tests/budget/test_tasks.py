"""Messages, transactions and syncs per task: counted, so a busy machine changes nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from bench.mock_agent import Session
from flow import wire
from tests.budget import budgets
from tests.budget.budgets import hold
from tests.budget.counting import count_syncs
from tests.budget.system import BY_TIME, System

CHAIN = """
from flow import DAG, BashOperator, chain

with DAG("dag"):
    chain(*[BashOperator(task_id=f"t{n}", bash_command="true") for n in range(20)])
"""
FAN_OUT = """
from flow import DAG, BashOperator

with DAG("dag", max_active_tasks=1000):
    first = BashOperator(task_id="first", bash_command="true")
    first >> [BashOperator(task_id=f"t{n}", bash_command="true") for n in range(200)]
"""


@pytest.fixture
def system(tmp_path: Path, broker_url: str, postgres_url: str) -> System:
    return System(tmp_path / "home", broker_url, postgres_url)


async def test_a_chain_of_shell_tasks_keeps_to_its_budget(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    system.write_dag(CHAIN)
    counts = system.counts
    async with system.running():
        await system.run("dag", "first", 20)  # what happens once has happened
        before = counts.commits, counts.per_task(20, without=BY_TIME)
        count_syncs(monkeypatch, counts)
        await system.run("dag", "second", 20)
        commits = (counts.commits - before[0]) / 20
        messages = counts.per_task(20, without=BY_TIME) - before[1]
    print(counts)
    assert counts.messages["grant"] == counts.messages["finished"] == 40
    hold("messages", messages, budgets.CHAIN_MESSAGES)
    hold("commits", commits, budgets.CHAIN_COMMITS)
    hold("syncs of the agent", counts.syncs / 20, budgets.CHAIN_SYNCS)


async def test_a_fan_out_keeps_to_its_budget(system: System) -> None:
    system.write_dag(FAN_OUT)
    counts = system.counts
    async with system.running(mock=True):
        before = counts.commits
        await system.run("dag", "run", 201)
        commits, messages = (counts.commits - before) / 201, counts.per_task(201, without=BY_TIME)
    print(counts)
    assert counts.messages["grant"] == counts.messages["finished"] == 201
    hold("messages", messages, budgets.FAN_OUT_MESSAGES)
    # How much goes into one transaction depends on the machine.
    hold("commits", commits, budgets.FAN_OUT_COMMITS, slack=10)


async def test_agents_that_say_everything_twice_are_over_the_budget(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    system.write_dag(FAN_OUT)
    publish = Session._publish

    def twice(self: Session, event: wire.Event) -> asyncio.Future[None]:
        publish(self, event)
        return publish(self, event)

    monkeypatch.setattr(Session, "_publish", twice)
    async with system.running(mock=True):
        await system.run("dag", "run", 201)
        messages = system.counts.per_task(201, without=BY_TIME)
    with pytest.raises(AssertionError, match="messages: expected at most"):
        hold("messages", messages, budgets.FAN_OUT_MESSAGES)


def test_a_budget_that_is_far_above_the_cost_is_to_be_lowered() -> None:
    hold("messages", 2.0, 2.0)
    hold("messages", 2.0, 3.0)
    with pytest.raises(AssertionError, match=r"messages: 2 is far below its budget of 3\.1"):
        hold("messages", 2.0, 3.1)
    with pytest.raises(AssertionError, match=r"messages: expected at most 1\.9, got 2"):
        hold("messages", 2.0, 1.9)
