from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow.dagspec import DagSpec, TaskSpec
from flow.errors import DagError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
TASKS = st.builds(
    TaskSpec,
    task_id=TEXT,
    operator=st.just("bash"),
    arguments=st.fixed_dictionaries(
        {"command": TEXT, "env": st.dictionaries(TEXT, TEXT), "cwd": st.none() | TEXT}
    ),
    upstream=st.lists(TEXT).map(tuple),
    queue=TEXT,
    retries=st.integers(0, 100),
    retry_delay=st.floats(0, 1e8),
    execution_timeout=st.none() | st.floats(0.001, 1e8),
    priority_weight=st.integers(-(2**31), 2**31 - 1),
    on_agent_lost=st.sampled_from(["rerun", "fail", "wait"]),
    owner=TEXT,
    line=st.integers(0),
)
DAGS = st.builds(
    DagSpec,
    dag_id=TEXT,
    tasks=st.lists(TASKS, max_size=4).map(tuple),
    schedule=st.none() | TEXT,
    start_date=st.none() | TEXT,
    catchup=st.booleans(),
    tags=st.lists(TEXT).map(tuple),
    description=TEXT,
    file=TEXT,
)


@given(DAGS)
def test_json_brings_back_the_same_dag(dag: DagSpec) -> None:
    again = DagSpec.from_json(dag.to_json())
    assert again == dag
    assert again.digest == dag.digest


@given(DAGS, DAGS)
def test_digests_are_equal_exactly_when_dags_are(one: DagSpec, other: DagSpec) -> None:
    assert (one.digest == other.digest) == (one == other)


def test_the_order_of_a_dict_does_not_change_the_digest() -> None:
    def dag(arguments: dict[str, object]) -> DagSpec:
        return DagSpec(
            dag_id="d", tasks=(TaskSpec(task_id="t", operator="bash", arguments=arguments),)
        )

    assert dag({"a": 1, "b": 2}).digest == dag({"b": 2, "a": 1}).digest


def test_fields_of_a_later_release_are_ignored_and_missing_ones_have_their_defaults() -> None:
    dag = DagSpec(
        dag_id="d", tasks=(TaskSpec(task_id="t", operator="bash", arguments={"command": "x"}),)
    )
    data = json.loads(dag.to_json())
    data["colour"] = "red"
    data["tasks"][0]["shape"] = "round"
    del data["timezone"]
    assert DagSpec.from_json(json.dumps(data)) == dag
    assert replace(dag, timezone="Europe/Berlin") != dag


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"dag_id":"d"}', '{"tasks":[1],"dag_id":"d"}'])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(DagError, match=r"^DAG as data: expected what flow wrote, got "):
        DagSpec.from_json(text)
