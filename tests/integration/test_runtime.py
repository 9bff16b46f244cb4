"""A Python task in its own process: what it is given, what it may return, and how it can end."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.jobs import START
from flow.authoring.context import NAMES
from flow.runtime.context import build
from flow.runtime.job import Job
from tests.runtime_world import RuntimeWorld, make_other_python

ROOT = START.parents[2]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[RuntimeWorld]:
    with RuntimeWorld(tmp_path) as made:
        yield made


def task(body: str, decorator: str = "@task", call: str = "t()") -> str:
    """A DAG with one task ``t``: the body begins in line 4."""
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    head, _, parameters = call.partition("|")
    return (
        f"{decorator}\ndef t({parameters}):\n{lines}\nwith DAG('d', params={{'p': 1}}):\n    {head}"
    )


# -- what it is given --------------------------------------------------------------------------


def test_a_function_is_called_and_its_result_is_pushed(world: RuntimeWorld) -> None:
    world.write(task("print('hello')\nreturn {'a': [1, None, 'ä']}"))
    ended = world.run()
    assert (ended.exit_code, ended.state, ended.reason) == (0, "success", "")
    assert ended.output == "hello\n"
    assert ended.xcom == {"return_value": {"a": [1, None, "ä"]}}


def test_arguments_are_rendered_and_results_of_other_tasks_put_in(world: RuntimeWorld) -> None:
    world.xcoms = {("a", "return_value"): "{{ not_rendered }}", ("a", "k"): [1]}
    world.write(
        """
@task
def a(): ...
@task(op_kwargs=None) if False else task
def t(*args, **kwargs):
    return [args, {k: kwargs[k] for k in ("x", "y")}]
with DAG('d', params={'p': 1}) as d:
    r = a()
    t(r, "{{ ds }}", ["{{ params.p + 1 }}"], x={"n": r["k"]}, y=d.param("p"))
