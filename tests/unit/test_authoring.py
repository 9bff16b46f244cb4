"""Good DAG files, and what they come to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import flow
from flow import DAG, BashOperator, chain
from flow.dagspec import Resources, TaskSpec
from flow.errors import DagError
from tests.unit.authored import author, upstream

ROOT = Path(__file__).parents[2]


def test_a_dag_with_everything_said() -> None:
    (dag,) = author(
        """
with DAG(
    "d", schedule="0  6 * * MON-FRI", start_date=datetime(2025, 1, 2),
    end_date=datetime(2026, 1, 1), catchup=True, max_active_runs=3, max_active_tasks=4,
    tags=["b", "a", "b"], description="about", timezone="Europe/Berlin",
    default_args={"owner": "me"},
):
    BashOperator(
        task_id="t", bash_command="echo hi", queue="q1", retries=2,
        retry_delay=timedelta(minutes=1), execution_timeout=90, env={"A": "b"}, cwd="/tmp",
        priority_weight=-5, on_agent_lost="wait",
        slots=2, gpus=1, memory="1.5G", cpus=0.5, pids=500,
    )
"""
    )
    assert (dag.dag_id, dag.schedule, dag.catchup) == ("d", "0 6 * * 1-5", True)
    assert (dag.start_date, dag.end_date) == (
        "2025-01-02T00:00:00+01:00",
        "2026-01-01T00:00:00+01:00",
    )
    assert (dag.max_active_runs, dag.max_active_tasks, dag.tags) == (3, 4, ("b", "a"))
    assert (dag.description, dag.timezone, dag.owner) == ("about", "Europe/Berlin", "me")
    assert (dag.file, dag.line) == ("x.py", 3)
    assert dag.tasks == (
        TaskSpec(
            task_id="t",
            operator="bash",
            arguments={"command": "echo hi", "env": {"A": "b"}, "cwd": "/tmp"},  # noqa: S108
            queue="q1",
            retries=2,
            retry_delay=60.0,
            execution_timeout=90.0,
            priority_weight=-5,
            on_agent_lost="wait",
            resources=Resources(slots=2, gpus=1, memory=3 << 29, cpus=0.5, pids=500),
            owner="me",
            line=9,
        ),
    )


def test_a_dag_with_nothing_said() -> None:
    (dag,) = author("DAG('d')", max_active_runs=7, max_active_tasks=8)
    assert (dag.schedule, dag.start_date, dag.end_date, dag.catchup) == (None, None, None, False)
    assert (dag.max_active_runs, dag.max_active_tasks) == (7, 8)
    assert (dag.tags, dag.description, dag.timezone, dag.owner) == ((), "", "UTC", "flow")


def test_a_task_belongs_to_the_dag_it_names_else_to_the_innermost_with_block() -> None:
    dags = author(
        """
outer, other = DAG('outer'), DAG('other')
with outer:
    with DAG('inner'):
        BashOperator(task_id='i', bash_command='true')
    BashOperator(task_id='o', bash_command='true')
    BashOperator(task_id='x', bash_command='true', dag=other)
"""
    )
    found = {dag.dag_id: [task.task_id for task in dag.tasks] for dag in dags}
    assert found == {"outer": ["o"], "other": ["x"], "inner": ["i"]}


def test_a_tasks_own_argument_goes_before_default_args_and_these_before_the_default() -> None:
    (dag,) = author(
        """
given = {'retries': 3, 'queue': 'q', 'execution_timeout': timedelta(minutes=1), 'env': {'A': '1'}}
with DAG('d', default_args=given):
    BashOperator(task_id='a', bash_command='true')
    BashOperator(task_id='b', bash_command='true', retries=0, execution_timeout=None, env={})
"""
    )
    a, b = dag.tasks
    assert (a.retries, a.queue, a.execution_timeout, a.retry_delay) == (3, "q", 60.0, 300.0)
    assert (b.retries, b.queue, b.execution_timeout) == (0, "q", None)
    assert (a.arguments["env"], b.arguments["env"]) == ({"A": "1"}, {})


@pytest.mark.parametrize(
    ("arguments", "timezone", "start"),
    [
        ("start_date=datetime(2025, 7, 1)", "Asia/Tokyo", "2025-07-01T00:00:00+09:00"),
        ("start_date=datetime(2025, 7, 1), timezone='UTC'", "UTC", "2025-07-01T00:00:00+00:00"),
        (
            "start_date=datetime(2025, 7, 1), timezone=ZoneInfo('Europe/Berlin')",
            "Europe/Berlin",
            "2025-07-01T00:00:00+02:00",
        ),
        (
            "start_date=datetime(2025, 7, 1, tzinfo=ZoneInfo('Europe/Berlin'))",
            "Europe/Berlin",
            "2025-07-01T00:00:00+02:00",
        ),
        (
            "start_date=datetime(2025, 7, 1, tzinfo=timezone.utc)",
            "UTC",
            "2025-07-01T00:00:00+00:00",
        ),
        (
            "start_date=datetime(2025, 7, 1, tzinfo=timezone(timedelta(hours=2)))",
            "Asia/Tokyo",
            "2025-07-01T00:00:00+02:00",
        ),
        (
            "default_args={'start_date': datetime(2025, 7, 1)}, schedule='@daily'",
            "Asia/Tokyo",
            "2025-07-01T00:00:00+09:00",
        ),
    ],
)
def test_a_naive_date_is_read_in_the_dags_time_zone_else_the_default(
    arguments: str, timezone: str, start: str
) -> None:
    (dag,) = author(f"DAG('d', {arguments})", default_timezone="Asia/Tokyo")
    assert (dag.timezone, dag.start_date) == (timezone, start)


def test_what_airflow_users_carry_along_without_effect_is_accepted() -> None:
    carried = {
        "email": ["a@b.c"],
        "email_on_failure": True,
        "email_on_retry": False,
        "depends_on_past": False,
        "trigger_rule": "all_success",
        "pool": "default_pool",
        "sla": None,
        "on_failure_callback": None,
        "retry_exponential_backoff": False,
        "run_as_user": None,
        "doc_md": "# hi",
    }
    (dag,) = author(
        f"""
