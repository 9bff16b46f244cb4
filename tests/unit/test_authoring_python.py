"""Python tasks as DAG files write them: what they come to as data, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from flow import DAG, BashOperator, PythonOperator, dag, task
from flow.authoring.context import NAMES
from flow.dagspec import DagSpec, TaskSpec
from flow.errors import DagError
from tests.unit.authored import author, problems

DEFINED = """
@task
def one(): ...
@task
def two(x=None, y=None): ...
"""
JSON = "JSON (None, True, numbers, texts, lists and dicts of them) or the result of a task"


def tasks_of(text: str) -> dict[str, TaskSpec]:
    (made,) = author(text)
    return {spec.task_id: spec for spec in made.tasks}


def body(text: str) -> dict[str, TaskSpec]:
    """The tasks of a DAG with this body, in which ``one`` and ``two`` are defined."""
    lines = "\n".join(f"    {line}" for line in text.splitlines())
    return tasks_of(f"{DEFINED}with DAG('d', params={{'p': 1}}) as d:\n{lines}")


def python_problem(arguments: str) -> str:
    """The one problem of a PythonOperator with *arguments*, after its place."""
    if "python_callable" not in arguments:
        arguments = f"python_callable=f, {arguments}"
    text = (
        f"def f(*args, **kwargs): ...\nwith DAG('d'):\n    PythonOperator(task_id='t', {arguments})"
    )
    (found,) = problems(text)
    assert found.startswith("x.py:4: DAG 'd', task 't': ")
    return found.removeprefix("x.py:4: DAG 'd', task 't': ")


# -- what they come to -------------------------------------------------------------------------


def test_a_python_operator_with_everything_said() -> None:
    spec = tasks_of(
        """
def f(a, b, ti): ...
with DAG('d'):
    PythonOperator(
        task_id='t', python_callable=f, op_args=(1,), op_kwargs={'b': [None, {'c': 2.5}]},
        multiple_outputs=True, do_xcom_push=False, python='/opt/torch/bin/python',
        trigger_rule='all_done', env={'A': 'b'}, cwd='/data', queue='gpu',
    )
"""
    )["t"]
    assert spec == TaskSpec(
        task_id="t",
        operator="python",
        arguments={
            "args": [1],
            "kwargs": {"b": [None, {"c": 2.5}]},
            "env": {"A": "b"},
            "cwd": "/data",
            "python": "/opt/torch/bin/python",
            "meaning": "value",
            "multiple_outputs": True,
            "push": False,
        },
        queue="gpu",
        trigger_rule="all_done",
        line=5,
    )


def test_branches_short_circuits_and_empty_tasks_are_kinds_of_their_own() -> None:
    specs = tasks_of(
        """
with DAG('d'):
    BranchPythonOperator(task_id='b', python_callable=print)
    ShortCircuitOperator(task_id='s', python_callable=print)
    ShortCircuitOperator(
        task_id='g', python_callable=print, ignore_downstream_trigger_rules=False
    )
    EmptyOperator(task_id='e')
"""
    )
    meanings = [spec.arguments.get("meaning") for spec in specs.values()]
    assert meanings == ["branch", "short_circuit", "gate", None]
    assert (specs["e"].operator, specs["e"].arguments) == ("empty", {})


def test_the_decorator_makes_a_task_of_each_call() -> None:
    specs = body("one()\none()\none.override(task_id='other', queue='q')()\ntwo(1, y='z')")
    assert list(specs) == ["one", "one__1", "other", "two"]
    assert specs["other"].queue == "q"
    assert (specs["two"].arguments["args"], specs["two"].arguments["kwargs"]) == ([1], {"y": "z"})


def test_the_decorators_take_the_arguments_of_their_operators() -> None:
    specs = tasks_of(
        """
@task(task_id='a', retries=3, multiple_outputs=True)
def f(): ...
@task.branch(queue='q')
def b(): ...
@task.short_circuit
def s(): ...
with DAG('d'):
    f(); b(); s()
