"""Values that are known only when a task runs: results of other tasks, parameters of the run.

In the DAG file they are objects; as data they are JSON objects with the one key MARK, which no
other argument may have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from flow.authoring.values import BadValue, Later, bad, shown, text

if TYPE_CHECKING:
    from flow.authoring.operators import Operator, Step

MARK = "__flow__"
#: Under which key the result of a callable is kept.
RETURN_VALUE = "return_value"
_DEEPEST = 64
_LEAST_INTEGER, _GREATEST_INTEGER = -(2**63), 2**64 - 1


class XComArg(Later):
    """The result of a task, to be passed to another one, which then runs after it.

    ``result["key"]`` is what the task pushed under *key*: one entry of the dict that it returned
    with ``multiple_outputs``, or what ``ti.xcom_push`` was given. In a text it stands as a
    template, ``f"echo {result}"``, and draws no arrow.
    """

    def __init__(self, operator: Operator, key: str = RETURN_VALUE) -> None:
        self.operator = operator
        self.key = key

    def __getitem__(self, key: str) -> XComArg:
        """What was pushed under *key*."""
        if not isinstance(key, str):
            raise TypeError(f"expected the key of a result, a text, got {shown(key)}")
        return XComArg(self.operator, key)

    def __iter__(self) -> NoReturn:
        """A result is not there before the task has run."""
        raise TypeError(
            f"expected nothing that needs the result of task {self.operator.task_id!r} while the "
            "DAG file is read, got a loop over it; pass it to another task"
        )

    def __str__(self) -> str:
        """A template that is rendered to it."""
        return f"{{{{ ti.xcom_pull(task_ids={self.operator.task_id!r}, key={self.key!r}) }}}}"

    def __repr__(self) -> str:
        return f"<result {self.key!r} of {self.operator!r}>"

    def __rshift__(self, other: Step | Sequence[Step]) -> Any:
        """As with the task itself."""
        return self.operator >> other

    def __lshift__(self, other: Step | Sequence[Step]) -> Any:
        """As with the task itself."""
        return self.operator << other

    def __rrshift__(self, other: Sequence[Step]) -> XComArg:
        """As with the task itself."""
        self.operator.set_upstream(other)
        return self

    def __rlshift__(self, other: Sequence[Step]) -> XComArg:
        """As with the task itself."""
        self.operator.set_downstream(other)
        return self

    def as_data(self) -> dict[str, Any]:
        """The mark that the runtime replaces."""
        return {MARK: {"task_id": self.operator.task_id, "key": self.key}}


class ParamArg(Later):
    """A parameter of the run: the DAG's ``params``, or what the run's conf has instead."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __str__(self) -> str:
        """A template that is rendered to it."""
        return f"{{{{ params[{self.name!r}] }}}}"

    def __repr__(self) -> str:
        return f"<param {self.name!r}>"

    def as_data(self) -> dict[str, Any]:
        """The mark that the runtime replaces."""
        return {MARK: {"param": self.name}}


class Encoder:
    """Makes JSON of what users pass. Every refusal is a :class:`BadValue` that says where in the
    value it is, as ``['a'][0]``, and ends with *remedy*."""

    def __init__(self, expected: str, remedy: str) -> None:
        self._expected = expected
        self._remedy = remedy
        self.found: list[XComArg] = []
        """The results of other tasks that were met."""

    def encode(self, value: object, place: str = "", depth: int = 0) -> Any:
        """*value* as JSON can carry it, with marks for what is known only when a task runs."""
        where = f"{place}: " if place else ""
        if depth > _DEEPEST:
            raise BadValue(
                f"{where}expected at most {_DEEPEST} lists and dicts in each other, got more"
            )
        if isinstance(value, XComArg):
            self.found.append(value)
            return value.as_data()
        if isinstance(value, ParamArg):
            return value.as_data()
        if isinstance(value, Mapping):
            return {
                self._key(key, where): self.encode(item, f"{place}[{shown(key)}]", depth + 1)
                for key, item in value.items()
            }
        if isinstance(value, (list, tuple)):
            return [
                self.encode(item, f"{place}[{index}]", depth + 1)
                for index, item in enumerate(value)
            ]
        return self._scalar(value, where)

    def _scalar(self, value: object, where: str) -> Any:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            try:
                return text(value)
            except BadValue as error:
                raise BadValue(f"{where}{error}") from None
        if isinstance(value, int):
            if _LEAST_INTEGER <= value <= _GREATEST_INTEGER:
                return int(value)
            raise BadValue(f"{where}expected a whole number of 64 bits, got {shown(value)}")
        if isinstance(value, float):
            if math.isfinite(value):
                return float(value)
            raise BadValue(f"{where}expected a number that JSON has, got {shown(value)}")
        raise BadValue(f"{where}expected {self._expected}, got {shown(value)}; {self._remedy}")

    def _key(self, key: object, where: str) -> str:
        if not isinstance(key, str):
            raise BadValue(f"{where}expected texts as keys, got {shown(key)}")
        if key == MARK:
            raise BadValue(f"{where}expected another key, got {key!r}, which is flow's own")
        return str(self._scalar(key, where))


JSON = "JSON (None, True, numbers, texts, lists and dicts of them)"


def plain_json(value: object) -> Any:
    """*value*, if it is JSON without any result in it. Raises :class:`BadValue`."""
    encoder = Encoder(JSON, "write it as a text")
    data = encoder.encode(value)
    if encoder.found:
        raise bad("a value that is known when the DAG file is read", encoder.found[0])
    return data
