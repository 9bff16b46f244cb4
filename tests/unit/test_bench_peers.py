"""The pure parts of the benchmark's peers, and the processes they start."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import graphs
from bench.contender import ContenderFailed, Graph, Work, fibo
from bench.peers import setup
from bench.peers.airflow import dag_file
from bench.peers.celery_side.plan import Plan, Steps, plan
from bench.peers.programs import Programs
from tests.waiting import until

SHAPES = {**graphs.FIVE, "fan": graphs.fan, "scattered": graphs.scattered}


@st.composite
def upstreams(draw: st.DrawFn) -> graphs.Shape:
    """Any graph of up to twelve tasks."""
    size = draw(st.integers(1, 12))
    return tuple(
        tuple(sorted(draw(st.sets(st.integers(0, n - 1), max_size=3)))) if n else ()
        for n in range(size)
    )


def waits(part: Plan) -> tuple[set[int], set[tuple[int, int]]]:
    """The tasks of a plan, and all pairs of which the second waits for the first."""
    if isinstance(part, int):
        return {part}, set()
    tasks: set[int] = set()
    pairs: set[tuple[int, int]] = set()
    for each in part.parts:
        more, inner = waits(each)
        assert not tasks & more, "no task twice"
        if part.kind == "chain":
            pairs |= {(before, after) for before in tasks for after in more}
        tasks |= more
        pairs |= inner
    return tasks, pairs


# -- Celery's plan of a graph ------------------------------------------------------------------


@given(upstreams())
def test_a_plan_has_every_task_once_and_keeps_every_dependency(upstream: graphs.Shape) -> None:
    tasks, pairs = waits(plan(upstream))
    assert tasks == set(range(len(upstream)))
    assert {(before, n) for n, all_before in enumerate(upstream) for before in all_before} <= pairs


@pytest.mark.parametrize("name", ["none", "line", "star", "binary tree"])
def test_a_forest_waits_for_nothing_more_than_the_graph_says(name: str) -> None:
    upstream = SHAPES[name](20)
    before: list[set[int]] = []
    for direct in upstream:
        before.append({n for parent in direct for n in (parent, *before[parent])})
    _, pairs = waits(plan(upstream))
    assert pairs == {(first, n) for n, all_before in enumerate(before) for first in all_before}


def test_a_line_is_one_chain_and_a_fan_is_a_group_between_two() -> None:
    assert plan(graphs.line(3)) == Steps("chain", (0, 1, 2))
    assert plan(graphs.fan(2)) == Steps("chain", (0, Steps("group", (1, 2)), 3))


def test_a_single_task_needs_neither_chain_nor_group() -> None:
    assert plan(graphs.none(1)) == 0


def test_a_line_of_thousands_is_planned() -> None:
    found = plan(graphs.line(5000))
    assert isinstance(found, Steps)
    assert found.parts == tuple(range(5000))


# -- Airflow's DAG files -----------------------------------------------------------------------


class Operator:
    """Takes what the file gives an operator, and remembers who follows whom."""

    made: list[Operator]

    def __init__(self, **arguments: object) -> None:
        self.arguments = arguments
        self.before: list[object] = []
        self.made.append(self)

    def __rshift__(self, other: Operator) -> None:
        other.before.append(self.arguments["task_id"])


class Dag:
    """Takes what the file gives the DAG."""

    def __init__(self, dag_id: str, schedule: object) -> None:
        assert (dag_id, schedule) == ("shape", None)

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


@pytest.fixture
def operators(monkeypatch: pytest.MonkeyPatch) -> list[Operator]:
    """What a DAG file that is run now makes, without an Airflow."""
    made: list[Operator] = []
    kind = type("Recording", (Operator,), {"made": made})
    standard = "airflow.providers.standard.operators"
    stubs: dict[str, dict[str, object]] = {
        "airflow.sdk": {"DAG": Dag},
        f"{standard}.bash": {"BashOperator": kind},
        f"{standard}.python": {"PythonOperator": kind},
    }
    for name, attributes in stubs.items():
        module = types.ModuleType(name)
        module.__dict__.update(attributes)
        monkeypatch.setitem(sys.modules, name, module)
    return made


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_a_dag_file_has_the_tasks_and_dependencies_of_its_graph(
    name: str, operators: list[Operator]
) -> None:
    upstream = SHAPES[name](16)
    exec(dag_file(Graph("shape", upstream, fibo(3))), {})  # noqa: S102 - what is tested
    assert [each.arguments["task_id"] for each in operators] == [
        f"t{n}" for n in range(len(upstream))
    ]
    assert [sorted(each.before, key=str) for each in operators] == [
        sorted(f"t{n}" for n in before) for before in upstream
    ]


def test_a_shell_task_of_airflow_finds_its_run_in_the_environment(
    operators: list[Operator],
) -> None:
    work = Work("shell", "echo '{run}' \"$x\" >>/f\\o")
    exec(dag_file(Graph("shape", graphs.none(1), work)), {})  # noqa: S102 - what is tested
    (task,) = operators
    assert task.arguments["bash_command"] == "echo '${AIRFLOW_CTX_DAG_RUN_ID}' \"$x\" >>/f\\o"


# -- environments ------------------------------------------------------------------------------


def test_a_missing_environment_is_said_with_the_command_that_makes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOW_BENCH_CACHE", str(tmp_path))
    with pytest.raises(ContenderFailed) as failed:
        setup.environment("celery")
    assert str(failed.value) == (
        f"{tmp_path}/celery: expected celery as pinned in {setup.REQUIREMENTS}/celery.txt, found "
        "none or another; run: python -m bench.peers.setup celery"
    )


def test_an_environment_of_other_pins_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOW_BENCH_CACHE", str(tmp_path))
    (tmp_path / "celery").mkdir()
    (tmp_path / "celery" / ".installed").write_text("of before")
    with pytest.raises(ContenderFailed, match="found none or another"):
        setup.environment("celery")


def test_an_unknown_peer_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert setup.main(["selery"]) == 2
    assert capsys.readouterr().out == (
        "bench.peers.setup: expected celery or airflow, got 'selery'\n"
    )


@pytest.mark.parametrize("peer", setup.PEERS)
def test_every_requirement_is_pinned(peer: str) -> None:
    lines = (setup.REQUIREMENTS / f"{peer}.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert pins
    assert all("==" in line and " " not in line for line in pins)


# -- processes ---------------------------------------------------------------------------------

ECHO = """
import json, sys
for line in sys.stdin:
    request = json.loads(line)
    if request.get("leave"):
        sys.exit("the reason")
    if not request.get("silent"):
        print(json.dumps(request), flush=True)
