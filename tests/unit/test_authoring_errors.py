"""Every way a DAG file can be wrong, with the full text that its author reads."""

from __future__ import annotations

import pytest

from flow.authoring.values import MAX_ARGUMENT_BYTES
from tests.unit.authored import dag_problem, problems, task_problem

ID = "1 to 250 letters, digits, '_', '-', '.', not beginning with '-' or '.'"
SECONDS = "a timedelta or a number of seconds"
DAG_NAMES = (
    "catchup, dag_id, default_args, description, end_date, max_active_runs, max_active_tasks, "
    "params, schedule, start_date, tags, timezone"
)
TASK_NAMES = (
    "cpus, cwd, depends_on_past, env, execution_timeout, gpus, memory, on_agent_lost, owner, "
    "pids, priority_weight, python, queue, retries, retry_delay, slots, trigger_rule"
)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("catchup=1", "argument 'catchup': expected True or False, got 1"),
        (
            "max_active_runs=0",
            "argument 'max_active_runs': expected a whole number from 1 to 2147483647, got 0",
        ),
        (
            "max_active_tasks=True",
            "argument 'max_active_tasks': expected a whole number from 1 to 2147483647, got True",
        ),
        ("tags='a'", "argument 'tags': expected a list of texts, got 'a'; write ['a']"),
        ("tags=['']", "argument 'tags': expected tags of 1 to 100 characters, got ''"),
        ("tags=[1]", "argument 'tags': expected tags of 1 to 100 characters, got 1"),
        ("description=5", "argument 'description': expected text, got 5"),
        (
            r"description='a\0b'",
            r"argument 'description': expected text without NUL characters, got 'a\x00b'",
        ),
        (
            r"description='\ud800'",
            r"argument 'description': expected text that can be written as UTF-8, got '\ud800'",
        ),
        (
            "timezone='Europe/Berln'",
            (
                "argument 'timezone': expected a time zone such as 'Europe/Berlin', "
                "got 'Europe/Berln'; did you mean 'Europe/Berlin'?"
            ),
        ),
        (
            "timezone='../x'",
            "argument 'timezone': expected a time zone such as 'Europe/Berlin', got '../x'",
        ),
        ("timezone=1", "argument 'timezone': expected a time zone such as 'Europe/Berlin', got 1"),
        (
            "start_date='2025-01-01'",
            (
                "argument 'start_date': expected a datetime, got '2025-01-01'; "
                "write for example datetime(2025, 1, 1)"
            ),
        ),
        (
            "end_date=date(2025, 1, 1)",
            (
                "argument 'end_date': expected a datetime, got datetime.date(2025, 1, 1); "
                "write for example datetime(2025, 1, 1)"
            ),
        ),
        (
            "start_date=datetime(2025, 1, 2), end_date=datetime(2025, 1, 1)",
            (
                "argument 'end_date': expected a date after start_date 2025-01-02T00:00:00+00:00, "
                "got 2025-01-01T00:00:00+00:00; exchange them"
            ),
        ),
        (
            "schedule='@daily'",
            (
                "argument 'start_date': expected a date, since there is a schedule, got None; "
                "add for example start_date=datetime(2025, 1, 1)"
            ),
        ),
        (
            (
                "schedule='@daily', start_date=datetime(2025, 1, 1, "
                "tzinfo=timezone(timedelta(hours=2)))"
            ),
            (
                "argument 'timezone': expected a time zone for the schedule, since start_date "
                "has only "
                "an offset, got None; add for example timezone='Europe/Berlin'"
            ),
        ),
        (
            "schedule='@continuous', start_date=datetime(2025, 1, 1)",
            (
                "argument 'schedule': expected a schedule that says when, got '@continuous'; "
                "use for example timedelta(seconds=10) and max_active_runs=1"
            ),
        ),
        ("default_args=[1]", "argument 'default_args': expected a dict, got [1]"),
        (
            "default_args={'retries': -1}",
            "default_args 'retries': expected a whole number from 0 to 2147483647, got -1",
        ),
        (
            "default_args={'retires': 1}",
            "expected an argument of default_args, got 'retires'; did you mean 'retries'?",
        ),
        (
            "default_args={5: 1}",
            f"expected an argument of default_args, got 5; known are {TASK_NAMES}",
        ),
        (
            "default_args={'catchup': False}",
            "expected an argument of default_args, got 'catchup', which is for DAG; move it there",
        ),
        (
            "start_date=datetime(2025, 1, 1), default_args={'start_date': datetime(2024, 1, 1)}",
            (
                "default_args 'start_date': expected the DAG's own datetime.datetime(2025, 1, "
                "1, 0, 0), "
                "got datetime.datetime(2024, 1, 1, 0, 0); tasks have no dates of their own, "
                "leave it out"
            ),
        ),
        (
            "default_args={'wait_for_downstream': True}",
            (
                "expected None or False for 'wait_for_downstream', got True; "
                "a task waits for nothing but itself in the run before, use depends_on_past"
            ),
        ),
        ("schedul=None", "expected an argument of DAG, got 'schedul'; did you mean 'schedule'?"),
        ("zzz=1", f"expected an argument of DAG, got 'zzz'; known are {DAG_NAMES}"),
        (
            "retries=1",
            (
                "expected an argument of DAG, got 'retries', which is for tasks; "
                "put it into default_args"
            ),
        ),
        (
            "schedule_interval='@daily'",
            (
                "expected no 'schedule_interval', got '@daily'; "
                "flow has its own name for it, use schedule"
            ),
        ),
        (
            "dagrun_timeout=timedelta(1)",
            (
                "expected None for 'dagrun_timeout', got datetime.timedelta(days=1); "
                "flow does not limit the time of a run, use execution_timeout"
            ),
        ),
    ],
)
def test_a_dag_that_is_wrong(arguments: str, text: str) -> None:
    assert dag_problem(arguments) == text


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            "queue='gpu!'",
            "argument 'queue': expected 1 to 100 letters, digits, '.', '_', '-', got 'gpu!'",
        ),
        (
            "retries=1.5",
            "argument 'retries': expected a whole number from 0 to 2147483647, got 1.5",
        ),
        (
            "memory='4 GB'",
            (
                "argument 'memory': expected a size from 1M, such as '512M' or '4G', or a number "
                "of bytes, got '4 GB'"
            ),
        ),
        (
            "memory=4",
            (
                "argument 'memory': expected a size from 1M, such as '512M' or '4G', or a number "
                "of bytes, got 4"
            ),
        ),
        ("cpus=0", "argument 'cpus': expected a number of CPUs from 0.01 to 10000, got 0"),
        ("slots=0", "argument 'slots': expected a whole number from 1 to 10000, got 0"),
        (
            "retry_delay='5m'",
            (
                f"argument 'retry_delay': expected {SECONDS}, 0 or more and at most 3650 days, got "
                "'5m'"
            ),
        ),
        (
            "retry_delay=timedelta(days=-1)",
            (
                f"argument 'retry_delay': expected {SECONDS}, 0 or more and at most 3650 days, "
                "got datetime.timedelta(days=-1)"
            ),
        ),
        (
            "execution_timeout=0",
            (
                f"argument 'execution_timeout': expected {SECONDS}, more than 0 and at most "
                "3650 days, "
                "got 0"
            ),
        ),
        (
            "execution_timeout=float('nan')",
            (
                f"argument 'execution_timeout': expected {SECONDS}, more than 0 and at most "
                "3650 days, "
                "got nan"
            ),
        ),
        ("env=['A']", "argument 'env': expected a dict of texts, got ['A']"),
        ("env={'A': 1}", "argument 'env': expected text for 'A', got 1; write '1'"),
        (
            "env={'A=B': 'x'}",
            "argument 'env': expected names of variables without '=', got 'A=B'",
        ),
        (
            "env={'A': 'x' * 131072}",
            (
                "argument 'env': 'A': expected at most 131071 bytes, got 131072; "
                "put a longer script into a file and call it"
            ),
        ),
        (
            "cwd='/data/{{ ds }}'",
            (
                "argument 'cwd': expected text without templates, which are not rendered here, "
                "got '/data/{{ ds }}'; write it as it is"
            ),
        ),
        (
            "python='bin/python'",
            (
                "argument 'python': expected the absolute path or the name of a Python "
                "interpreter, got 'bin/python'"
            ),
        ),
        (
            "cwd='work'",
            (
                "argument 'cwd': expected an absolute path on the node, or one beginning with "
                "'~/', "
                "got 'work'"
            ),
        ),
        (
            "priority_weight=2**31",
            (
                "argument 'priority_weight': expected a whole number from -2147483648 to "
                "2147483647, "
                "got 2147483648"
            ),
        ),
        (
            "on_agent_lost='reruns'",
            (
                "argument 'on_agent_lost': expected 'rerun' or 'fail' or 'wait', got 'reruns'; "
                "did you mean 'rerun'?"
            ),
        ),
        ("owner=''", "argument 'owner': expected a name of 1 to 250 characters, got ''"),
        ("bash_command=' '", "argument 'bash_command': expected a shell command, got ' '"),
        ("bash_command=['ls']", "argument 'bash_command': expected text, got ['ls']"),
        (
            f"bash_command='x' * {MAX_ARGUMENT_BYTES + 1}",
            (
                "argument 'bash_command': expected at most 131071 bytes, got 131072; "
                "put a longer script into a file and call it"
            ),
        ),
        (
            "retrys=1",
            "expected an argument of BashOperator, got 'retrys'; did you mean 'retries'?",
        ),
        (
            "schedule='@daily'",
            "expected an argument of BashOperator, got 'schedule', which is for DAG; move it there",
        ),
        (
            "start_date=datetime(2025, 1, 1)",
            (
                "expected no 'start_date', got datetime.datetime(2025, 1, 1, 0, 0); "
                "tasks have no dates of their own, give it to the DAG"
            ),
        ),
        ("dag='d'", "argument 'dag': expected a DAG, got 'd'"),
        (
            "trigger_rule='all_don'",
            (
                "argument 'trigger_rule': expected 'all_success' or 'all_done' or 'all_failed' or "
                "'one_success' or 'one_failed' or 'none_failed' or 'none_failed_min_one_success' "
                "or 'none_skipped' or 'always', got 'all_don'; did you mean 'all_done'?"
            ),
        ),
        (
            "pool='gpu'",
            (
                "expected None or 'default_pool' for 'pool', got 'gpu'; "
                "flow has no pools, use a queue"
            ),
        ),
        (
            "on_failure_callback=print",
            (
                "expected None or [] or () for 'on_failure_callback', got <built-in function "
                "print>; "
                "flow calls no callbacks, leave it out"
            ),
        ),
        (
            "poke_interval=5",
            "expected no 'poke_interval', got 5; flow has no sensors, leave it out",
        ),
    ],
)
def test_a_task_that_is_wrong(arguments: str, text: str) -> None:
    assert task_problem(arguments) == text


