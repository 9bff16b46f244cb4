"""The arguments that all tasks take, and how a DAG's ``default_args`` fill them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flow.authoring import values
from flow.authoring.carried import DAG_ARGUMENTS, TASK_ARGUMENTS
from flow.authoring.values import BadValue, Check, shown
from flow.dagspec import TRIGGER_RULES
from flow.errors import nearest

if TYPE_CHECKING:
    from datetime import timedelta
    from os import PathLike
    from typing import Literal, TypedDict

    class OperatorArguments(TypedDict, total=False):
        """The same table for editors and type checkers."""

        queue: str
        retries: int
        retry_delay: timedelta | float
        execution_timeout: timedelta | float | None
        env: Mapping[str, str | values.Later] | None
        cwd: str | PathLike[str] | None
        priority_weight: int
        on_agent_lost: Literal["rerun", "fail", "wait"]
        trigger_rule: str
        depends_on_past: bool
        python: str | PathLike[str] | None
        slots: int
        gpus: int
        memory: str | int | None
        cpus: float | None
        pids: int | None
        owner: str


@dataclass(frozen=True)
class Argument:
    """One argument of a task: what it is when nobody gives it, and which values it takes."""

    default: object
    check: Check


OPERATOR_ARGUMENTS: Mapping[str, Argument] = {
    "queue": Argument("default", values.queue),
    "retries": Argument(0, values.integer(0)),
    "retry_delay": Argument(300.0, values.seconds(positive=False)),
    "execution_timeout": Argument(None, values.optional(values.seconds(positive=True))),
    "env": Argument(None, values.optional(values.environment)),
    "cwd": Argument(None, values.optional(values.directory)),
    "priority_weight": Argument(1, values.integer(-values.MAX_INTEGER - 1)),
    "on_agent_lost": Argument("rerun", values.one_of("rerun", "fail", "wait")),
    "trigger_rule": Argument("all_success", values.one_of(*TRIGGER_RULES)),
    "depends_on_past": Argument(False, values.boolean),  # noqa: FBT003  a default like the others
    "python": Argument(None, values.optional(values.interpreter)),
    "slots": Argument(1, values.integer(1, 10_000)),
    "gpus": Argument(0, values.integer(0, 1_000)),
    "memory": Argument(None, values.optional(values.memory)),
    "cpus": Argument(None, values.optional(values.cpus)),
    "pids": Argument(None, values.optional(values.integer(1))),
    "owner": Argument("flow", values.owner),
}

_DATES = ("start_date", "end_date")
_OF_DAG = ("schedule", "catchup", "max_active_runs", "max_active_tasks", "tags", "timezone")


def read_default_args(
    given: object, problems: list[str]
) -> tuple[dict[str, Any], Mapping[str, object]]:
    """The value of every task argument where the task gives none, and the dates found.

    What is wrong goes to *problems*.
    """
    merged = {name: argument.default for name, argument in OPERATOR_ARGUMENTS.items()}
    if given is None:
        return merged, {}
    if not isinstance(given, Mapping):
        problems.append(f"argument 'default_args': expected a dict, got {shown(given)}")
        return merged, {}
    for name, value in given.items():
        if name in OPERATOR_ARGUMENTS:
            try:
                merged[name] = OPERATOR_ARGUMENTS[name].check(value)
            except BadValue as error:
                problems.append(f"default_args {name!r}: {error}")
        elif name not in _DATES and (problem := _unused("default_args", name, value)):
            problems.append(problem)
    return merged, {name: given[name] for name in _DATES if name in given}


def read_arguments(
    kind: str, given: Mapping[str, object], defaults: Mapping[str, Any], problems: list[str]
) -> dict[str, Any]:
    """The value of every argument of one task: its own, else the default. *kind* is the
    operator's name; what is wrong goes to *problems*."""
    merged = dict(defaults)
    for name, value in given.items():
        if name in OPERATOR_ARGUMENTS:
            try:
                merged[name] = OPERATOR_ARGUMENTS[name].check(value)
            except BadValue as error:
                problems.append(f"argument {name!r}: {error}")
        elif name in _DATES:
            if value is not None:
                problems.append(
                    f"expected no {name!r}, got {shown(value)}; "
                    "tasks have no dates of their own, give it to the DAG"
                )
        elif problem := _unused(kind, name, value):
            problems.append(problem)
    return merged


def unknown_argument(kind: str, name: object, known: Iterable[str], carried: Iterable[str]) -> str:
    """The message for an argument that nobody knows, with the nearest one."""
    known = sorted(known)
    hint = nearest(str(name), known) or nearest(str(name), carried)
    remedy = hint or f"; known are {', '.join(known)}"
    return f"expected an argument of {kind}, got {shown(name)}{remedy}"


def _unused(kind: str, name: object, value: object) -> str | None:
    if isinstance(name, str):
        if name in TASK_ARGUMENTS:
            return TASK_ARGUMENTS.problem(name, value)
        if name in _OF_DAG or name in DAG_ARGUMENTS:
            return f"expected an argument of {kind}, got {name!r}, which is for DAG; move it there"
    return unknown_argument(kind, name, OPERATOR_ARGUMENTS, TASK_ARGUMENTS.names())
