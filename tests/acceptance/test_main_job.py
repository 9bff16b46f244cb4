"""The main job: two queues, two agents, one chain, over RabbitMQ and Postgres."""

from __future__ import annotations

import json
import shutil
from datetime import datetime
from pathlib import Path

from tests.acceptance.system import System
from tests.waiting import until

EXAMPLE = Path(__file__).resolve().parents[2] / "dags" / "two_queues.py"


def test_the_example_chain_runs_each_task_on_its_node(
    system: System, agent_environment: Path
) -> None:
    shutil.copy(EXAMPLE, system.dags)
    system.start_dispatcher()
    system.start_agent("node1", "q1")
    system.start_agent("node2", "q2", bin_folder=agent_environment)
    assert not list(agent_environment.parent.rglob("peewee*"))
    system.known("two_queues")
    out = system.flow("dags", "trigger", "two_queues", "--wait", "--output", "json")
    last = json.loads(out.splitlines()[-1])
    assert last["state"] == "success"
    rows = system.listing("tasks", "list", last["run_id"])
    assert [(row["queue"], row["agent"]) for row in rows] == [
        ("q1", "node1"),
        ("q2", "node2"),
        ("q1", "node1"),
        ("q2", "node2"),
    ]
    for row in rows:
        assert (row["state"], row["try_number"], row["map_index"]) == ("success", 1, -1)
        start, end = (datetime.fromisoformat(row[name]) for name in ("start_date", "end_date"))
        assert start.tzinfo is not None
        assert start <= end
    (run,) = system.listing("runs", "list")
    assert (run["run_id"], run["state"]) == (last["run_id"], "success")


def test_a_queue_without_agents_is_named_and_the_run_ends_once_one_comes(system: System) -> None:
    shutil.copy(EXAMPLE, system.dags)
    system.start_dispatcher()
    system.start_agent("node1", "q1")
    system.known("two_queues")
    trigger = system.start_command("dags", "trigger", "two_queues", "--wait")
    assert trigger.stdout is not None
    run_id = trigger.stdout.readline().strip()
    second = system.listing("tasks", "list", run_id)[1]["task_id"]

    def waits() -> bool:
        row = system.tasks(run_id)[second]
        return (row["state"], row["reason"]) == ("queued", "queue q2: 0 agents")

    until(waits)
    queues = {row["name"]: row for row in system.listing("queues", "list")}
    assert queues["q2"]["agents"] == 0
    assert queues["q2"]["waiting"] == 1
    assert queues["q1"]["agents"] == 1
    system.start_agent("node2", "q2")
    _, talk = trigger.communicate(timeout=30)
    assert trigger.returncode == 0
    assert "queue q2: 0 agents" in talk
    assert system.tasks(run_id)[second]["agent"] == "node2"


def test_output_is_seen_while_the_task_runs_and_afterwards(system: System, tmp_path: Path) -> None:
    go = tmp_path / "go"
    command = f"echo before; until test -e {go}; do sleep 0.05; done; echo after"
    system.write_dag(
        "talk",
        f"from flow import DAG, BashOperator\n"
        f"with DAG('talk'):\n    BashOperator(task_id='t', queue='q2', bash_command={command!r})\n",
    )
    system.start_dispatcher()
    system.start_agent("node2", "q2")
    system.known("talk")
    run_id = system.flow("dags", "trigger", "talk").strip()
    follower = system.start_command("tasks", "logs", run_id, "t", "-f")
    assert follower.stdout is not None
    assert follower.stdout.readline() == "before\n"
    assert system.tasks(run_id)["t"]["state"] == "running"
    go.touch()
    out, _ = follower.communicate(timeout=30)
    assert out == "after\n"
    assert follower.returncode == 0
    until(lambda: system.flow("tasks", "logs", run_id, "t") == "before\nafter\n")


def test_a_failing_task_is_retried_and_fails_the_run(system: System) -> None:
    system.write_dag(
        "fails",
        "from datetime import timedelta\n"
        "from flow import DAG, BashOperator\n"
        "with DAG('fails'):\n"
        "    bad = BashOperator(task_id='bad', bash_command='echo $FLOW_TRY_NUMBER; exit 3',\n"
        "        retries=1, retry_delay=timedelta(seconds=0.2))\n"
        "    bad >> BashOperator(task_id='never', bash_command='true')\n"
        "with DAG('slow'):\n"
        "    BashOperator(task_id='t', bash_command='(setsid sleep 60 &) ; sleep 60',\n"
        "        execution_timeout=timedelta(seconds=0.5))\n",
    )
    system.start_dispatcher()
    system.start_agent("node1", "default")
    system.known("slow")
    out = system.flow("dags", "trigger", "fails", "--wait", "--output", "json", code=1)
    last = json.loads(out.splitlines()[-1])
    assert last["state"] == "failed"
    tasks = system.tasks(last["run_id"])
    assert tasks["bad"]["try_number"] == 2
    assert tasks["bad"]["reason"] == "exit code 3"
    assert tasks["never"]["state"] == "upstream_failed"
    out = system.flow("dags", "trigger", "slow", "--wait", "--output", "json", code=1)
    slow = system.tasks(json.loads(out.splitlines()[-1])["run_id"])["t"]
    assert "execution_timeout" in slow["reason"]


def test_a_second_dispatcher_stands_by_and_takes_over(system: System) -> None:
    shutil.copy(EXAMPLE, system.dags)
    first = system.start_dispatcher()
    second = system.start_dispatcher(ready=False)
    until(lambda: second.says("standing by"))
    system.start_agent("node1", "q1", "q2")
    system.known("two_queues")
    first.kill()
    system.flow("dags", "trigger", "two_queues", "--wait")
    assert second.says("leads: epoch 2")


def test_daemons_stop_when_asked_and_a_stopped_agent_is_offline(system: System) -> None:
    dispatcher = system.start_dispatcher()
    agent = system.start_agent("node1", "q1")
    until(lambda: [row["state"] for row in system.listing("agents", "list")] == ["online"])
    assert agent.stop() == 0
    assert [row["state"] for row in system.listing("agents", "list")] == ["offline"]
    assert dispatcher.stop() == 0