@pytest.mark.parametrize(
    "name",
    [
        *("wait_for_downstream", "templates_dict", "weight_rule", "pool", "sla"),
        *("on_success_callback", "on_retry_callback", "retry_exponential_backoff", "run_as_user"),
        *("executor", "executor_config", "task_concurrency", "max_active_tis_per_dag", "mode"),
        *("outlets", "params", "skip_on_exit_code", "timeout", "deferrable", "do_xcom_push"),
    ],
)
def test_what_would_be_silently_ignored_is_refused_by_name(name: str) -> None:
    assert f"'{name}', got 'x'; " in task_problem(f"{name}='x'")


def test_a_bad_dag_id_and_a_bad_task_id() -> None:
    assert problems("DAG('a b')") == [
        f"x.py:2: DAG 'a b': argument 'dag_id': expected {ID}, got 'a b'"
    ]
    assert problems("DAG(7)") == [f"x.py:2: DAG '7': argument 'dag_id': expected {ID}, got 7"]
    assert problems("with DAG('d'):\n BashOperator(task_id='a/b', bash_command='true')") == [
        f"x.py:3: DAG 'd', task 'a/b': argument 'task_id': expected {ID}, got 'a/b'"
    ]


def test_a_task_without_a_dag() -> None:
    assert problems("BashOperator(task_id='t', bash_command='true')") == [
        (
            "x.py:2: task 't': expected a DAG for the task, got None; "
            "write it inside `with DAG(...):` or add dag="
        )
    ]


