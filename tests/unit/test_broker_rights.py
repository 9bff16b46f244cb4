"""Rights as patterns: everything that is one's own fits, and nothing of anybody else."""

from __future__ import annotations

import json
import re
import shlex

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from flow import names, topology, wire
from flow.brokerrights import (
    Rights,
    agent_rights,
    command_rights,
    dispatcher_rights,
    policies,
)
from flow.cli.main import main

agents = st.from_regex(names.AGENT.pattern, fullmatch=True)
queues = st.from_regex(names.QUEUE.pattern, fullmatch=True)
ids = st.from_regex(names.DAG_ID.pattern, fullmatch=True)
kinds = st.sampled_from([cls.kind for cls in wire.Event.__subclasses__()])
suffixes = st.from_regex("[0-9a-f]{12}", fullmatch=True)


def fits(pattern: str, name: str) -> bool:
    """As RabbitMQ has it: anywhere in the name."""
    return re.search(pattern, name) is not None


def topic(rights: Rights, exchange: str) -> tuple[str, str]:
    (found,) = [each for each in rights.topics if each.exchange == exchange]
    return found.write, found.read


@given(agents, queues, suffixes, kinds, ids, ids)
def test_an_agent_may_do_what_it_does(
    name: str, queue: str, suffix: str, kind: str, dag_id: str, task_id: str
) -> None:
    rights = agent_rights(name, [queue, "second"])
    control = topology.control_queue(name, suffix)
    for pattern in (rights.configure, rights.write, rights.read):
        assert fits(pattern, control.name)
    for served in (queue, "second"):
        assert fits(rights.read, topology.task_queue(served).name)
    assert fits(rights.read, topology.CONTROL)
    assert fits(topic(rights, topology.CONTROL)[1], control.key)
    for exchange, key in (
        (topology.EVENTS, topology.event_key(name, kind)),
        (topology.LOGS, topology.log_key(name, dag_id, task_id)),
    ):
        assert fits(rights.write, exchange)
        assert fits(topic(rights, exchange)[0], key)


@given(agents, agents, queues, queues, suffixes, kinds)
@example("gpu1", "gpu1-gpu", "gpu", "gpu.a100", "0", "hello")
@example("gpu1-gpu", "gpu1", "gpu.a100", "gpuxa100", "0", "hello")
@example("a", "b", "q", "Q", "0", "hello")
def test_an_agent_may_do_nothing_of_anothers(
    name: str, other: str, queue: str, another: str, suffix: str, kind: str
) -> None:
    assume(name != other)
    assume(queue != another)
    rights = agent_rights(name, [queue])
    control = topology.control_queue(other, suffix)
    foreign = (
        control.name,
        topology.task_queue(another).name,
        topology.follower_queue("k", suffix).name,
        topology.TASKS,
        "",
        "amq.default",
        "amq.gen-x",
    )
    for found in foreign:
        for pattern in (rights.configure, rights.write, rights.read):
            assert not fits(pattern, found)
    assert not fits(rights.configure, topology.task_queue(queue).name)
    assert not fits(rights.write, topology.task_queue(queue).name)
    assert not fits(rights.write, topology.CONTROL)
    for found in (topology.EVENTS, topology.LOGS):
        assert not fits(rights.configure, found)
        assert not fits(rights.read, found)
    assert not fits(topic(rights, topology.EVENTS)[0], topology.event_key(other, kind))
    assert not fits(topic(rights, topology.LOGS)[0], topology.log_key(other, "d", "t"))
    assert not fits(topic(rights, topology.CONTROL)[1], control.key)


@pytest.mark.parametrize("pattern", ["#", "*", "agent.*", "agent.#", "*.gpu1", "#.gpu1"])
def test_no_binding_with_a_wildcard_is_among_an_agents_rights(pattern: str) -> None:
    for found in agent_rights("gpu1", ["gpu"]).topics:
        assert not fits(found.read, pattern)


@pytest.mark.parametrize(
    "key", [topology.PROBE_KEY, topology.MARKER_KEY, topology.WAKE_KEY, "gpu1", "gpu1.", ".hello"]
)
def test_the_dispatchers_own_keys_are_no_agents(key: str) -> None:
    assert not fits(topic(agent_rights("gpu1", ["gpu"]), topology.EVENTS)[0], key)


@given(agents, queues)
def test_a_dispatcher_may_do_what_it_does(name: str, queue: str) -> None:
    rights = dispatcher_rights()
    for spec in (topology.event_queue(), topology.log_queue(), topology.task_queue(queue)):
        for found in (rights.configure, rights.write, rights.read):
            assert fits(found, spec.name)
        assert fits(rights.read, spec.exchange)
        assert fits(topic(rights, spec.exchange)[1], spec.key)
    for exchange, key in (
        (topology.TASKS, queue),
        (topology.CONTROL, topology.agent_key(name)),
        (topology.EVENTS, topology.PROBE_KEY),
        (topology.EVENTS, topology.MARKER_KEY),
    ):
        assert fits(rights.configure, exchange)
        assert fits(rights.write, exchange)
        assert fits(topic(rights, exchange)[0], key)


def test_a_dispatcher_forges_no_event_and_reads_no_control_queue() -> None:
    rights = dispatcher_rights()
    assert not fits(topic(rights, topology.EVENTS)[0], "gpu1.hello")
    assert not fits(rights.read, "flow.control.gpu1.0123")
    assert not fits(rights.write, "amq.default")


