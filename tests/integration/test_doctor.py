"""`flow doctor` on a real broker and a real database: what it finds there, and that it does no
harm."""

from __future__ import annotations

import json
import secrets
import shutil
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import pytest

from dispatcher.store import health, migrate, open_database
from dispatcher.store.leader import begin_reign
from flow import topology
from flow.brokerrights import Rights, agent_rights, dispatcher_rights
from flow.cli.main import main
from tests.integration import broker_users
from tests.integration.broker_users import Management, channel, declare, vhost_of
from tests.waiting import until


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an agent of queue gpu, as which `flow doctor --agent` looks."""
    name = f"gpu1-{secrets.token_hex(4)}"
    monkeypatch.setenv("FLOW_CONFIG", "")
    monkeypatch.setenv("FLOW_HOME", str(tmp_path))
    monkeypatch.setenv("FLOW_AGENT_NAME", name)
    monkeypatch.setenv("FLOW_AGENT_QUEUES", "gpu")
    return name


@pytest.fixture
def site(broker_url: str) -> str:
    """The broker as a dispatcher leaves it."""
    with channel(broker_url) as admin:
        declare(admin, topology.event_queue())
        declare(admin, topology.log_queue())
        for queue in ("gpu", "cpu"):
            declare(admin, topology.task_queue(queue))
        admin.exchange_declare(topology.CONTROL, exchange_type="topic", durable=True)
    return broker_url


Doctor = Callable[..., list[str]]


@pytest.fixture
def doctor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Doctor:
    # It starts an Erlang, which takes seconds.
    monkeypatch.setattr("flow.cli.checks.broker.rabbitmqctl", lambda: None)

    def call(*argv: str, broker: str, code: int = 0, **environ: str) -> list[str]:
        """What it says of *broker*, without its level's padding."""
        for name, value in {"FLOW_BROKER_URL": broker, **environ}.items():
            monkeypatch.setenv(name, value)
        capsys.readouterr()
        found = main(["doctor", *argv])
        out = capsys.readouterr().out
        assert found == code, out
        return [" ".join(line.split()) for line in out.splitlines()]

    return call


def about(name: str, lines: list[str]) -> list[str]:
    return [line for line in lines if line.split()[1] == f"{name}:"]


# -- rights ----------------------------------------------------------------------------------------


def as_user(
    api: Management, site: str, name: str, rights: Rights, doctor: Doctor, code: int = 0
) -> list[str]:
    with broker_users.user(api, site, name, rights) as url:
        return doctor("--agent", broker=url, code=code)


def test_an_agent_with_exactly_its_rights_is_good(
    site: str, agent: str, doctor: Doctor, management_api: Management
) -> None:
    found = as_user(management_api, site, agent, agent_rights(agent, ["gpu"]), doctor)
    assert about("rights", found) == [
        f"ok rights: the user of agent {agent} may do all that it needs",
        f"ok rights: the user of agent {agent} is refused all 12 things that it must not do",
    ]


PUBLISHING = ["publish tasks", "publish to any queue by its name", "answer other agents"]
POSING = ["report as another agent", "send output as another agent"]
READING = [
    "read queues that it does not serve",
    "read the events of all agents",
    "read the output of all tasks",
]
BINDING = ["bind queues to the tasks"]
MAKING = ["make and delete queues of tasks", "make and delete exchanges"]
WIDER: dict[str, tuple[dict[str, Any], list[str]]] = {
    "read": ({"read": ".*"}, READING),
    "read and topics": ({"read": ".*", "topics": ()}, POSING + READING + BINDING),
    "write": ({"write": ".*", "topics": ()}, PUBLISHING + POSING),
    "configure": ({"configure": ".*"}, MAKING),
    "topics": ({"topics": ()}, POSING),
}


@pytest.mark.parametrize(("wider", "tells"), WIDER.values(), ids=WIDER)
def test_each_right_that_is_too_wide_is_a_problem(
    wider: dict[str, Any],
    tells: list[str],
    site: str,
    agent: str,
    doctor: Doctor,
    management_api: Management,
) -> None:
    rights = replace(agent_rights(agent, ["gpu"]), **wider)
    found = as_user(management_api, site, agent, rights, doctor, code=1)
    assert about("rights", found)[1] == (
        f"problem rights: the user of agent {agent} may {', '.join(tells)}, which it must not; "
        f"grant it only what `flow broker rights {agent} --queue gpu` prints"
    )


def test_an_agent_that_may_not_read_its_queue_is_a_problem(
    site: str, agent: str, doctor: Doctor, management_api: Management
) -> None:
    found = as_user(management_api, site, agent, agent_rights(agent, ["cpu"]), doctor, code=1)
    assert about("rights", found)[0] == (
        f"problem rights: the user of agent {agent} may not read queue 'gpu'; grant it what `flow "
        f"broker rights {agent} --queue gpu` prints"
    )