with DAG('d', doc_md='x', default_args={carried!r}, is_paused_upon_creation=False):
    BashOperator(task_id='t', bash_command='true', append_env=True, do_xcom_push=False)
"""
    )
    assert dag.tasks[0].retries == 0


def test_a_task_may_wait_for_itself_in_the_run_before() -> None:
    (dag,) = author(
        """
with DAG('d', default_args={'depends_on_past': True}):
    BashOperator(task_id='a', bash_command='true')
    BashOperator(task_id='b', bash_command='true', depends_on_past=False)
"""
    )
    assert [task.depends_on_past for task in dag.tasks] == [True, False]


def test_the_owner_of_a_dag_is_that_of_its_tasks() -> None:
    (dag, empty) = author(
        """
with DAG('d'):
    BashOperator(task_id='a', bash_command='true', owner='zoe')
    BashOperator(task_id='b', bash_command='true', owner='ann')
DAG('empty', default_args={'owner': 'team'})
"""
    )
    assert (dag.owner, empty.owner) == ("ann, zoe", "team")


def test_a_brace_that_is_no_template_is_left_alone() -> None:
    (dag,) = author(
        "with DAG('d'):\n"
        "    BashOperator(task_id='t', bash_command='echo ${HOME} {1..3} ${#a[@]} }} {')"
    )
    assert dag.tasks[0].arguments["command"] == "echo ${HOME} {1..3} ${#a[@]} }} {"


@pytest.mark.parametrize(
    ("arrows", "expected"),
    [
        ("a >> b >> c", {"b": ("a",), "c": ("b",)}),
        ("a << b << c", {"a": ("b",), "b": ("c",)}),
        ("a >> [b, c] >> d", {"b": ("a",), "c": ("a",), "d": ("b", "c")}),
        ("[a, b] << c", {"a": ("c",), "b": ("c",)}),
        ("a << (b, c)", {"a": ("b", "c")}),
        ("a.set_downstream([b, c])", {"b": ("a",), "c": ("a",)}),
        ("a.set_upstream(b)", {"a": ("b",)}),
        ("a >> b; a >> b; b << a", {"b": ("a",)}),
        ("a >> []", {}),
        ("chain(a, b, c)", {"b": ("a",), "c": ("b",)}),
        (
            "chain(a, [b, c], [d, e], f)",
            {"b": ("a",), "c": ("a",), "d": ("b",), "e": ("c",), "f": ("d", "e")},
        ),
        ("chain([a, b], c)", {"c": ("a", "b")}),
        ("chain(a)", {}),
        ("chain()", {}),
    ],
)
def test_arrows(arrows: str, expected: dict[str, tuple[str, ...]]) -> None:
    assert upstream(arrows) == expected


def test_a_file_run_by_hand_raises_the_first_error_at_once() -> None:
    with pytest.raises(DagError, match=r"argument 'catchup': expected True or False, got 1$"):
        DAG("d", catchup=1)  # type: ignore[arg-type]
    dag = DAG("d")
    with dag:
        a = BashOperator(task_id="a", bash_command="true")
        b = BashOperator(task_id="b", bash_command="true")
    chain(a, b, a)
    with pytest.raises(DagError, match=r"expected no cycle, got a -> b -> a; remove one of these"):
        dag.__exit__(None, None, None)


def test_a_dag_that_the_import_of_another_file_makes_belongs_to_that_file() -> None:
    helper = "from flow import DAG; d = DAG('helped')"
    (dag,) = author(
        "DAG('own'); import types; m = types.ModuleType('h')\n"
        f"exec(compile({helper!r}, '/dags/h.py', 'exec'), m.__dict__)"
    )
    assert dag.dag_id == "own"


def test_a_function_of_another_file_makes_dags_for_its_caller() -> None:
    helper = "from flow import DAG\ndef make(name): return DAG(name)"
    (dag,) = author(
        "import types; m = types.ModuleType('h')\n"
        f"exec(compile({helper!r}, '/dags/h.py', 'exec'), m.__dict__)\n"
        "m.make('made')"
    )
    assert (dag.dag_id, dag.file) == ("made", "x.py")


def test_importing_flow_loads_none_of_its_modules() -> None:
    code = "import sys, flow; print([m for m in sys.modules if m.startswith('flow.')])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_flow_names_what_it_offers() -> None:
    assert {"DAG", "BashOperator", "chain"} <= set(dir(flow))
    with pytest.raises(AttributeError, match=r"^module 'flow' has no attribute 'Dag'$"):
        _ = flow.Dag