@given(ids, ids, suffixes)
def test_a_command_rings_the_bell_and_follows_output_and_does_nothing_else(
    dag_id: str, task_id: str, suffix: str
) -> None:
    rights = command_rights()
    follower = topology.follower_queue(topology.log_pattern(dag_id, task_id), suffix)
    for found in (rights.configure, rights.write, rights.read):
        assert fits(found, follower.name)
    assert fits(rights.read, follower.exchange)
    assert fits(topic(rights, topology.LOGS)[1], follower.key)
    assert fits(rights.write, topology.EVENTS)
    assert fits(topic(rights, topology.EVENTS)[0], topology.WAKE_KEY)
    assert not fits(topic(rights, topology.EVENTS)[0], "gpu1.hello")
    assert not fits(topic(rights, topology.LOGS)[0], "gpu1.d.t")
    assert not fits(rights.read, topology.EVENTS)


@pytest.mark.parametrize(
    "rights", [agent_rights("gpu1", ["gpu"]), dispatcher_rights(), command_rights()]
)
def test_every_pattern_is_anchored_and_every_exchange_has_its_own(rights: Rights) -> None:
    patterns = [rights.configure, rights.write, rights.read]
    for found in rights.topics:
        patterns += [found.write, found.read]
    for each in patterns:
        assert re.fullmatch(r"\^.*\$", each)
        # ^a|b$ would be anchored in halves only.
        assert "|" not in each or re.fullmatch(r"\^\([^()]*\)\$", each)
    # RabbitMQ allows every key of an exchange for which a user has no entry.
    assert [found.exchange for found in rights.topics] == list(topology.EXCHANGES)


@pytest.mark.parametrize(
    ("version", "rules"),
    [
        ((3, 10), None),
        ((3, 12), {"consumer-timeout": 31_536_000_000}),
        ((4, 1), {"consumer-timeout": 31_536_000_000, "delivery-limit": -1}),
    ],
)
def test_newer_brokers_want_a_policy_for_the_quorum_queues(
    version: tuple[int, int], rules: dict[str, int] | None
) -> None:
    found = policies(version)
    assert list(found.values()) == ([] if rules is None else [rules])
    for pattern in found:
        assert fits(pattern, "flow.q.gpu.a100")
        assert fits(pattern, topology.EVENTS)
        assert not fits(pattern, topology.LOGS)


# -- the command ---------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _own_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOW_BROKER_URL", "amqp://guest:s3cret@rabbit.example.org/flow%2Fone")


def test_an_agents_rights_are_printed_as_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["broker", "rights", "gpu1-gpu", "--queue", "gpu", "--queue", "gpu.a100"]) == 0
    out, err = capsys.readouterr()
    own = r"flow\.control\.gpu1-gpu\.[0-9a-f]+"
    place = ["--vhost", "flow/one"]
    nothing = "^$"
    topics = ["rabbitmqctl", "set_topic_permissions", *place, "gpu1-gpu"]
    assert [shlex.split(line) for line in out.splitlines()] == [
        [
            *("rabbitmqctl", "set_permissions", *place, "gpu1-gpu"),
            f"^{own}$",
            rf"^(flow\.events|flow\.logs|{own})$",
            rf"^(flow\.control|{own}|flow\.q\.gpu|flow\.q\.gpu\.a100)$",
        ],
        [*topics, "flow.tasks", nothing, nothing],
        [*topics, "flow.events", r"^gpu1-gpu\.[a-z_]+$", nothing],
        [*topics, "flow.control", nothing, r"^agent\.gpu1-gpu$"],
        [*topics, "flow.logs", r"^gpu1-gpu\.[^.]+\.[^.]+$", nothing],
    ]
    assert err == ""


def test_rights_are_printed_as_definitions_that_rabbitmq_imports(
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["broker", "rights", "boss", "--dispatcher", "--vhost", "/", "--rabbitmq", "4.1.3"]
    assert main([*command, "--output", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(each["user"], each["vhost"]) for each in found["permissions"]] == [("boss", "/")]
    assert [each["exchange"] for each in found["topic_permissions"]] == list(topology.EXCHANGES)
    (policy,) = found["policies"]
    assert (policy["name"], policy["definition"]["delivery-limit"]) == ("flow", -1)
    assert main(command) == 0
    last = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert last[:6] == ["rabbitmqctl", "set_policy", "--vhost", "/", "--apply-to", "queues"]


def test_a_users_end_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["broker", "revoke", "gpu1-gpu"]) == 0
    assert capsys.readouterr().out == (
        "rabbitmqctl delete_user gpu1-gpu\n"
        "rabbitmqctl close_all_user_connections gpu1-gpu revoked\n"
    )


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (
            ["rights", "gpu1"],
            (
                "broker rights: expected one of --queue, --dispatcher and --commands, got 0 of "
                "them; an agent's user needs its queues"
            ),
        ),
        (
            ["rights", "gpu1", "--queue", "q", "--commands"],
            (
                "broker rights: expected one of --queue, --dispatcher and --commands, got 2 of "
                "them; an agent's user needs its queues"
            ),
        ),
        (
            ["rights", "GPU1", "--queue", "q"],
            "broker: USER: expected 1 to 100 lower-case letters, digits, '-', got 'GPU1'",
        ),
        (
            ["rights", "gpu1", "--queue", "a b"],
            ("broker: --queue: expected 1 to 100 letters, digits, '.', '_', '-', got 'a b'"),
        ),
        (
            ["rights", "boss", "--dispatcher", "--rabbitmq", "new"],
            "broker rights: --rabbitmq: expected a version such as 3.10, got 'new'",
        ),
        (
            ["revoke", "a;b"],
            "broker: USER: expected 1 to 100 lower-case letters, digits, '-', got 'a;b'",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(
    capsys: pytest.CaptureFixture[str], arguments: list[str], problem: str
) -> None:
    assert main(["broker", *arguments]) == 2
    assert capsys.readouterr() == ("", f"flow: {problem}\n")