def test_a_task_id_used_twice() -> None:
    text = "with DAG('d'):\n" + " BashOperator(task_id='t', bash_command='true')\n" * 2
    assert problems(text) == [
        (
            "x.py:4: DAG 'd', task 't': expected a task_id used once in its DAG, "
            "got one that x.py:3 has already; rename one of the two"
        )
    ]


def test_a_dag_id_used_twice_in_a_file() -> None:
    assert problems("DAG('d')\nDAG('d')") == [
        (
            "x.py:3: DAG 'd': expected a dag_id used once, got one that x.py:2 has already; "
            "rename one of the two"
        )
    ]


TASKS = "with DAG('d'):\n a, b, c = [BashOperator(task_id=t, bash_command='true') for t in 'abc']\n"


def test_a_cycle_is_shown_with_its_path() -> None:
    assert problems(TASKS + " a >> b >> c >> a") == [
        "x.py:2: DAG 'd': expected no cycle, got a -> b -> c -> a; remove one of these arrows"
    ]
    assert problems(TASKS + " b >> b") == [
        "x.py:2: DAG 'd': expected no cycle, got b -> b; remove one of these arrows"
    ]


def test_an_arrow_between_two_dags() -> None:
    other = "with DAG('e'): z = BashOperator(task_id='z', bash_command='true')\n"
    assert problems(TASKS + other + "a >> z") == [
        (
            "x.py:5: expected tasks of one DAG beside the arrow, got 'a' of DAG 'd' and "
            "'z' of DAG 'e'; put both tasks into one DAG"
        )
    ]