def test_a_dispatcher_with_exactly_its_rights_is_good(
    site: str, agent: str, doctor: Doctor, management_api: Management, postgres_url: str
) -> None:
    migrate(open_database(postgres_url))
    rights = dispatcher_rights()
    with broker_users.user(management_api, site, f"d-{agent}", rights) as url:
        found = doctor("--dispatcher", broker=url, FLOW_DATABASE_URL=postgres_url)
    assert about("rights", found) == [
        "ok rights: the user of the dispatcher may do all that it needs",
        "ok rights: the user of the dispatcher is refused all 4 things that it must not do",
    ]


def contents(api: Management, url: str) -> object:
    """Queues with what waits in them, exchanges and bindings."""
    vhost = vhost_of(url)
    with channel(url) as admin:
        waiting = {
            queue["name"]: admin.queue_declare(queue["name"], passive=True).method.message_count
            for queue in json.loads(api("GET", f"/queues/{vhost}"))
        }
    exchanges = json.loads(api("GET", f"/exchanges/{vhost}"))
    return (
        waiting,
        [each["name"] for each in exchanges],
        json.loads(api("GET", f"/bindings/{vhost}")),
    )


@pytest.mark.usefixtures("agent")
@pytest.mark.parametrize("who", ["--agent", "--dispatcher"])
def test_with_a_user_that_may_do_everything_it_warns_and_does_nothing(
    who: str, site: str, doctor: Doctor, management_api: Management, postgres_url: str
) -> None:
    migrate(open_database(postgres_url))
    with channel(site) as admin:
        for exchange, key in ((topology.TASKS, "gpu"), (topology.EVENTS, "a.b")):
            admin.basic_publish(exchange, key, b"{}")
    before = contents(management_api, site)
    found = doctor(who, broker=site, FLOW_DATABASE_URL=postgres_url)
    assert about("rights", found)[1].startswith("warning rights: the user of ")
    assert " may do everything, such as to publish " in about("rights", found)[1]
    assert contents(management_api, site) == before
    with channel(site) as admin:
        for queue in (topology.task_queue("gpu").name, topology.EVENTS):
            method, properties, _ = next(admin.consume(queue, inactivity_timeout=20))
            admin.cancel()
            # A quorum queue counts how often a message came back.
            assert (properties.headers or {}).get("x-delivery-count", 0) == 0, queue
            assert not method.redelivered


# -- queues ----------------------------------------------------------------------------------------


def test_queues_are_told_with_their_consumers(site: str, agent: str, doctor: Doctor) -> None:
    with channel(site) as admin:
        admin.basic_publish(topology.TASKS, "gpu", b"{}")
        found = doctor("--agent", broker=site)
        assert about("queues", found)[1] == (
            "warning queues: queue gpu: no agent consumes it, 1 task wait; start the agent"
        )
        admin.basic_consume("flow.q.gpu", lambda *_: None)
        found = doctor("--agent", broker=site)
        assert about("queues", found)[1] == "ok queues: queue gpu: 1 consume it, 0 tasks wait"
    assert about("queues", found)[0].startswith(f"warning queues: no agent {agent} runs with home ")


@pytest.mark.usefixtures("agent")
def test_an_empty_broker_is_told(broker_url: str, doctor: Doctor) -> None:
    found = doctor("--agent", broker=broker_url)
    assert about("rights", found)[0].endswith(
        "a dispatcher makes queues and exchanges when it leads; start one"
    )
    assert about("queues", found)[1] == (
        "warning queues: queue gpu is not there: no dispatcher has been asked for it; start a "
        "dispatcher, and the agent"
    )


# -- a broker that cannot be used ------------------------------------------------------------------

SKIPPED = [f"note {name}: not looked at, because of broker" for name in ("rights", "queues")]


@pytest.mark.usefixtures("agent")
def test_a_wrong_password_is_one_problem(site: str, doctor: Doctor) -> None:
    wrong = site.replace("guest:guest@", "guest:hunter2@")
    found = doctor("--agent", broker=wrong, code=1)
    (line,) = about("broker", found)
    assert line.startswith("problem broker: broker amqp://guest@127.0.0.1:")
    assert "login refused: " in line
    assert line.endswith("; check user, password and virtual host in broker.url")
    assert [line for line in found if "because of broker" in line][:2] == SKIPPED
    assert not any("hunter2" in line for line in found)


@pytest.mark.usefixtures("agent")
def test_a_broker_that_is_down_is_one_problem(free_port: int, doctor: Doctor) -> None:
    found = doctor("--agent", broker=f"amqp://guest:guest@127.0.0.1:{free_port}/", code=1)
    assert about("broker", found) == [
        (
            f"problem broker: broker amqp://guest@127.0.0.1:{free_port}/: cannot be reached: "
            "connection refused; is it running there, and broker.url right?"
        )
    ]


@pytest.mark.usefixtures("agent")
def test_a_broker_that_never_answers_holds_nothing_up(doctor: Doctor) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        begun = time.monotonic()
        found = doctor("--agent", broker=f"amqp://guest:guest@127.0.0.1:{port}/", code=1)
        assert time.monotonic() - begun < 20
    assert "no answer in 5 s; is it running there" in about("broker", found)[0]


