"""``Variable``: values that operators set with ``flow variables set`` and tasks read."""

from __future__ import annotations

import json
import os
from typing import Any

from flow.errors import FlowError
from flow.runtime.client import SOCKET, ask

_NO_DEFAULT = object()


class Variable:
    """Read inside tasks; at the top of a DAG file write ``{{ var.value.x }}`` into an argument."""

    @staticmethod
    def get(name: str, default: Any = _NO_DEFAULT, *, deserialize_json: bool = False) -> Any:
        """The text of variable *name*, or the JSON value that it holds.

        Without a *default*, :class:`~flow.errors.FlowError` is raised where there is no such
        variable.
        """
        path = os.environ.get(SOCKET)
        if path is None:
            raise FlowError(
                f"variable {name!r}: expected to be read inside a task, got a process that is "
                f"none; in a DAG file write '{{{{ var.value.{name} }}}}' into an argument"
            )
        [found] = ask(path, [{"kind": "variable", "name": name}])
        if found:
            return json.loads(found[0]) if deserialize_json else found[0]
        if default is _NO_DEFAULT:
            raise FlowError(
                f"variable {name!r}: expected a known variable, got none; "
                f"set it with `flow variables set {name} VALUE`"
            )
        return default
