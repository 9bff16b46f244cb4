"""Runs the text of a DAG file in this process, as the parser would."""

from __future__ import annotations

from typing import Any

import pytest

from flow.authoring.collect import Collection, collecting
from flow.dagspec import DagSpec
from flow.errors import DagError

IMPORTS = "from datetime import *; from zoneinfo import ZoneInfo; from flow import *\n"


def author(text: str, **defaults: Any) -> tuple[DagSpec, ...]:
    """The DAGs of a file ``x.py`` whose second line is the first of *text*."""
    collection = Collection(file="/dags/x.py", folder="/dags", **defaults)
    with collecting(collection):
        exec(compile(IMPORTS + text, "/dags/x.py", "exec"), {"__name__": "x"})  # noqa: S102
    return collection.finish()


def problems(text: str, **defaults: Any) -> list[str]:
    """The lines of the error that *text* leads to."""
    with pytest.raises(DagError) as caught:
        author(text, **defaults)
    return str(caught.value).split("\n")


def dag_problem(arguments: str, **defaults: Any) -> str:
    """The one problem of a DAG with *arguments*, after its place."""
    found = problems(f"DAG('d', {arguments})", **defaults)
    assert len(found) == 1, found
    assert found[0].startswith("x.py:2: DAG 'd': ")
    return found[0].removeprefix("x.py:2: DAG 'd': ")


def task_problem(arguments: str) -> str:
    """The one problem of a task with *arguments*, after its place."""
    if "bash_command" not in arguments:
        arguments = f"bash_command='true', {arguments}"
    found = problems(f"with DAG('d'):\n    BashOperator(task_id='t', {arguments})")
    assert len(found) == 1, found
    assert found[0].startswith("x.py:3: DAG 'd', task 't': ")
    return found[0].removeprefix("x.py:3: DAG 'd', task 't': ")


def upstream(text: str) -> dict[str, tuple[str, ...]]:
    """Task ids to those they wait for, of a DAG with tasks a to f and the arrows of *text*."""
    made = "a, b, c, d, e, f = [BashOperator(task_id=t, bash_command='true') for t in 'abcdef']"
    (dag,) = author(f"with DAG('d'):\n    {made}\n    {text}")
    return {task.task_id: task.upstream for task in dag.tasks if task.upstream}
