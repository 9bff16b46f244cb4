"""A Python task: run its DAG file, find it there, call it, and take what it returns."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from flow.authoring import context as names
from flow.authoring.outcomes import FailTask, SkipTask
from flow.authoring.python import PythonOperator
from flow.authoring.references import MARK, RETURN_VALUE
from flow.authoring.runfile import Request, explain, load_dags
from flow.authoring.values import shown
from flow.errors import DagError, FlowError, nearest
from flow.runtime import context as contexts
from flow.runtime.client import Refused, ask
from flow.runtime.job import Job, Outcome, TaskFailed
from flow.runtime.templates import Renderer

if TYPE_CHECKING:
    from flow.authoring.dag import DAG

_HERE = __file__


def call(job: Job, outcome: Outcome, dags: Sequence[DAG] | None = None) -> None:
    """Run the task and put how it came out into *outcome*. *dags* are those of its file, where this
    process has run it already.

    Raises :class:`TaskFailed`, or what the callable raised to end in a way of its own.
    """
    request = _request(job)
    operator = _find(job, load(request) if dags is None else dags)
    context = contexts.build(job, dag=operator.dag, task=operator)
    args, kwargs = _arguments(job, context)
    try:
        added = names.wanted(operator.python_callable, args, kwargs, context)
        result = operator.python_callable(*args, **kwargs, **added)
    except (SkipTask, FailTask):
        raise
    except BaseException as error:  # noqa: BLE001  sys.exit, too, is an end of the task
        _show(error)
        raise TaskFailed(_explained(job, request, error)) from None
    finally:
        outcome.xcom = context["ti"].pushed
    try:
        _interpret(job, operator, result, outcome)
    except FlowError as error:
        raise TaskFailed(f"{_place(operator)}: {error}") from None


def _request(job: Job) -> Request:
    if not job.folder or not job.dag_file:
        raise TaskFailed(
            f"{job.where}: expected the DAG folder on this node, got none; "
            "the dispatcher ships it with runs that it starts from now on"
        )
    return Request(folder=job.folder, file=job.dag_file, setting=job.setting)


def load(request: Request) -> Sequence[DAG]:
    """Run the DAG file. Raises :class:`TaskFailed`."""
    # At the end, as where DAG files are parsed: a file json.py among them must not hide Python's.
    sys.path.append(request.folder)
    try:
        return load_dags(request)
    except DagError as error:
        raise TaskFailed(str(error)) from None


def _find(job: Job, dags: Sequence[DAG]) -> PythonOperator:
    known = {dag.dag_id: dag for dag in dags}
    dag = known.get(job.dag_id)
    tasks = {task.task_id: task for task in dag.tasks} if dag else {}
    found = tasks.get(job.task_id)
    if isinstance(found, PythonOperator):
        return found
    has = f"tasks {', '.join(sorted(tasks))}" if dag else f"DAGs {', '.join(sorted(known))}"
    raise TaskFailed(
        f"{job.where}: expected the file to make this task here as it did where it was parsed, "
        f"got {shown(has)}; let it depend on nothing but the files of its folder"
    )


def _arguments(job: Job, context: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Rendered first, so that what other tasks returned is never taken for a template."""
    renderer = Renderer(job, context)
    env = renderer.render(job.arguments.get("env") or {}, "env")
    os.environ.update(env)
    args = renderer.render(job.arguments["args"], "op_args")
    kwargs = renderer.render(job.arguments["kwargs"], "op_kwargs")
    marks: list[dict[str, Any]] = []
    _collect_marks([args, kwargs], marks)
    wanted = [
        {"kind": "xcom", "name": mark["task_id"], "key": mark["key"]}
        for mark in marks
        if "task_id" in mark
    ]
    try:
        answers = ask(job.socket, wanted) if wanted else []
    except Refused as error:
        raise TaskFailed(f"{job.where}: {error}") from None
    values = {
        (item["name"], item["key"]): found for item, found in zip(wanted, answers, strict=True)
    }
    replaced = _replace([args, kwargs], job, values, context["params"])
    return replaced[0], replaced[1]


