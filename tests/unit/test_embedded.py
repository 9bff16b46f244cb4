"""The pure parts of the embedded default: names of agents, what a trial takes, printed lines."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dispatcher.processor import ParsedFile, ScanResult
from flow import wire
from flow.cli.console import Lines
from flow.cli.embedded import agent_name
from flow.cli.trial import Trial
from flow.dagspec import DagSpec, TaskSpec
from flow.errors import UnknownName
from flow.names import AGENT


def task(task_id: str, *upstream: str) -> TaskSpec:
    return TaskSpec(task_id=task_id, operator="bash", arguments={}, upstream=upstream)


DAG = DagSpec(dag_id="d", tasks=(task("a"), task("b", "a")), schedule="@daily", catchup=True)
OTHER = replace(DAG, dag_id="other")
FOUND = ScanResult(
    files=(ParsedFile(file="d.py", digest="", dags=(DAG, OTHER)),), present=("d.py",)
)


# -- agents ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("queue", "agent"),
    [("q1", "local-q1"), ("default", "local-default"), ("gpu-a100", "local-gpu-a100")],
)
def test_an_agent_is_named_after_its_queue(queue: str, agent: str) -> None:
    assert agent_name(queue) == agent


def test_every_queue_has_an_agent_of_its_own_with_a_name_that_agents_may_have() -> None:
    queues = ["gpu.a100", "gpu_a100", "GPU-a100", "gpu-a100", "...", "___", "x" * 100, "x" * 99]
    names = {agent_name(queue) for queue in queues}
    assert len(names) == len(queues)
    assert [name for name in names if AGENT.problem(name)] == []


# -- trials ----------------------------------------------------------------------------------------


def test_a_trial_of_a_dag_leaves_out_other_dags_and_its_schedule() -> None:
    selected = Trial("d").select(FOUND)
    assert selected.present == FOUND.present
    assert selected.files[0].dags == (replace(DAG, schedule=None, catchup=False),)


def test_a_trial_of_a_task_leaves_out_everything_before_it() -> None:
    (dag,) = Trial("d", "b").select(FOUND).files[0].dags
    assert dag.tasks == (task("b"),)


def test_a_trial_of_an_unknown_task_names_the_nearest_or_all() -> None:
    with pytest.raises(UnknownName) as caught:
        Trial("d", "nothing").select(FOUND)
    assert str(caught.value) == "task 'nothing': expected a task of dag 'd'; it has a, b"


# -- printed lines ---------------------------------------------------------------------------------


def printed(*chunks: tuple[int, str], last: bool = True) -> list[bytes]:
    """What each of the *chunks* (offset, text) makes a task ``t`` print."""
    written: list[bytes] = []
    lines = Lines("t", written.append)
    shown = []
    for number, (offset, text) in enumerate(chunks, 1):
        lines.take(
            wire.LogChunk(
                task_instance_id=1,
                try_number=1,
                token=1,
                run_id="r",
                offset=offset,
                text=text,
                last=last and number == len(chunks),
            )
        )
        shown.append(b"".join(written))
        written.clear()
    return shown


def test_each_line_is_printed_whole_behind_its_task() -> None:
    assert printed((0, "one\ntw"), (6, "o\n\nthr"), (12, "ee")) == [
        b"t | one\n",
        b"t | two\nt | \n",
        b"t | three\n",
    ]


def test_a_chunk_that_comes_again_changes_nothing() -> None:
    assert printed((0, "a\n"), (0, "a\n"), (2, "b\n"), (2, "b\n")) == [
        b"t | a\n",
        b"",
        b"t | b\n",
        b"",
    ]


def test_a_line_without_end_is_shown_in_pieces() -> None:
    (shown,) = printed((0, "x" * 150_000), last=False)
    assert shown == (b"t | " + b"x" * 65536 + b"\n") * 2