"""
    )
    ended = world.run(conf='{"p": 7}')
    assert ended.xcom["return_value"] == [
        ["{{ not_rendered }}", "2025-03-01", ["8"]],
        {"x": {"n": [1]}, "y": 7},
    ]


def test_parameters_get_their_values_from_the_run_by_name(world: RuntimeWorld) -> None:
    world.write(
        task(
            "return [ti.task_id, dag_run.conf, run_id, params, ds, ts, str(logical_date),\n"
            " str(data_interval_start), str(data_interval_end), conf, task.task_id, dag.dag_id]",
            call=(
                "t()|ti, dag_run, run_id, params, ds, ts, logical_date, data_interval_start,"
                " data_interval_end, conf, task, dag"
            ),
        )
    )
    assert world.run(conf='{"c": 2}').xcom["return_value"] == [
        *("t", {"c": 2}, "manual__1", {"p": 1, "c": 2}, "2025-03-01", "2025-03-01T06:00:00+00:00"),
        *("2025-03-01 06:00:00+00:00", "2025-02-28 06:00:00+00:00", "2025-03-01 06:00:00+00:00"),
        *({"c": 2}, "t", "d"),
    ]


def test_every_name_that_may_be_asked_for_has_a_value() -> None:
    fields = dict.fromkeys(("operator", "dag_id", "run_id", "task_id", "outcome", "socket"), "")
    job = Job(**fields, arguments={}, map_index=-1, try_number=1, max_bytes=1)  # type: ignore[arg-type]  # by name
    assert set(build(job)) == set(NAMES)


def test_kwargs_get_everything_that_is_not_given(world: RuntimeWorld) -> None:
    world.write(
        task("return [ds, kwargs['x'], sorted(kwargs)]", call="t(ds='mine', x=1)|ds, **kwargs")
    )
    ds, x, names = world.run().xcom["return_value"]
    assert (ds, x) == ("mine", 1)
    assert {"ti", "params", "run_id", "dag_run", "logical_date", "x"} <= set(names)
    assert "ds" not in names


def test_xcoms_are_pulled_and_pushed_and_variables_read(world: RuntimeWorld) -> None:
    world.xcoms = {("a", "return_value"): 1, ("b", "k"): 2}
    world.variables = {"v": "text", "j": '{"a": 1}'}
    world.write(
        task(
            "ti.xcom_push('mine', [1])\n"
            "return [ti.xcom_pull('a'), ti.xcom_pull(['a', 'c']), ti.xcom_pull('b', key='k'),\n"
            "  ti.xcom_pull('c', default=0), Variable.get('v'),\n"
            "  Variable.get('j', deserialize_json=True), Variable.get('none', 3), x]",
            call="t('{{ var.value.v }} {{ var.json.j.a }} {{ ti.xcom_pull(\"a\") + 1 }}')|x, ti",
        )
    )
    ended = world.run()
    assert ended.xcom == {
        "mine": [1],
        "return_value": [1, [1, None], 2, 0, "text", {"a": 1}, 3, "text 1 2"],
    }


def test_multiple_outputs_are_pushed_one_by_one(world: RuntimeWorld) -> None:
    world.write(task("return {'a': 1, 'b': None}", "@task(multiple_outputs=True)"))
    assert world.run().xcom == {"a": 1, "b": None, "return_value": {"a": 1, "b": None}}


def test_nothing_is_pushed_where_nothing_is_wanted_or_returned(world: RuntimeWorld) -> None:
    world.write(task("return 1", "@task(do_xcom_push=False)"))
    assert world.run().xcom == {}
    world.write(task("pass"))
    assert world.run().xcom == {}


# -- how it can end ----------------------------------------------------------------------------


def test_a_skip_keeps_its_reason_and_what_was_pushed(world: RuntimeWorld) -> None:
    world.write(task("ti.xcom_push('a', 1)\nraise SkipTask('nothing new')", call="t()|ti"))
    ended = world.run()
    assert (ended.exit_code, ended.state, ended.reason) == (0, "skipped", "nothing new")
    assert ended.xcom == {"a": 1}


def test_a_final_failure_asks_for_no_retry(world: RuntimeWorld) -> None:
    world.write(task("raise FailTask('no such customer')"))
    ended = world.run()
    assert (ended.exit_code, ended.state, ended.reason) == (1, "failed", "no such customer")
    assert ended.told is not None
    assert ended.told["final"]


@pytest.mark.parametrize(
    ("decorator", "result", "follow", "stop"),
    [
        ("@task.branch", "'a'", ["a"], False),
        ("@task.branch", "['b', 'a']", ["a", "b"], False),
        ("@task.branch", "None", [], False),
        ("@task.short_circuit", "0", None, True),
        ("@task.short_circuit", "[0]", None, False),
        ("@task.short_circuit(ignore_downstream_trigger_rules=False)", "0", [], False),
        ("@task.short_circuit(ignore_downstream_trigger_rules=False)", "1", None, False),
    ],
)
def test_branches_and_short_circuits_say_where_to_go_on(
    world: RuntimeWorld, decorator: str, result: str, follow: list[str] | None, stop: bool
) -> None:
    below = "t() >> [EmptyOperator(task_id='a'), EmptyOperator(task_id='b')]"
    world.write(task(f"return {result}", decorator, below))
    ended = world.run()
    assert ended.told is not None
    assert (ended.state, ended.told["follow"], ended.told["stop"]) == ("success", follow, stop)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("1 / 0", "x.py:4: ZeroDivisionError: division by zero (DAG 'd', task 't')"),
        (
            "import helper\nhelper.f()",
            "helper.py:2: ValueError: deep (reached from x.py:5) (DAG 'd', task 't')",
        ),
        (
            "import sys\nsys.exit(3)",
            (
                "x.py:7: DAG 'd', task 't': expected a callable that returns, got sys.exit(3); "
                "raise an exception to fail"
            ),
        ),
        (
            "return {'a': [object]}",
            (
                "x.py:6: DAG 'd', task 't': t: result['a'][0]: expected JSON (None, True, numbers, "
                "texts, lists and dicts of them), got <class 'object'>; push plain values, or "
                "write it to a file and push its path"
            ),
        ),
        (
            "return float('nan')",
            "x.py:6: DAG 'd', task 't': t: result: expected a number that JSON has, got nan",
        ),
        (
            "return 'x' * 300_000",
            (
                "x.py:6: DAG 'd', task 't': expected results of at most 262144 bytes of JSON in "
                "all, got 300014 (300014 of 'return_value'); write them to a file and return its "
                "path, or raise [xcom] max_bytes"
            ),
        ),
        (
            "import torch",
            (
                "x.py:4: ModuleNotFoundError: No module named 'torch'; install it for "
                f"{sys.executable}, or set [agent] python to an interpreter with it "
                "(DAG 'd', task 't')"
            ),
        ),
        (
            "Variable.get('nope')",
            (
                "x.py:4: FlowError: variable 'nope': expected a known variable, got none; set it "
                "with `flow variables set nope VALUE` (DAG 'd', task 't')"
            ),
        ),
    ],
)
def test_a_failure_names_file_line_dag_and_task(
    world: RuntimeWorld, body: str, reason: str
) -> None:
    world.write("def f():\n    raise ValueError('deep')\n", "helper.py")
    world.write(task(body))
    ended = world.run()
    assert (ended.exit_code, ended.state, ended.xcom) == (1, "failed", {})
    assert ended.reason == reason
    assert "flow/runtime/python.py" not in ended.output


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{{ nope }}", "UndefinedError: 'nope' is undefined"),
        ("{{ params.nope }}", "UndefinedError: 'dict object' has no attribute 'nope'"),
        (
            "{{ .Names }}",
            (
                "TemplateSyntaxError: unexpected '.'; write braces that are not a template's "
                "between {% raw %} and {% endraw %}"
            ),
        ),
        ("{{ 1 / 0 }}", "ZeroDivisionError: division by zero"),
        (
            "{{ var.value.nope }}",
            (
                "variable 'nope': expected a known variable, got none; set it with "
                "`flow variables set nope VALUE`"
            ),
        ),
    ],
)
def test_a_template_that_does_not_render_names_its_place(
    world: RuntimeWorld, template: str, problem: str
) -> None:
    world.write(task("pass", call=f"t(x=['a', {template!r}])|x"))
    ended = world.run()
    assert ended.reason == (
        f"x.py:6: DAG 'd', task 't': op_kwargs['x'][1]: expected a template that renders, got "
        f"{template!r}: {problem}"
    )
    assert ended.state == "failed"


def test_the_result_of_a_branch_must_be_a_task_directly_below(world: RuntimeWorld) -> None:
    below = "t() >> EmptyOperator(task_id='extract')"
    world.write(task("return 'extrct'", "@task.branch", below))
    assert world.run().reason == (
        "x.py:6: DAG 'd', task 't': t: expected tasks directly below it (extract), got 'extrct'; "
        "did you mean 'extract'?"
    )


def test_a_missing_output_of_another_task_is_named(world: RuntimeWorld) -> None:
    world.write("@task\ndef a(): ...\n@task\ndef t(x): ...\nwith DAG('d'):\n    t(a()['k'])")
    assert world.run().reason == (
        "x.py:7: DAG 'd', task 't': expected task 'a' to have pushed 'k', got nothing; return it "
        "in a dict, with multiple_outputs=True, or push it with ti.xcom_push"
    )


def test_a_file_that_makes_other_tasks_on_the_node_is_named(world: RuntimeWorld) -> None:
    world.write(task("pass"))
    spec = world.spec()
    world.write("with DAG('d'):\n    EmptyOperator(task_id='u')")
    ended = world.run_spec(spec.tasks[0], spec)
    assert ended.reason == (
        "x.py:6: DAG 'd', task 't': expected the file to make this task here as it did where it "
        "was parsed, got 'tasks u'; let it depend on nothing but the files of its folder"
    )


def test_a_broken_file_says_what_is_wrong_with_it(world: RuntimeWorld) -> None:
    world.write(task("pass"))
    spec = world.spec()
    world.write("import nope\n")
    assert world.run_spec(spec.tasks[0], spec, setting="python= of the task").reason == (
        f"x.py:2: ModuleNotFoundError: No module named 'nope'; install it for {sys.executable}, or "
        "set python= of the task to an interpreter with it"
    )


def test_the_log_has_the_traceback_from_the_users_first_line_on(world: RuntimeWorld) -> None:
    world.write(task("1 / 0"))
    assert world.run().output.splitlines()[:3] == [
        "Traceback (most recent call last):",
        f'  File "{world.dags}/x.py", line 4, in t',
        "    1 / 0",
    ]


def test_a_fork_that_outlives_its_function_tells_nothing(world: RuntimeWorld) -> None:
    world.write(
        task("import os\nif os.fork() == 0:\n    raise ValueError('child')\nos.wait()\nreturn 5")
    )
    ended = world.run()
    assert (ended.state, ended.xcom) == ("success", {"return_value": 5})


# -- the user's own Python ---------------------------------------------------------------------


def test_it_runs_where_flow_is_not_installed_with_packages_that_flow_lacks(
    world: RuntimeWorld, tmp_path: Path
) -> None:
    python = make_other_python(tmp_path / "venv", torchlike="VERSION = 7\n")
    world.write(
        "import torchlike\n" + task("return [torchlike.VERSION, x]", call="t('{{ ds }}')|x")
    )
    (world.dags / "torchlike.py").write_text("VERSION = 0\n")  # so that it can be parsed here
    spec = world.spec()
    (world.dags / "torchlike.py").unlink()
    ended = world.run_spec(spec.tasks[0], spec, python=str(python))
    assert ended.xcom == {"return_value": [7, "2025-03-01"]}, ended


@pytest.mark.parametrize("other", [False, True])
def test_only_flow_is_importable_and_users_may_have_an_agent_of_their_own(
    world: RuntimeWorld, tmp_path: Path, other: bool
) -> None:
    python = str(make_other_python(tmp_path / "venv")) if other else sys.executable
    body = """