def _collect_marks(value: Any, marks: list[dict[str, Any]]) -> None:
    if isinstance(value, dict):
        if MARK in value:
            if value[MARK] not in marks:
                marks.append(value[MARK])
        else:
            _collect_marks(list(value.values()), marks)
    elif isinstance(value, list):
        for item in value:
            _collect_marks(item, marks)


def _replace(
    value: Any, job: Job, values: Mapping[tuple[str, str], list[Any]], params: Mapping[str, Any]
) -> Any:
    if isinstance(value, list):
        return [_replace(item, job, values, params) for item in value]
    if not isinstance(value, dict):
        return value
    if MARK not in value:
        return {key: _replace(item, job, values, params) for key, item in value.items()}
    mark = value[MARK]
    if "param" in mark:
        return params[mark["param"]]
    found = values[mark["task_id"], mark["key"]]
    if not found and mark["key"] != RETURN_VALUE:
        raise TaskFailed(
            f"{job.where}: expected task {mark['task_id']!r} to have pushed {mark['key']!r}, got "
            "nothing; return it in a dict, with multiple_outputs=True, or push it with ti.xcom_push"
        )
    return found[0] if found else None


def _interpret(job: Job, operator: PythonOperator, result: Any, outcome: Outcome) -> None:
    """What the result means for this kind of task. Raises :class:`FlowError`."""
    match job.arguments["meaning"]:
        case "branch":
            outcome.follow = _chosen(operator, result)
        case "short_circuit":
            outcome.stop = not result
        case "gate":
            outcome.follow = None if result else []
    if not job.arguments["push"]:
        return
    if job.arguments["multiple_outputs"] and result is not None:
        if not isinstance(result, Mapping) or not all(isinstance(key, str) for key in result):
            raise FlowError(
                "expected a dict with texts as keys, since multiple_outputs is set, "
                f"got {shown(result)}"
            )
        outcome.xcom |= {key: _pushed(value, repr(key)) for key, value in result.items()}
    if result is not None:
        outcome.xcom[RETURN_VALUE] = _pushed(result, "")


def _pushed(value: Any, place: str) -> str:
    try:
        return contexts.as_json(value)
    except FlowError as error:
        where = f" {place}" if place else ""
        raise FlowError(f"result{where}{'' if str(error)[0] == '[' else ': '}{error}") from None


def _chosen(operator: PythonOperator, result: Any) -> list[str]:
    chosen = [result] if isinstance(result, str) else result
    below = sorted(operator.downstream_task_ids)
    if chosen is None:
        return []
    if not isinstance(chosen, (list, tuple, set, frozenset)):
        raise FlowError(f"expected a task_id or a list of them, got {shown(result)}")
    for name in chosen:
        if name not in below:
            remedy = nearest(name, below) if isinstance(name, str) else ""
            raise FlowError(
                f"expected tasks directly below it ({', '.join(below)}), got {shown(name)}{remedy}"
            )
    return sorted(chosen)


def _place(operator: PythonOperator) -> str:
    return f"{operator.where()}: {getattr(operator.python_callable, '__name__', 'its callable')}"


def _explained(job: Job, request: Request, error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return (
            f"{job.where}: expected a callable that returns, got sys.exit({error.code!r}); "
            "raise an exception to fail"
        )
    text = explain(request, error)
    if text.startswith(f"{request.file}: "):  # it did not get as far as a line of the user's
        return f"{job.where}: {text.removeprefix(f'{request.file}: ')}"
    return f"{text} (DAG {job.dag_id!r}, task {job.task_id!r})"


def _show(error: BaseException) -> None:
    """The traceback, from the user's first line on."""
    trace: TracebackType | None = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename in (_HERE, names.__file__):
        trace = trace.tb_next
    traceback.print_exception(type(error), error, trace)
