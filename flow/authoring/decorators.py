"""``@dag`` and ``@task``: DAGs and tasks written as functions."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar, overload

from flow.authoring import collect
from flow.authoring.dag import DAG
from flow.authoring.python import BranchPythonOperator, PythonOperator, ShortCircuitOperator
from flow.authoring.references import XComArg

P = ParamSpec("P")
R = TypeVar("R")


class TaskFunction(Generic[P, R]):
    """What ``@task`` makes of a function: calling it in a DAG adds a task and returns its result.

    A second call in the same DAG makes a second task, ``name__1``. ``function`` is the function
    itself, for tests and to be called inside another task.
    """

    def __init__(
        self,
        function: Callable[P, R],
        operator: type[PythonOperator],
        arguments: dict[str, Any],
    ) -> None:
        self.function = function
        self._operator = operator
        self._arguments = arguments
        functools.update_wrapper(self, function)

    def __call__(self, *args: Any, **kwargs: Any) -> XComArg:
        """Add a task that calls the function with these arguments; its result."""
        given = dict(self._arguments)
        dag = given.get("dag") or collect.open_dag()
        name = given.pop("task_id", None) or getattr(self.function, "__name__", "task")
        task_id = _unused(name, dag) if isinstance(dag, DAG) else name
        return XComArg(
            self._operator(
                task_id=task_id,
                python_callable=self.function,
                op_args=args,
                op_kwargs=kwargs,
                **given,
            )
        )

    def override(self, **arguments: Any) -> TaskFunction[P, R]:
        """The same with other arguments of the operator: ``f.override(task_id="g")(1)``."""
        return TaskFunction(self.function, self._operator, {**self._arguments, **arguments})


def _unused(name: str, dag: DAG) -> str:
    taken = {task.task_id for task in dag.tasks}
    number, candidate = 0, name
    while candidate in taken:
        number += 1
        candidate = f"{name}__{number}"
    return candidate


class TaskDecorator:
    """``@task``, ``@task(queue="gpu")``; see :data:`task`."""

    def __init__(self, operator: type[PythonOperator]) -> None:
        self._operator = operator

    @overload
    def __call__(self, function: Callable[P, R], /) -> TaskFunction[P, R]: ...
    @overload
    def __call__(self, /, **arguments: Any) -> Callable[[Callable[P, R]], TaskFunction[P, R]]: ...
    def __call__(
        self, function: Callable[..., Any] | None = None, /, **arguments: Any
    ) -> TaskFunction[..., Any] | Callable[[Callable[..., Any]], TaskFunction[..., Any]]:
        """Decorate *function*, or return what does so with *arguments* for the operator."""
        if function is not None:
            return TaskFunction(function, self._operator, arguments)
        return lambda function: TaskFunction(function, self._operator, arguments)


class _AnyTaskDecorator(TaskDecorator):
    """``@task`` with its variants."""

    def __init__(self) -> None:
        super().__init__(PythonOperator)
        self.branch = TaskDecorator(BranchPythonOperator)
        self.short_circuit = TaskDecorator(ShortCircuitOperator)


#: Makes tasks of functions: ``@task``, ``@task(...)`` with the arguments of PythonOperator,
#: ``@task.branch`` and ``@task.short_circuit`` with those of their operators.
task = _AnyTaskDecorator()


@overload
def dag(function: Callable[P, object], /) -> Callable[P, DAG]: ...
@overload
def dag(
    dag_id: str = "", /, **arguments: Any
) -> Callable[[Callable[P, object]], Callable[P, DAG]]: ...
def dag(function_or_id: Any = "", /, **arguments: Any) -> Any:
    """Make a DAG of a function: its name is the dag_id, its body adds the tasks.

    The DAG exists once the function has been called. Its own parameters become ``params`` of the
    DAG; in the body they stand for the value that a run has.
    """
    if callable(function_or_id):
        return _factory(function_or_id, {})
    if function_or_id:
        arguments["dag_id"] = function_or_id
    return lambda function: _factory(function, arguments)


def _factory(function: Callable[..., object], arguments: dict[str, Any]) -> Callable[..., DAG]:
    @functools.wraps(function)
    def make(*args: Any, **kwargs: Any) -> DAG:
        bound = inspect.signature(function).bind(*args, **kwargs)
        bound.apply_defaults()
        given = dict(arguments)
        given.setdefault("dag_id", function.__name__)
        if bound.arguments:
            given["params"] = {**(given.get("params") or {}), **bound.arguments}
        made = DAG(**given)
        with made:
            function(**{name: made.param(name) for name in bound.arguments})
        return made

    return make