import importlib, sys
found = []
for name in ("dispatcher", "msgspec", "agent.core", "agent"):
    try:
        found.append(importlib.import_module(name).__file__)
    except ImportError as error:
        found.append(str(error))
return found
"""
    world.write(task(body))
    (world.dags / "agent.py").write_text("MINE = True\n")
    found = world.run(python=python).xcom["return_value"]
    assert found[0] == "No module named 'dispatcher'"
    if other:
        assert found[1] == "No module named 'msgspec'"
    assert found[3] == f"{world.dags}/agent.py"


def test_a_folder_of_dag_files_is_left_as_it_was_shipped(world: RuntimeWorld) -> None:
    world.write("def f(): return 1\n", "helper.py")
    world.write("import helper\n" + task("return helper.f()"))
    assert world.run().xcom == {"return_value": 1}
    assert sorted(path.name for path in world.dags.iterdir()) == ["helper.py", "x.py"]


# -- commands with templates -------------------------------------------------------------------


def bash(world: RuntimeWorld, command: str, arguments: str = "") -> None:
    made = f"BashOperator(task_id='t', bash_command={command!r}, {arguments})"
    world.write(f"with DAG('d', params={{'p': 1}}):\n    {made}")


def test_a_command_is_rendered_and_then_is_bash_itself(world: RuntimeWorld) -> None:
    world.xcoms = {("a", "return_value"): "yes"}
    bash(
        world,
        "echo {{ ds }} {{ params.p }} {{ ti.xcom_pull('a') }} $A; echo $$ $PPID >&2; exit 7",
        "env={'A': '{{ run_id }}'}",
    )
    ended = world.run()
    assert ended.output.splitlines()[0] == "2025-03-01 1 yes manual__1"
    assert (ended.exit_code, ended.told) == (7, None)


def test_a_rendered_command_gets_the_environment_and_signals_of_a_plain_one(
    world: RuntimeWorld,
) -> None:
    bash(world, "env | cut -d= -f1 | sort | tr '\\n' ' '; grep SigIgn /proc/$$/status # {{ ds }}")
    *names, _, ignored = world.run().output.split()
    assert names == ["FLOW_TASK_SOCKET", "HOME", "PATH", "PWD", "SHLVL", "_"]
    # Whoever started the tests may ignore signals, as nohup does; those that Python itself ignores
    # must not be passed on.
    own = Path("/proc/self/status").read_text().split("SigIgn:")[1].split()[0]
    pythons = 1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1)
    assert int(own, 16) & pythons == pythons
    assert int(ignored, 16) == int(own, 16) & ~pythons


def test_a_command_that_does_not_render_fails_and_does_not_run(world: RuntimeWorld) -> None:
    bash(world, "touch ran; {{ nope }}")
    ended = world.run()
    assert (ended.exit_code, ended.state) == (1, "failed")
    assert ended.reason == (
        "x.py:3: DAG 'd', task 't': bash_command: expected a template that renders, got "
        "'touch ran; {{ nope }}': UndefinedError: 'nope' is undefined"
    )
    assert not (world.root / "ran").exists()


def test_a_command_that_is_too_long_once_rendered_is_named(world: RuntimeWorld) -> None:
    bash(world, "echo {{ 'x' * 200000 }}")
    assert world.run().reason == (
        "x.py:3: DAG 'd', task 't': expected a command that can be run, got one of 200005 bytes: "
        "[Errno 7] Argument list too long: '/bin/bash'"
    )