"""
    )
    assert (specs["a"].retries, specs["a"].arguments["multiple_outputs"]) == (3, True)
    assert (specs["b"].queue, specs["b"].arguments["meaning"]) == ("q", "branch")
    assert specs["s"].arguments["meaning"] == "short_circuit"


def test_the_function_itself_stays_callable() -> None:
    @task(retries=1)
    def double(x: int) -> int:
        """Twice."""
        return 2 * x

    assert double.function(4) == 8
    assert double.__doc__ == "Twice."


def test_passing_a_result_draws_the_arrow_and_leaves_a_mark() -> None:
    specs = body("r = one()\ntwo(r, [{'deep': r['key']}])")
    assert specs["two"].upstream == ("one",)
    assert specs["two"].arguments["args"] == [
        {"__flow__": {"task_id": "one", "key": "return_value"}},
        [{"deep": {"__flow__": {"task_id": "one", "key": "key"}}}],
    ]


@pytest.mark.parametrize(
    ("arrows", "upstream"),
    [
        ("one() >> two()", {"two": ("one",)}),
        ("one() << two()", {"one": ("two",)}),
        ("[one(), two()] >> EmptyOperator(task_id='e')", {"e": ("one", "two")}),
        ("EmptyOperator(task_id='e') >> [one(), two()]", {"one": ("e",), "two": ("e",)}),
        ("[EmptyOperator(task_id='e')] >> one()", {"one": ("e",)}),
        ("chain(one(), EmptyOperator(task_id='e'), two())", {"e": ("one",), "two": ("e",)}),
        ("chain([one(), two()], EmptyOperator(task_id='e'))", {"e": ("one", "two")}),
        ("one().operator.output >> two()", {"two": ("one",)}),
    ],
)
def test_a_result_stands_for_its_task_beside_an_arrow(
    arrows: str, upstream: dict[str, tuple[str, ...]]
) -> None:
    specs = body(arrows)
    assert {name: spec.upstream for name, spec in specs.items() if spec.upstream} == upstream


def test_a_result_in_a_command_or_its_environment_is_a_template_and_an_arrow() -> None:
    specs = body("BashOperator(task_id='b', bash_command=one(), env={'A': two()['k'], 'B': 'c'})")
    assert specs["b"].upstream == ("one", "two")
    assert specs["b"].arguments == {
        "command": "{{ ti.xcom_pull(task_ids='one', key='return_value') }}",
        "env": {"A": "{{ ti.xcom_pull(task_ids='two', key='k') }}", "B": "c"},
        "cwd": None,
        "templated": True,
    }


def test_a_result_in_a_text_is_a_template() -> None:
    specs = body("""BashOperator(task_id='b', bash_command=f"echo {one()} {d.param('p')}")""")
    assert specs["b"].arguments["command"] == (
        "echo {{ ti.xcom_pull(task_ids='one', key='return_value') }} {{ params['p'] }}"
    )


def test_only_commands_with_templates_are_marked() -> None:
    specs = body(
        "BashOperator(task_id='a', bash_command='echo {% if 1 %}x{% endif %}')\n"
        "BashOperator(task_id='b', bash_command='true', env={'A': '{{ ds }}'})\n"
        "BashOperator(task_id='c', bash_command='echo ${A} {1..3} {{')"
    )
    assert [spec.arguments.get("templated") for spec in specs.values()] == [True, True, None]


def test_a_dag_may_be_a_function_whose_parameters_are_its_params() -> None:
    (made,) = author(
        """
@dag(tags=['x'], params={'q': 2})
def flow_of_things(n: int = 3, *, name):
    task(print)(n, name)
    @task
    def inner(a, b=None): ...
    inner(n)