@pytest.mark.usefixtures("agent")
def test_an_alarm_of_the_broker_is_a_problem(
    site: str, doctor: Doctor, rabbitmqctl: Callable[..., str]
) -> None:
    alarm = "problem rights: expected the broker to take messages, got an alarm"
    found: list[str] = []

    def told() -> bool:
        found[:] = doctor("--agent", broker=site, code=1)
        return about("rights", found)[0].startswith(alarm)

    rabbitmqctl("set_vm_memory_high_watermark", "0.00001")
    try:
        # Alarms take a moment to reach the connections.
        until(lambda: "memory" in rabbitmqctl("eval", "rabbit_alarm:get_alarms()."), every=0.2)
        assert told()
    finally:
        rabbitmqctl("set_vm_memory_high_watermark", "0.4")
    assert about("rights", found)[0].endswith(
        "; look at rabbitmqctl status, and see check_local_alarms of rabbitmq-diagnostics"
    )


@pytest.mark.usefixtures("agent", "rabbitmqctl")
def test_the_consumer_timeout_is_known_on_the_brokers_machine(
    site: str, doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flow.cli.checks.broker.rabbitmqctl", lambda: shutil.which("rabbitmqctl"))
    monkeypatch.setattr("flow.cli.checks.broker.CTL_PATIENCE", 60.0)
    monkeypatch.setattr("flow.cli.doctor.WITHIN", 90.0)
    (line,) = about("consumer_timeout", doctor("--agent", broker=site))
    assert line.startswith("warning consumer_timeout: while a task runs longer than 30 minutes, ")


@pytest.mark.usefixtures("agent")
def test_elsewhere_it_is_not(site: str, doctor: Doctor) -> None:
    (line,) = about("consumer_timeout", doctor("--agent", broker=site))
    assert line == (
        "note consumer_timeout: not known from here; on the broker's machine, as root: rabbitmqctl "
        "eval 'application:get_env(rabbit, consumer_timeout).'"
    )


# -- the database ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("agent")
def test_a_database_without_tables_names_the_command_that_makes_them(
    broker_url: str, postgres_url: str, doctor: Doctor
) -> None:
    found = doctor("--dispatcher", broker=broker_url, code=1, FLOW_DATABASE_URL=postgres_url)
    assert about("database", found)[0].startswith("ok database: database flow@127.0.0.1:")
    (line,) = about("schema", found)
    assert line.endswith("got a schema without 0001_initial, 0002_nodes; run `flow db migrate`")


@pytest.mark.usefixtures("agent")
def test_a_database_that_is_down_is_one_problem(
    broker_url: str, free_port: int, doctor: Doctor
) -> None:
    url = f"postgresql://flow@127.0.0.1:{free_port}/d"
    found = doctor("--dispatcher", broker=broker_url, code=1, FLOW_DATABASE_URL=url)
    (line,) = about("database", found)
    assert line.startswith(f"problem database: database flow@127.0.0.1:{free_port}/d: expected an ")
    assert line.endswith("; is it running?")
    assert about("schema", found) == ["note schema: not looked at, because of database"]


@pytest.mark.usefixtures("agent")
def test_the_leader_is_told_from_the_database(
    broker_url: str, postgres_url: str, doctor: Doctor
) -> None:
    database = open_database(postgres_url)
    migrate(database)

    def leader(code: int = 0) -> str:
        found = doctor("--dispatcher", broker=broker_url, code=code, FLOW_DATABASE_URL=postgres_url)
        return about("schema", found)[1]

    assert leader().startswith("warning schema: no dispatcher has ever led on it")
    begin_reign(database, "d1", datetime.now(UTC))
    assert leader().startswith("ok schema: dispatcher d1 leads, heard ")
    begin_reign(database, "d1", datetime.now(UTC) - timedelta(minutes=10))
    assert leader(1).startswith("problem schema: dispatcher d1 was last heard 10 min ago")
    database.close()


@pytest.mark.usefixtures("agent")
def test_settings_that_forget_commits_are_told(
    broker_url: str, postgres_url: str, doctor: Doctor
) -> None:
    migrate(open_database(postgres_url))
    careless = f"{postgres_url}?options=-csynchronous_commit%3Doff"
    found = doctor("--dispatcher", broker=broker_url, FLOW_DATABASE_URL=careless)
    assert about("database", found)[1].startswith("warning database: synchronous_commit is off: ")


def test_a_clock_that_is_off_is_measured(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ahead:
        @staticmethod
        def now(zone: tzinfo) -> datetime:
            return datetime.now(zone) + timedelta(seconds=90)

    database = open_database(postgres_url)
    honest = health.look(database)
    assert abs(honest.ahead) < 1
    assert (honest.encrypted, honest.not_durable, honest.host) == (False, (), "127.0.0.1")
    monkeypatch.setattr(health, "datetime", Ahead)
    assert -91 < health.look(database).ahead < -89
    database.close()
