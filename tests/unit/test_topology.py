"""Names on the broker: short enough, told apart, and nobody's but their owner's."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from flow import names, topology, wire

ids = st.from_regex(names.DAG_ID.pattern, fullmatch=True)
agents = st.from_regex(names.AGENT.pattern, fullmatch=True)
queues = st.from_regex(names.QUEUE.pattern, fullmatch=True)
anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
KINDS = [cls.kind for cls in wire.Event.__subclasses__()]


@given(agents, anything, anything)
def test_a_log_key_fits_amqp_and_has_three_words_for_any_ids(
    agent: str, dag_id: str, task_id: str
) -> None:
    key = topology.log_key(agent, dag_id, task_id)
    assert len(key.encode()) <= topology.MAX_KEY_BYTES
    assert key.count(".") == 2
    assert topology.sender_of(key) == agent
    # A follower binds with two of the words: a wildcard would bring other tasks' output.
    assert re.fullmatch(r"[A-Za-z0-9_%~.-]+", key) or "" in (dag_id, task_id)


@given(agents, ids, ids)
def test_a_log_key_is_its_tasks_pattern_with_the_agents_name(
    agent: str, dag_id: str, task_id: str
) -> None:
    wildcard, *words = topology.log_pattern(dag_id, task_id).split(".")
    assert wildcard == "*"
    assert topology.log_key(agent, dag_id, task_id).split(".") == [agent, *words]


@given(st.tuples(anything, anything), st.tuples(anything, anything))
def test_different_tasks_have_different_log_keys(
    one: tuple[str, str], two: tuple[str, str]
) -> None:
    assume(one != two)
    assert topology.log_pattern(*one) != topology.log_pattern(*two)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (("a.b", "c"), ("a", "b.c")),
        (("a.b", "c"), ("a%2eb", "c")),
        (("é", "t"), ("c3a9", "t")),
        (("€", "t"), ("â", "t")),
        (("x" * 250 + "1", "t"), ("x" * 250 + "2", "t")),
        (("a~b", "t"), ("a", "b~t")),
        (("A", "t"), ("a", "t")),
    ],
)
def test_ids_that_look_alike_have_different_log_keys(
    one: tuple[str, str], two: tuple[str, str]
) -> None:
    assert topology.log_pattern(*one) != topology.log_pattern(*two)


def test_ordinary_ids_are_readable_in_their_log_key() -> None:
    assert topology.log_pattern("daily_sales", "extract-1") == "*.daily_sales.extract-1"
    assert topology.log_pattern("a.b", "t") == "*.a%2eb.t"


def test_a_long_id_is_cut_and_ends_with_its_digest() -> None:
    first = topology.log_pattern("x" * 250, "t").split(".")[1]
    assert len(first) == 76
    assert re.fullmatch(r"x{59}~[0-9a-f]{16}", first)


@given(agents, st.sampled_from(KINDS))
def test_an_agents_event_key_is_never_one_of_the_dispatchers(agent: str, kind: str) -> None:
    key = topology.event_key(agent, kind)
    assert key not in {topology.PROBE_KEY, topology.MARKER_KEY, topology.WAKE_KEY}
    assert key.partition(".") == (agent, ".", kind)
    assert len(key) <= topology.MAX_KEY_BYTES


def test_no_agent_may_have_the_first_word_of_the_dispatchers_keys() -> None:
    for key in (topology.PROBE_KEY, topology.MARKER_KEY, topology.WAKE_KEY):
        assert names.AGENT.problem(key.split(".")[0]) is not None


@given(agents, agents)
def test_agents_have_control_queues_of_their_own(one: str, two: str) -> None:
    assume(one != two)
    first, second = (topology.control_queue(name, "0123abcd") for name in (one, two))
    assert first.name != second.name
    assert first.key != second.key
    assert max(len(first.name), len(first.key)) <= topology.MAX_KEY_BYTES


def test_every_connection_has_a_control_queue_of_its_own_under_one_key() -> None:
    first, second = (topology.control_queue("node1", suffix) for suffix in ("a", "b"))
    assert first.name != second.name
    assert first.key == second.key == topology.agent_key("node1")
    assert first.exclusive
    assert not first.durable


@given(queues)
def test_a_task_queue_is_a_durable_quorum_queue_bound_with_exactly_its_key(queue: str) -> None:
    spec = topology.task_queue(queue)
    assert (spec.exchange, spec.key) == (topology.TASKS, queue)
    assert spec.name == f"flow.q.{queue}"
    assert spec.durable
    assert not spec.exclusive
    assert spec.arguments == {"x-queue-type": "quorum"}
    assert len(spec.name) <= topology.MAX_KEY_BYTES
    assert not {"*", "#"} & set(queue)


@given(queues)
def test_no_task_queue_has_the_name_of_another_kind_of_queue(queue: str) -> None:
    others = {
        topology.event_queue().name,
        topology.log_queue().name,
        topology.control_queue("q", "x").name,
        topology.follower_queue("k", "x").name,
    }
    assert topology.task_queue(queue).name not in others


def test_the_events_queue_elects_and_takes_everything() -> None:
    spec = topology.event_queue()
    assert (spec.name, spec.exchange, spec.key) == ("flow.events", topology.EVENTS, "#")
    assert spec.arguments["x-single-active-consumer"] is True
    assert spec.arguments["x-queue-type"] == "quorum"


def test_the_log_queue_is_bounded_and_drops_its_oldest() -> None:
    spec = topology.log_queue(max_bytes=1000)
    assert spec.arguments == {"x-max-length-bytes": 1000, "x-overflow": "drop-head"}


@given(ids, ids)
def test_a_follower_hears_its_task_only(dag_id: str, task_id: str) -> None:
    key = topology.log_pattern(dag_id, task_id)
    spec = topology.follower_queue(key, "0123abcd")
    assert (spec.exchange, spec.key) == (topology.LOGS, key)
    assert spec.exclusive
    assert not spec.durable


def test_every_exchange_is_listed() -> None:
    specs = (
        topology.task_queue("q"),
        topology.event_queue(),
        topology.log_queue(),
        topology.control_queue("a", "x"),
    )
    assert {spec.exchange for spec in specs} == set(topology.EXCHANGES)