"""


@pytest.fixture
def programs(tmp_path: Path) -> Programs:
    return Programs("peer", tmp_path, {"GREETING": "hello"})


def _echo(programs: Programs) -> None:
    programs.start("client", [sys.executable, "-c", ECHO], pipes=True)


def test_an_answer_comes_back_and_errors_are_raised_with_the_log(programs: Programs) -> None:
    _echo(programs)
    try:
        assert programs.ask({"a": "b" * 100_000}, 20) == {"a": "b" * 100_000}
        with pytest.raises(ContenderFailed, match=r"^peer: no such thing"):
            programs.ask({"error": "no such thing"}, 20)
        with pytest.raises(ContenderFailed, match=r"got exit 1\nthe reason$"):
            programs.ask({"leave": True}, 20)
    finally:
        programs.stop()


def test_no_answer_in_time_is_an_error(programs: Programs) -> None:
    _echo(programs)
    try:
        with pytest.raises(ContenderFailed, match="expected an answer within 0 s, got none"):
            programs.ask({"silent": True}, 0.2)
    finally:
        programs.stop()


def test_a_daemon_that_ends_is_noticed(programs: Programs) -> None:
    programs.start("worker", ["bash", "-c", "echo $GREETING; exit 3"])
    try:
        until(lambda: _fails(programs))
        with pytest.raises(ContenderFailed, match=r"its worker to run, got exit 3\nhello$"):
            programs.check()
    finally:
        programs.stop()


def _fails(programs: Programs) -> bool:
    try:
        programs.check()
    except ContenderFailed:
        return True
    return False


def test_a_command_that_takes_too_long_is_ended(programs: Programs) -> None:
    begun = time.monotonic()
    with pytest.raises(ContenderFailed, match="to succeed within 0 s, got None"):
        programs.run(["sleep", "60"], 0.2)
    assert time.monotonic() - begun < 30
    assert programs.roots() == {}


def test_stop_ends_also_what_left_its_session_and_ignores_signals(
    programs: Programs, tmp_path: Path
) -> None:
    stubborn = tmp_path / "stubborn"
    stubborn.write_text("trap '' TERM; echo $$ >pid; while true; do sleep 0.1; done")
    # Its parent has ended before anybody stops anything.
    programs.start("worker", ["bash", "-c", f"setsid bash {stubborn} & exit 0"])
    file = tmp_path / "pid"
    until(lambda: file.exists() and file.read_text().strip() != "")
    pid = int(file.read_text())
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        programs.stop()
        programs.stop()
        assert bystander.poll() is None
        until(lambda: _gone(pid))
    finally:
        bystander.kill()
        bystander.wait()


def _gone(pid: int) -> bool:
    try:
        # A zombie has no environment: it waits for whoever adopted it.
        return Path(f"/proc/{pid}/environ").read_bytes() == b""
    except OSError:
        return True


def test_a_program_sees_nothing_of_the_users_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__PARALLELISM", "1")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    environment = Programs("peer", tmp_path, {}).environment
    assert not {name for name in environment if name.startswith("AIRFLOW")}
    assert "PYTHONDONTWRITEBYTECODE" not in environment
    assert environment["PATH"] == os.environ["PATH"]
