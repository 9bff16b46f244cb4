"""Nodes that are gone for good under a task which waits for them (``flow agents declare-dead``),
and nodes that only seem to be."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.acceptance.system import SHORT_LEASES, System
from tests.waiting import until


def state_of(system: System, name: str) -> str:
    return next(
        str(row["state"]) for row in system.listing("agents", "list") if row["name"] == name
    )


def test_a_task_that_waits_for_a_lost_node_runs_elsewhere_once_somebody_says_it_is_dead(
    system: System, tmp_path: Path
) -> None:
    system.settings.update(SHORT_LEASES)
    again = tmp_path / "again"
    system.write_dag(
        "waits",
        "from flow import DAG, BashOperator\n"
        "with DAG('waits'):\n"
        "    BashOperator(task_id='long', queue='q1', on_agent_lost='wait',\n"
        f"        bash_command='test -e {again} || {{ touch {again}; sleep 60; }}')\n",
    )
    system.start_dispatcher()
    node = system.start_agent("node1", "q1")
    system.known("waits")
    run_id = system.flow("dags", "trigger", "waits").strip()
    until(again.exists)
    assert "expected one that is silent" in failure(system, "declare-dead", "node1")
    node.kill()
    system.start_agent("node2", "q1")
    until(lambda: state_of(system, "node1") == "dead")
    assert system.tasks(run_id)["long"]["state"] == "running", "it waits"
    system.flow("agents", "declare-dead", "node1")
    until(lambda: system.tasks(run_id)["long"]["state"] == "success")
    assert system.tasks(run_id)["long"]["agent"] == "node2"


@pytest.mark.timeout(180)
def test_a_task_outlives_any_number_of_losses_of_agents_that_come_back(
    system: System, tmp_path: Path
) -> None:
    system.settings.update(SHORT_LEASES)
    starts, over = tmp_path / "starts", tmp_path / "over"
    system.write_dag(
        "cut_off",
        "from flow import DAG, BashOperator\n"
        "with DAG('cut_off'):\n"
        "    BashOperator(task_id='long', queue='q1',\n"
        f"        bash_command='touch {starts}; until test -e {over}; do sleep 0.05; done')\n",
    )
    system.start_dispatcher()
    agent = system.start_agent("node1", "q1")
    system.known("cut_off")
    run_id = system.flow("dags", "trigger", "cut_off").strip()
    for _ in range(4):  # three deaths would fail it as poison
        until(starts.exists)
        agent.process.send_signal(signal.SIGSTOP)
        until(lambda: state_of(system, "node1") == "dead")
        starts.unlink()
        agent.process.send_signal(signal.SIGCONT)
    over.touch()
    until(lambda: system.tasks(run_id)["long"]["state"] == "success")


def failure(system: System, *arguments: str) -> str:
    process = system.start_command("agents", *arguments)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    return err