def test_an_arrow_to_something_else() -> None:
    assert problems(TASKS + " a >> 'b'") == [
        "x.py:4: DAG 'd', task 'a': expected a task or a list of tasks beside the arrow, got 'b'"
    ]
    assert problems(TASKS + " chain(a, None, b)") == [
        "x.py:4: expected a task or a list of tasks beside the arrow, got None"
    ]


def test_a_chain_of_lists_that_differ_in_length() -> None:
    assert problems(TASKS + " chain([a, b], [c])") == [
        (
            "x.py:4: expected lists of equal length side by side in chain, got 2 and 1 tasks; "
            "put a task between them"
        )
    ]


def test_all_problems_of_a_file_are_told_at_once_and_each_once() -> None:
    text = """
with DAG('d', catchup=2, schedule='x', default_args={'retries': 'many'}):
    a = BashOperator(task_id='a', bash_command='', queue='!')
    b = BashOperator(task_id='b', bash_command='true')
    a >> b >> a
"""
    found = problems(text)
    assert [line.split(": ")[0] for line in found] == ["x.py:3"] * 3 + ["x.py:4"] * 2 + ["x.py:3"]
    assert len(set(found)) == len(found)


def test_a_value_whose_repr_fails_is_still_reported() -> None:
    text = "class Odd:\n def __repr__(self): raise KeyError\nDAG('d', catchup=Odd())"
    assert problems(text) == [
        (
            "x.py:4: DAG 'd': argument 'catchup': expected True or False, "
            "got <Odd, whose repr raised KeyError>"
        )
    ]
