"""flow runs workflows on named machines. What a DAG file needs is imported from here::

    from flow import DAG, BashOperator, chain

The names are resolved on first use, so that ``import flow`` costs a daemon or a task nothing.
Standard library only: this package is imported under the user's own interpreter.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flow.authoring.chain import chain
    from flow.authoring.dag import DAG
    from flow.authoring.operators import BashOperator

__all__ = ["DAG", "BashOperator", "chain"]

_HOME = {
    "DAG": "flow.authoring.dag",
    "BashOperator": "flow.authoring.operators",
    "chain": "flow.authoring.chain",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'flow' has no attribute {name!r}")
    value: object = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
