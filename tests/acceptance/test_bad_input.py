"""What users and strangers get wrong: each is one clear line, and nothing else is disturbed."""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pika
import psycopg2
import psycopg2.errors
import pytest

from flow import topology
from tests.acceptance.system import BIN, System
from tests.waiting import until

EXAMPLE = Path(__file__).resolve().parents[2] / "dags" / "two_queues.py"


def run_daemon(system: System, *command: str, **settings: str) -> tuple[int, str]:
    """Exit code and output of a daemon that is expected to give up."""
    done = subprocess.run(
        [BIN / command[0], *command[1:]],
        env=system.environment(**settings),
        cwd=system.root,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("command", [("flow", "dispatcher"), ("flow-agent", "--name", "n")])
def test_a_wrong_broker_password_ends_a_daemon_with_one_line(
    system: System, command: tuple[str, ...]
) -> None:
    wrong = system.broker_url.replace("guest:guest@", "guest:hunter2@")
    code, text = run_daemon(system, *command, FLOW_BROKER_URL=wrong)
    assert code == 4
    # What an agent says of its cgroups depends on the machine, and comes first.
    (line,) = [line for line in text.splitlines() if "cgroup" not in line]
    assert line.startswith("flow")
    assert "hunter2" not in text


def test_an_unknown_database_ends_the_dispatcher_with_one_line(system: System) -> None:
    code, text = run_daemon(
        system, "flow", "dispatcher", FLOW_DATABASE_URL=f"{system.database_url}x"
    )
    assert code == 5
    assert len(text.splitlines()) == 1
    assert "does not exist" in text


@pytest.fixture
def login(postgres_url: str) -> Iterator[str]:
    """The URL of the test's database for somebody whose password is ``right``."""
    role = f"clerk_{secrets.token_hex(4)}"
    connection = psycopg2.connect(postgres_url)
    connection.autocommit = True
    cursor = connection.cursor()
    with contextlib.suppress(psycopg2.errors.DuplicateObject, psycopg2.errors.UniqueViolation):
        cursor.execute("CREATE ROLE with_password")
    cursor.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'right' IN ROLE with_password")
    yield postgres_url.replace("//flow@", f"//{role}:right@")
    cursor.execute(f"DROP ROLE {role}")
    connection.close()


@pytest.mark.parametrize(
    "command", [("dispatcher",), ("runs", "list"), ("dags", "trigger", "two_queues")]
)
def test_a_wrong_database_password_ends_a_command_with_one_line(
    system: System, login: str, command: tuple[str, ...]
) -> None:
    psycopg2.connect(login).close()
    wrong = login.replace(":right@", ":hunter2@")
    code, text = run_daemon(system, "flow", *command, FLOW_DATABASE_URL=wrong)
    assert code == 5
    assert len(text.splitlines()) == 1
    assert "hunter2" not in text
    assert "password" in text


def test_a_database_without_tables_names_the_command_that_makes_them(
    tmp_path: Path, broker_url: str, postgres_url: str
) -> None:
    system = System(tmp_path, broker_url, postgres_url)
    code, text = run_daemon(system, "flow", "dispatcher")
    assert code == 5
    assert "flow db migrate" in text


def test_daemons_wait_for_a_broker_that_is_down(system: System, free_port: int) -> None:
    vhost = system.broker_url.rpartition("/")[2]
    nobody = f"amqp://guest:guest@127.0.0.1:{free_port}/{vhost}"
    right, system.broker_url = system.broker_url, nobody
    daemons = [system.start_dispatcher(ready=False), system.start_agent("n", "q1", ready=False)]
    for daemon in daemons:
        until(lambda daemon=daemon: daemon.says("cannot be reached"))  # type: ignore[misc]
        assert daemon.process.poll() is None
        assert not daemon.says("Traceback")
        assert daemon.stop() == 0
    system.broker_url = right


def test_a_dispatcher_waits_for_a_database_that_is_down(system: System, free_port: int) -> None:
    name = system.database_url.rpartition("/")[2]
    system.database_url = f"postgresql://flow@127.0.0.1:{free_port}/{name}"
    dispatcher = system.start_dispatcher(ready=False)
    until(lambda: dispatcher.says("trying again"))
    assert not dispatcher.says("Traceback")
    assert dispatcher.stop() == 0


@pytest.fixture
def channel(broker_url: str) -> Iterator[pika.adapters.blocking_connection.BlockingChannel]:
    connection = pika.BlockingConnection(pika.URLParameters(broker_url))
    yield connection.channel()
    connection.close()


GARBAGE = (
    b"\x00\xff not JSON",
    b'{"type":"marker","version":99,"reign":1,"number":1}',
    b'{"type":"nonsense","version":1}',
    b'{"type":"goodbye","version":1,"agent":"node1","session":1}',  # under another one's key
    b'{"type":"finished","version":1,"agent":"stranger","session":1}',
)


def test_messages_nobody_can_read_are_parked_and_disturb_nothing(
    system: System, channel: pika.adapters.blocking_connection.BlockingChannel
) -> None:
    shutil.copy(EXAMPLE, system.dags)
    dispatcher = system.start_dispatcher()
    agents = [system.start_agent("node1", "q1"), system.start_agent("node2", "q2")]
    system.known("two_queues")
    for body in GARBAGE:
        channel.basic_publish(topology.EVENTS, "stranger.event", body)
        channel.basic_publish(topology.TASKS, "q1", body)
        channel.basic_publish(topology.LOGS, "stranger.two_queues.t", body)
        channel.basic_publish(topology.CONTROL, "agent.node1", body)
    system.flow("dags", "trigger", "two_queues", "--wait")
    parked = system.root / "control" / "parked"
    until(lambda: len(list(parked.glob("*.json"))) == len(GARBAGE))
    reasons = [json.loads(path.read_text())["reason"] for path in sorted(parked.glob("*.json"))]
    assert "expected a JSON object" in reasons[0]
    assert "expected version 1 or lower, got 99" in reasons[1]
    on_node = system.root / "node1" / "agents" / "node1" / "parked"
    until(lambda: len(list(on_node.glob("*.json"))) >= len(GARBAGE))
    for daemon in [dispatcher, *agents]:
        assert daemon.process.poll() is None
        assert not daemon.says("Traceback")
    assert all(row["state"] == "online" for row in system.listing("agents", "list"))


def test_a_task_that_floods_its_output_disturbs_nobody(system: System) -> None:
    system.settings["FLOW_AGENT_LOG_MAX_BYTES"] = str(1024 * 1024)
    system.write_dag(
        "flood",
        "from flow import DAG, BashOperator\n"
        "with DAG('flood'):\n"
        "    BashOperator(task_id='t', queue='q1', bash_command='yes | head -c 300M')\n"
        "    BashOperator(task_id='quiet', queue='q1', bash_command='echo quiet')\n",
    )
    system.start_dispatcher()
    agent = system.start_agent("node1", "q1")
    system.known("flood")
    out = system.flow("dags", "trigger", "flood", "--wait", "--output", "json")
    run_id = json.loads(out.splitlines()[-1])["run_id"]
    until(lambda: system.flow("tasks", "logs", run_id, "quiet") == "quiet\n")
    until(
        lambda: (
            "output beyond 1048576 bytes is not kept" in system.flow("tasks", "logs", run_id, "t")
        )
    )
    assert len(system.flow("tasks", "logs", run_id, "t")) < 1024 * 1024 + 1000
    (row,) = system.listing("agents", "list")
    assert (row["state"], row["busy"]) == ("online", 0)
    peak = Path(f"/proc/{agent.process.pid}/status").read_text().split("VmHWM:")[1].split()[0]
    assert int(peak) < 200_000, "kB"
