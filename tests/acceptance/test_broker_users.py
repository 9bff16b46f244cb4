"""The whole of flow where every process has a broker user of its own, with its rights only."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pika
import pytest

from flow import topology
from flow.brokerrights import agent_rights, command_rights, dispatcher_rights
from tests.acceptance.system import System
from tests.integration import broker_users
from tests.integration.broker_users import Management, channel
from tests.waiting import until

DAG = """
from flow import DAG, BashOperator

with DAG("d"):
    BashOperator(task_id="t", bash_command="echo one; sleep 1; echo two", queue="gpu")
"""
IDLE = "idle"


@pytest.fixture
def agents(
    broker_url: str, management_api: Management, system: System
) -> Iterator[tuple[tuple[str, str], tuple[str, str]]]:
    """Name and URL of two agents, of queue gpu and of one that no DAG names. The control machine's
    processes have users of their own, too."""
    mark = secrets.token_hex(4)
    gpu, cpu = f"gpu1-{mark}", f"cpu1-{mark}"

    user = partial(broker_users.user, management_api, broker_url)
    with (
        user(gpu, agent_rights(gpu, ["gpu"])) as gpu_url,
        user(cpu, agent_rights(cpu, [IDLE])) as cpu_url,
        user(f"boss-{mark}", dispatcher_rights()) as boss_url,
        user(f"people-{mark}", command_rights()) as people_url,
    ):
        system.broker_url = people_url
        system.settings = {"FLOW_DISPATCHER_VERIFY_USERS": "true"}
        system.flow("db", "migrate")
        system.start_dispatcher(FLOW_BROKER_URL=boss_url)
        yield (gpu, gpu_url), (cpu, cpu_url)


def test_everybody_gets_by_with_their_own_rights(
    system: System, agents: tuple[tuple[str, str], tuple[str, str]], broker_url: str
) -> None:
    (gpu, gpu_url), (cpu, cpu_url) = agents
    system.write_dag("d", DAG)
    system.known("d")
    system.start_agent(gpu, "gpu", FLOW_BROKER_URL=gpu_url)
    # Its queue is in no DAG and it may not make it: the dispatcher does.
    idle = system.start_agent(cpu, IDLE, FLOW_BROKER_URL=cpu_url)
    until(lambda: consumers(broker_url, f"flow.q.{IDLE}") == 1)
    run_id = system.flow("dags", "trigger", "d").strip()
    following = system.start_command("-v", "tasks", "logs", run_id, "t", "-f")
    out, err = following.communicate(timeout=60)
    assert out == "one\ntwo\n", err
    assert "following what is stored" not in err
    assert system.tasks(run_id)["t"]["agent"] == gpu
    assert not idle.says("refused")
    assert not list((system.root / "control" / "parked").glob("*.json"))


def test_what_an_agent_says_in_anothers_name_is_parked_and_not_obeyed(
    system: System, agents: tuple[tuple[str, str], tuple[str, str]]
) -> None:
    (gpu, gpu_url), (cpu, cpu_url) = agents
    system.start_agent(gpu, "gpu", FLOW_BROKER_URL=gpu_url)
    until(lambda: any(row["name"] == gpu for row in system.listing("agents", "list")))
    goodbye = {"type": "goodbye", "version": 1, "agent": gpu, "session": 1}
    own = f"flow.control.{cpu}.0123"
    with channel(cpu_url) as opened:
        # As in tests/integration/test_broker_rights.py: an exchange of its own knows no keys.
        opened.exchange_declare(own, exchange_type="topic", auto_delete=True)
        opened.exchange_bind(topology.EVENTS, own, "#")
        said = pika.BasicProperties(user_id=cpu)
        opened.basic_publish(own, f"{gpu}.goodbye", json.dumps(goodbye).encode(), said)
    dispatcher = system.daemons[0]
    until(lambda: dispatcher.says("is parked in"))
    assert reasons(system.root / "control" / "parked") == [
        f"message of agent {gpu!r}: expected the broker user {gpu!r}, got {cpu!r}"
    ]
    (row,) = system.listing("agents", "list")
    assert (row["name"], row["state"]) == (gpu, "online")


def consumers(url: str, queue: str) -> int:
    """0, too, while there is no such queue."""
    with channel(url) as admin:
        try:
            found: int = admin.queue_declare(queue, passive=True).method.consumer_count
        except pika.exceptions.ChannelClosedByBroker:
            return 0
    return found


def reasons(folder: Path) -> list[str]:
    return [json.loads(path.read_text())["reason"] for path in sorted(folder.glob("*.json"))]