flow_of_things(name='joe')
"""
    )
    assert (made.dag_id, made.tags, made.params) == (
        "flow_of_things",
        ("x",),
        {"q": 2, "n": 3, "name": "joe"},
    )
    (first, second) = made.tasks
    assert first.arguments["args"] == [
        {"__flow__": {"param": "n"}},
        {"__flow__": {"param": "name"}},
    ]
    assert second.arguments["args"] == [{"__flow__": {"param": "n"}}]


def test_a_dag_function_may_be_named_otherwise_and_called_plainly() -> None:
    dags = author("@dag\ndef a(): ...\n@dag('bee')\ndef b(): ...\na(); b()")
    assert [made.dag_id for made in dags] == ["a", "bee"]


def test_params_are_part_of_the_data_and_survive_it() -> None:
    (made,) = author("DAG('d', params={'a': [1, {'b': None}], 'c': 'ä'})")
    assert made.params == {"a": [1, {"b": None}], "c": "ä"}
    assert DagSpec.from_json(made.to_json()) == made


def test_a_changed_argument_is_another_version() -> None:
    (one,) = author("with DAG('d'):\n    task(print)(1)")
    (two,) = author("with DAG('d'):\n    task(print)(2)")
    assert one.digest != two.digest


def test_parameters_named_after_the_context_need_no_argument() -> None:
    specs = tasks_of(
        "def f(x, ti, ds, *, params, **kwargs): ...\n"
        "with DAG('d'):\n    PythonOperator(task_id='t', python_callable=f, op_args=[1])"
    )
    assert specs["t"].arguments["args"] == [1]


def test_what_airflow_users_carry_along_without_effect_is_accepted() -> None:
    specs = tasks_of(
        "with DAG('d', default_args={'do_xcom_push': False, 'params': None}):\n"
        "    PythonOperator(task_id='t', python_callable=print, provide_context=True)"
    )
    assert list(specs) == ["t"]


# -- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            "op_args=[1, object]",
            (
                f"argument 'op_args'[1]: expected {JSON}, got <class 'object'>; "
                "make it inside the callable"
            ),
        ),
        (
            "op_kwargs={'x': {'y': [datetime(2025, 1, 1)]}}",
            (
                f"argument 'op_kwargs'['x']['y'][0]: expected {JSON}, got "
                "datetime.datetime(2025, 1, 1, 0, 0); make it inside the callable"
            ),
        ),
        (
            "op_kwargs={'x': {1: 2}}",
            "argument 'op_kwargs'['x']: expected texts as keys, got 1",
        ),
        (
            "op_args=[{'__flow__': 1}]",
            "argument 'op_args'[0]: expected another key, got '__flow__', which is flow's own",
        ),
        (
            "op_args=[float('inf')]",
            "argument 'op_args'[0]: expected a number that JSON has, got inf",
        ),
        (
            "op_args=[2**64]",
            ("argument 'op_args'[0]: expected a whole number of 64 bits, got 18446744073709551616"),
        ),
        (
            r"op_args=['a\0']",
            r"argument 'op_args'[0]: expected text without NUL characters, got 'a\x00'",
        ),
        ("op_args='abc'", "argument 'op_args': expected a list, got 'abc'"),
        ("op_kwargs=[1]", "argument 'op_kwargs': expected a dict, got [1]"),
        (
            "op_args=['x' * 300_000]",
            (
                "arguments 'op_args' and 'op_kwargs': expected at most 262144 bytes of JSON, got "
                "300028; put large data into a file beside the DAG file"
            ),
        ),
        ("multiple_outputs=1", "argument 'multiple_outputs': expected True or False, got 1"),
        ("do_xcom_push='no'", "argument 'do_xcom_push': expected True or False, got 'no'"),
        (
            "python_callable='f'",
            "argument 'python_callable': expected a function, got 'f'",
        ),
        (
            "python_callable=lambda x: x",
            (
                "expected arguments that <lambda> takes, got: missing a required argument: 'x'; "
                "give them in op_args and op_kwargs"
            ),
        ),
        (
            "python_callable=lambda x: x, op_args=[1, 2]",
            (
                "expected arguments that <lambda> takes, got: too many positional arguments; "
                "give them in op_args and op_kwargs"
            ),
        ),
        (
            "python_callable=lambda x: x, op_args=[1], op_kwargs={'z': 1}",
            (
                "expected arguments that <lambda> takes, got: got an unexpected keyword argument "
                "'z'; give them in op_args and op_kwargs"
            ),
        ),
        (
            "params={'a': 1}",
            (
                "expected None or {} for 'params', got {'a': 1}; all tasks have those of the DAG, "
                "use params of the DAG"
            ),
        ),
        (
            "retires=1",
            "expected an argument of PythonOperator, got 'retires'; did you mean 'retries'?",
        ),
    ],
)
def test_a_python_task_that_is_wrong(arguments: str, text: str) -> None:
    assert python_problem(arguments) == text


@pytest.mark.parametrize(
    ("header", "text"),
    [
        ("async def f(): ...", ", which is async; call asyncio.run in a plain one"),
        ("def f(): yield", ", which yields; return a list"),
    ],
)
def test_a_function_that_does_not_simply_return_is_refused(header: str, text: str) -> None:
    (found,) = problems(f"@task\n{header}\nwith DAG('d'):\n    f()")
    assert found.startswith("x.py:5: DAG 'd', task 'f': argument 'python_callable': expected a ")
    assert found.endswith(text)


def test_a_command_without_python_has_no_results() -> None:
    text = "with DAG('d'):\n    BashOperator(task_id='t', bash_command='true', do_xcom_push=True)"
    assert problems(text) == [
        (
            "x.py:3: DAG 'd', task 't': expected None or False for 'do_xcom_push', got True; "
            "only Python tasks have results, leave it out"
        )
    ]


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ("[1]", "argument 'params': expected a dict, got [1]"),
        (
            "{'a': object}",
            (
                "argument 'params': ['a']: expected JSON (None, True, numbers, texts, lists and "
                "dicts of them), got <class 'object'>; write it as a text"
            ),
        ),
    ],
)
def test_params_that_are_no_json(params: str, text: str) -> None:
    assert problems(f"DAG('d', params={params})") == [f"x.py:2: DAG 'd': {text}"]


def test_a_param_that_the_dag_does_not_have() -> None:
    with pytest.raises(DagError) as caught:
        author("DAG('d', params={'count': 1}).param('cont')")
    assert str(caught.value) == (
        "x.py:2: DAG 'd': expected one of its params (count), got 'cont'; did you mean 'count'?"
    )


def test_a_result_cannot_be_looked_at_while_the_file_is_read() -> None:
    with pytest.raises(TypeError) as caught:
        author(f"{DEFINED}with DAG('d'):\n    a, b = one()")
    assert str(caught.value) == (
        "expected nothing that needs the result of task 'one' while the DAG file is read, got a "
        "loop over it; pass it to another task"
    )


def test_a_result_of_another_dag_cannot_be_passed() -> None:
    text = f"{DEFINED}with DAG('d'):\n    r = one()\nwith DAG('e'):\n    two(r)"
    assert problems(text) == [
        (
            "x.py:10: expected tasks of one DAG beside the arrow, got 'one' of DAG 'd' and 'two' "
            "of DAG 'e'; put both tasks into one DAG"
        )
    ]


def test_a_decorated_function_outside_of_a_dag_says_so() -> None:
    assert problems(f"{DEFINED}one()") == [
        (
            "x.py:7: task 'one': expected a DAG for the task, got None; write it inside "
            "`with DAG(...):` or add dag="
        )
    ]


def test_a_variable_is_not_read_while_the_file_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLOW_TASK_SOCKET", raising=False)
    with pytest.raises(Exception, match="expected to be read inside a task") as caught:
        author("Variable.get('v')")
    assert str(caught.value) == (
        "variable 'v': expected to be read inside a task, got a process that is none; in a DAG "
        "file write '{{ var.value.v }}' into an argument"
    )


def test_the_types_of_the_decorators_are_known_to_checkers() -> None:
    @dag(tags=["x"])
    def typed(n: int = 1) -> None:
        assert n is not None

    made: DAG = typed(2)
    operator = PythonOperator(task_id="t", python_callable=print, dag=made)
    result: Any = operator.output >> BashOperator(task_id="b", bash_command="true", dag=made)
    assert result.upstream_task_ids == {"t"}


def test_the_page_about_python_tasks_is_right_about_its_example_and_its_names() -> None:
    page = (Path(__file__).parents[2] / "docs" / "python-tasks.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (made,) = author(code)
    assert {spec.task_id: spec.upstream for spec in made.tasks} == {
        "split": (),
        "train": ("split",),
    }
    table = page.split("| name | what it is |")[1].split("\n\n")[0]
    named = [name for row in table.splitlines() for name in row.split("|")[1:2]]
    assert {name for row in named for name in re.findall(r"`(\w+)`", row)} == set(NAMES)
