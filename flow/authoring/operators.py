"""Operators: what a task does, and the arrows between tasks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from flow.authoring import collect, values
from flow.authoring.dag import DAG
from flow.authoring.defaults import read_arguments, read_default_args
from flow.authoring.references import XComArg
from flow.dagspec import Resources, TaskSpec
from flow.names import TASK_ID

if TYPE_CHECKING:
    from typing import Unpack

    from flow.authoring.defaults import OperatorArguments

#: A task, or the result of one, which stands for it beside an arrow.
Step: TypeAlias = "Operator | XComArg"

_Tasks = TypeVar("_Tasks", bound="Step | Sequence[Step]")


class Operator:
    """What all operators share; see the concrete ones.

    A task belongs to ``dag``, else to the DAG of the ``with`` block around it.
    """

    #: How :class:`~flow.dagspec.TaskSpec` names this kind.
    kind = ""

    def __init__(
        self, *, task_id: str, dag: DAG | None = None, **arguments: Unpack[OperatorArguments]
    ) -> None:
        self.task_id = values.label(task_id)
        self.location = collect.caller()
        self.upstream_task_ids: set[str] = set()
        self.downstream_task_ids: set[str] = set()
        self._references: list[XComArg] = []
        problems: list[str] = []
        self.dag = self._find_dag(dag, problems)
        if problem := TASK_ID.problem(task_id):
            problems.append(f"argument 'task_id': {problem}")
        defaults = self.dag.default_args if self.dag else read_default_args(None, [])[0]
        self._arguments = read_arguments(type(self).__name__, arguments, defaults, problems)
        problems.extend(self._check_own())
        if self.dag:
            self.dag.add_task(self)
        collect.report(*(f"{self.where()}: {problem}" for problem in problems))
        self._references += [
            value for value in (self._arguments["env"] or {}).values() if isinstance(value, XComArg)
        ]
        for reference in self._references:
            connect(reference.operator, self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.task_id}>"

    def __rshift__(self, other: _Tasks) -> _Tasks:
        """``self >> other``: *other*, a task or a list of them, runs after this one."""
        self.set_downstream(other)
        return other

    def __lshift__(self, other: _Tasks) -> _Tasks:
        """``self << other``: this one runs after *other*."""
        self.set_upstream(other)
        return other

    def __rrshift__(self, other: Sequence[Step]) -> Operator:
        """``[a, b] >> self``."""
        self.set_upstream(other)
        return self

    def __rlshift__(self, other: Sequence[Step]) -> Operator:
        """``[a, b] << self``."""
        self.set_downstream(other)
        return self

    def set_downstream(self, other: Step | Sequence[Step]) -> None:
        """*other*, a task or a list of them, runs after this one."""
        for task in tasks_of(other, self):
            connect(self, task)

    def set_upstream(self, other: Step | Sequence[Step]) -> None:
        """This one runs after *other*, a task or a list of them."""
        for task in tasks_of(other, self):
            connect(task, self)

    @property
    def owner(self) -> str:
        """Who is asked about it."""
        return str(self._arguments["owner"])

    def where(self) -> str:
        """``file:line: DAG 'x', task 'y'``, the beginning of messages about this task."""
        if self.dag:
            return self.dag.where(self.task_id, self.location)
        return f"{self.location}: task {self.task_id!r}"

    def spec(self) -> TaskSpec:
        """This task as data."""
        given = self._arguments
        return TaskSpec(
            task_id=self.task_id,
            operator=self.kind,
            arguments=self._own_arguments(),
            upstream=tuple(sorted(self.upstream_task_ids)),
            queue=given["queue"],
            retries=given["retries"],
            retry_delay=given["retry_delay"],
            execution_timeout=given["execution_timeout"],
            priority_weight=given["priority_weight"],
            on_agent_lost=given["on_agent_lost"],
            trigger_rule=given["trigger_rule"],
            depends_on_past=given["depends_on_past"],
            resources=Resources(
                slots=given["slots"],
                gpus=given["gpus"],
                memory=given["memory"],
                cpus=given["cpus"],
                pids=given["pids"],
            ),
            owner=given["owner"],
            line=self.location.line,
        )

    def _find_dag(self, given: object, problems: list[str]) -> DAG | None:
        if isinstance(given, DAG):
            return given
        if given is not None:
            problems.append(f"argument 'dag': expected a DAG, got {values.shown(given)}")
            return collect.open_dag()
        dag = collect.open_dag()
        if dag is None:
            problems.append(
                "expected a DAG for the task, got None; "
                "write it inside `with DAG(...):` or add dag="
            )
        return dag

    def _check_own(self) -> Iterable[str]:
        """Problems with the arguments of the concrete operator."""
        return ()

    def _own_arguments(self) -> dict[str, Any]:
        """What the agent needs to run it; the shape belongs to :attr:`kind`."""
        return {}

    def _env(self) -> dict[str, str]:
        """``env`` as texts, results of other tasks as templates."""
        return {name: str(value) for name, value in (self._arguments["env"] or {}).items()}


class BashOperator(Operator):
    """Runs ``bash_command`` in a bash on a node that serves ``queue``.

    ``retries`` more tries after a failure, ``retry_delay`` apart; ``execution_timeout`` ends one
    try (both are timedeltas or seconds). ``env`` is added to the task's environment, ``cwd`` is an
    absolute path on the node, or begins with ``~/``. Among the waiting tasks of a queue, the one
    with the highest ``priority_weight`` goes first. ``on_agent_lost`` says what happens when the
    node vanishes: ``"rerun"``, ``"fail"``, or ``"wait"`` until it is known to have ended.
    ``trigger_rule`` says after which ends of the tasks above it begins; with ``depends_on_past``
    it also waits for itself in the DAG's previous run by schedule. It takes ``slots`` of the
    agent's and ``gpus`` of its devices, and is held to ``memory`` (``"4G"``), ``cpus`` and
    ``pids`` where the node can do that. Templates in
    ``bash_command`` and ``env`` are rendered on the node.
    """

    kind = "bash"

    def __init__(
        self,
        *,
        task_id: str,
        bash_command: str | values.Later,
        dag: DAG | None = None,
        **arguments: Unpack[OperatorArguments],
    ) -> None:
        self.bash_command = bash_command
        super().__init__(task_id=task_id, dag=dag, **arguments)

    def _check_own(self) -> Iterable[str]:
        if isinstance(self.bash_command, XComArg):
            self._references.append(self.bash_command)
        try:
            values.command(self._command())
        except values.BadValue as error:
            yield f"argument 'bash_command': {error}"

    def _own_arguments(self) -> dict[str, Any]:
        command, env = self._command(), self._env()
        arguments = {"command": command, "env": env, "cwd": self._arguments["cwd"]}
        if any(values.is_template(text) for text in (command, *env.values())):
            # A command without templates needs no Python on the node.
            return {**arguments, "templated": True}
        return arguments

    def _command(self) -> Any:
        """The command, as a template where it is the result of a task."""
        given = self.bash_command
        return str(given) if isinstance(given, values.Later) else given


class EmptyOperator(Operator):
    """Does nothing: a place for arrows to meet. No process is started for it."""

    kind = "empty"


def tasks_of(value: object, beside: Operator | None = None) -> list[Operator]:
    """*value*, a task or a list of tasks, as a list. Anything else is reported; *beside* is the
    task on the other side of the arrow."""
    items = list(value) if isinstance(value, (list, tuple)) else [value]
    items = [item.operator if isinstance(item, XComArg) else item for item in items]
    wrong = [item for item in items if not isinstance(item, Operator)]
    if wrong:
        place = str(collect.caller())
        if beside is not None and beside.dag:
            place = beside.dag.where(beside.task_id, collect.caller())
        collect.report(
            *(
                f"{place}: expected a task or a list of tasks beside the arrow, "
                f"got {values.shown(item)}"
                for item in wrong
            )
        )
    return [item for item in items if isinstance(item, Operator)]


def connect(upstream: Operator, downstream: Operator) -> None:
    """Draw one arrow. A second one between the same two changes nothing."""
    if upstream.dag is not downstream.dag:
        if upstream.dag and downstream.dag:  # a task without a DAG has its own message
            collect.report(
                f"{collect.caller()}: expected tasks of one DAG beside the arrow, got "
                f"{upstream.task_id!r} of DAG {upstream.dag.dag_id!r} and "
                f"{downstream.task_id!r} of DAG {downstream.dag.dag_id!r}; "
                "put both tasks into one DAG"
            )
        return
    upstream.downstream_task_ids.add(downstream.task_id)
    downstream.upstream_task_ids.add(upstream.task_id)
