"""Operators that call Python functions.

Only names travel to the node: there the DAG file is run again, from the same bundle, and the
function is taken from the task of that name.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flow.authoring import context, values
from flow.authoring.operators import Operator
from flow.authoring.references import JSON, Encoder, XComArg
from flow.authoring.values import BadValue, shown

if TYPE_CHECKING:
    from typing import Unpack

    from flow.authoring.dag import DAG
    from flow.authoring.defaults import OperatorArguments

#: Arguments travel in messages: what is larger belongs into a file or an XCom.
MAX_ARGUMENTS_BYTES = 256 * 1024


class PythonOperator(Operator):
    """Calls ``python_callable(*op_args, **op_kwargs)`` in a Python on a node that serves ``queue``.

    Arguments are JSON, results of other tasks (which draw arrows), or texts with templates.
    Parameters called ``ti``, ``params``, ``ds``, ... get their value from the run, ``**kwargs``
    gets all of them (:data:`flow.authoring.context.NAMES`). The result, if it is not ``None``, is
    pushed as XCom unless ``do_xcom_push`` is False; with ``multiple_outputs`` it is a dict whose
    entries are pushed one by one as well. ``python`` names the interpreter on the node. The other
    arguments are those of :class:`~flow.authoring.operators.BashOperator`.
    """

    kind = "python"
    #: What the result means: :mod:`flow.runtime.python` knows.
    meaning = "value"

    def __init__(
        self,
        *,
        task_id: str,
        python_callable: Callable[..., object],
        op_args: Sequence[object] | None = None,
        op_kwargs: Mapping[str, object] | None = None,
        multiple_outputs: bool = False,
        do_xcom_push: bool = True,
        dag: DAG | None = None,
        **arguments: Unpack[OperatorArguments],
    ) -> None:
        self.python_callable = python_callable
        self.op_args = op_args
        self.op_kwargs = op_kwargs
        self.multiple_outputs = multiple_outputs
        self.do_xcom_push = do_xcom_push
        self._passed: dict[str, Any] = {"args": [], "kwargs": {}}
        super().__init__(task_id=task_id, dag=dag, **arguments)

    @property
    def output(self) -> XComArg:
        """Its result, to be passed to another task."""
        return XComArg(self)

    def _check_own(self) -> Iterable[str]:
        for name in ("multiple_outputs", "do_xcom_push"):
            try:
                values.boolean(getattr(self, name))
            except BadValue as error:
                yield f"argument {name!r}: {error}"
        found = [*self._read_passed("op_args", "args"), *self._read_passed("op_kwargs", "kwargs")]
        yield from found
        size = len(json.dumps(self._passed, ensure_ascii=False).encode())
        if size > MAX_ARGUMENTS_BYTES:
            yield (
                f"arguments 'op_args' and 'op_kwargs': expected at most {MAX_ARGUMENTS_BYTES} "
                f"bytes of JSON, got {size}; put large data into a file beside the DAG file"
            )
        problem = self._callable_problem()
        if problem:
            yield problem
        elif not found:
            yield from self._call_problems()

    def _read_passed(self, name: str, target: str) -> Iterable[str]:
        given: object = getattr(self, name)
        try:
            if given is None:
                return
            if name == "op_args" and not isinstance(given, (list, tuple)):
                raise values.bad("a list", given)
            if name == "op_kwargs" and not isinstance(given, Mapping):
                raise values.bad("a dict", given)
            encoder = Encoder(f"{JSON} or the result of a task", "make it inside the callable")
            self._passed[target] = encoder.encode(given)
            self._references += encoder.found
        except BadValue as error:
            place = "" if str(error).startswith("[") else ": "
            yield f"argument {name!r}{place}{error}"

    def _callable_problem(self) -> str:
        function: object = self.python_callable
        if not callable(function):
            return f"argument 'python_callable': expected a function, got {shown(function)}"
        if inspect.iscoroutinefunction(function):
            return (
                f"argument 'python_callable': expected a plain function, got {shown(function)}, "
                "which is async; call asyncio.run in a plain one"
            )
        if inspect.isgeneratorfunction(function):
            return (
                f"argument 'python_callable': expected a function that returns, got "
                f"{shown(function)}, which yields; return a list"
            )
        return ""

    def _call_problems(self) -> Iterable[str]:
        names = dict.fromkeys(context.NAMES)
        try:
            context.wanted(
                self.python_callable, self._passed["args"], self._passed["kwargs"], names
            )
        except TypeError as error:
            name = getattr(self.python_callable, "__name__", shown(self.python_callable))
            yield (
                f"expected arguments that {name} takes, got: {error}; "
                "give them in op_args and op_kwargs"
            )

    def _own_arguments(self) -> dict[str, Any]:
        return {
            **self._passed,
            "env": self._env(),
            "cwd": self._arguments["cwd"],
            "python": self._arguments["python"],
            "meaning": self.meaning,
            "multiple_outputs": self.multiple_outputs,
            "push": self.do_xcom_push,
        }


class BranchPythonOperator(PythonOperator):
    """Its callable returns the task_id, or a list of them, to go on with directly below it; the
    other tasks directly below are skipped. ``None`` and ``[]`` skip all of them."""

    meaning = "branch"


class ShortCircuitOperator(PythonOperator):
    """Everything below is skipped if its callable returns something false.

    With ``ignore_downstream_trigger_rules=False`` only the tasks directly below are, and further
    ones follow their trigger rules.
    """

    meaning = "short_circuit"

    def __init__(
        self,
        *,
        task_id: str,
        python_callable: Callable[..., object],
        ignore_downstream_trigger_rules: bool = True,
        **arguments: Any,
    ) -> None:
        self.ignore_downstream_trigger_rules = ignore_downstream_trigger_rules
        super().__init__(task_id=task_id, python_callable=python_callable, **arguments)

    def _check_own(self) -> Iterable[str]:
        try:
            values.boolean(self.ignore_downstream_trigger_rules)
        except BadValue as error:
            yield f"argument 'ignore_downstream_trigger_rules': {error}"
        yield from super()._check_own()

    def _own_arguments(self) -> dict[str, Any]:
        whole = self.ignore_downstream_trigger_rules
        return {**super()._own_arguments(), "meaning": "short_circuit" if whole else "gate"}
