"""Nodes under maintenance: drained, resumed, and changed while they work."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any

from flow import topology
from flow.transport.amqp import AmqpBroker
from flow.transport.port import Publication
from tests.acceptance.system import SHORT_LEASES, System
from tests.waiting import until

WHY = "new kernel"


def write_work(system: System, go: Path) -> None:
    """DAG ``waits``: a task that ends once *go* is there; DAG ``quick``: one that ends at once."""
    system.settings.update(SHORT_LEASES)
    system.write_dag(
        "work",
        "from flow import DAG, BashOperator\n"
        "with DAG('waits'):\n"
        "    BashOperator(task_id='t', queue='q1',\n"
        f"        bash_command='until test -e {go}; do sleep 0.05; done')\n"
        "with DAG('quick'):\n"
        "    BashOperator(task_id='t', queue='q1', bash_command='true')\n"
        "with DAG('new'):\n"
        "    BashOperator(task_id='t', queue='q7', bash_command='true')\n",
    )


def trigger(system: System, dag_id: str) -> str:
    return system.flow("dags", "trigger", dag_id).strip()


def ended(system: System, run_id: str) -> dict[str, Any]:
    """The run's task, once it has succeeded."""
    until(lambda: system.tasks(run_id)["t"]["state"] == "success", within=60)
    return system.tasks(run_id)["t"]


def listed(system: System, name: str) -> dict[str, Any]:
    return next(row for row in system.listing("agents", "list") if row["name"] == name)


def test_a_drained_node_finishes_what_it_runs_and_takes_nothing_until_it_is_resumed(
    system: System, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    write_work(system, go)
    dispatcher = system.start_dispatcher()
    node = system.start_agent("node1", "q1")
    system.known("waits")
    held = trigger(system, "waits")
    until(lambda: system.tasks(held)["t"]["state"] == "running")

    draining = system.start_command("agents", "drain", "node1", "--reason", WHY, "--wait")
    until(lambda: node.says(f"drained: {WHY} (user "))
    system.start_agent("node2", "q1")
    assert ended(system, trigger(system, "quick"))["agent"] == "node2"
    assert draining.poll() is None, "something still runs there"
    go.touch()
    assert ended(system, held)["agent"] == "node1"
    _, told = draining.communicate(timeout=60)
    assert draining.returncode == 0
    assert told.splitlines()[-1] == "flow: agent node1: nothing runs there"

    # It outlives the agent and the dispatcher.
    node.kill()
    dispatcher.kill()
    system.start_dispatcher()
    node = system.start_agent("node1", "q1")
    until(lambda: node.says(f"drained: {WHY} (user "))
    until(lambda: listed(system, "node1")["state"] == "drained")
    runs = [trigger(system, "quick") for _ in range(3)]
    assert {ended(system, run)["agent"] for run in runs} == {"node2"}

    system.flow("agents", "drain", "node2", "--reason", "its turn")
    waits = trigger(system, "quick")
    until(lambda: system.tasks(waits)["t"]["reason"] == "queue q1: 2 agents, drained")
    system.flow("agents", "resume", "node1")
    assert ended(system, waits)["agent"] == "node1"


def test_slots_and_queues_change_while_tasks_run_and_come_back(
    system: System, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    write_work(system, go)
    system.start_dispatcher()
    node = system.start_agent("node1", "q1", slots=1)
    system.known("new")
    held = trigger(system, "waits")
    until(lambda: system.tasks(held)["t"]["state"] == "running")
    waiting = trigger(system, "new")
    until(lambda: system.tasks(waiting)["t"]["reason"] == "queue q7: 0 agents")

    system.flow("agents", "set", "node1", "--slots", "2", "--queue", "q1", "--queue", "q7")
    assert ended(system, waiting)["agent"] == "node1"
    assert ended(system, trigger(system, "quick"))["agent"] == "node1"
    row = listed(system, "node1")
    assert (row["slots"], row["queues"], row["busy"]) == (2, ["q1", "q7"], 1)

    # It outlives the agent; what its node's settings say comes back when somebody wants that.
    go.touch()
    ended(system, held)
    assert node.stop() == 0
    system.start_agent("node1", "q1", slots=1)
    until(lambda: listed(system, "node1")["queues"] == ["q1", "q7"])
    system.flow("agents", "set", "node1", "--reset")
    until(
        lambda: (listed(system, "node1")["slots"], listed(system, "node1")["queues"]) == (1, ["q1"])
    )


def test_a_node_that_nobody_knows_is_refused_with_the_nearest_name(system: System) -> None:
    system.settings.update(SHORT_LEASES)
    system.start_dispatcher()
    system.start_agent("node1", "q1")
    until(lambda: bool(system.listing("agents", "list")))
    for words in (("drain", "--reason", "x"), ("resume",), ("set", "--slots", "2")):
        process: subprocess.Popen[str] = system.start_command(
            "agents", words[0], "nod1", *words[1:]
        )
        _, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (
            1,
            "flow: agent 'nod1': expected one ever seen; did you mean 'node1'?\n",
        )


def test_an_agent_that_is_newer_than_the_dispatcher_is_listed_with_what_to_do(
    system: System,
) -> None:
    system.settings.update(SHORT_LEASES)
    system.start_dispatcher()
    hello = {"type": "hello", "version": 2, "agent": "node7", "session": 1, "news": True}
    asyncio.run(publish(system.broker_url, "node7.hello", json.dumps(hello).encode()))
    until(lambda: bool(system.listing("agents", "list")))
    assert listed(system, "node7")["state"] == "suspended"
    process = system.start_command("agents", "list")
    _, err = process.communicate(timeout=60)
    assert err == (
        "flow: warning: agent node7 is suspended: it speaks version 2 of the messages, the "
        "dispatcher 1; upgrade the dispatcher\n"
    )


async def publish(broker_url: str, key: str, body: bytes) -> None:
    """Say something on the events queue, as an agent would."""
    link = await AmqpBroker(broker_url).connect("an agent of another release")
    outlet = await link.outlet()
    await outlet.publish(Publication(topology.EVENTS, key, body))
    await link.close()
