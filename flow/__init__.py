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
    from flow.authoring.decorators import dag, task
    from flow.authoring.operators import BashOperator, EmptyOperator
    from flow.authoring.outcomes import FailTask, SkipTask
    from flow.authoring.python import (
        BranchPythonOperator,
        PythonOperator,
        ShortCircuitOperator,
    )
    from flow.runtime.variables import Variable

__all__ = [
    "DAG",
    "BashOperator",
    "BranchPythonOperator",
    "EmptyOperator",
    "FailTask",
    "PythonOperator",
    "ShortCircuitOperator",
    "SkipTask",
    "Variable",
    "chain",
    "dag",
    "task",
]

_HOME = {
    "DAG": "flow.authoring.dag",
    "BashOperator": "flow.authoring.operators",
    "BranchPythonOperator": "flow.authoring.python",
    "EmptyOperator": "flow.authoring.operators",
    "FailTask": "flow.authoring.outcomes",
    "PythonOperator": "flow.authoring.python",
    "ShortCircuitOperator": "flow.authoring.python",
    "SkipTask": "flow.authoring.outcomes",
    "Variable": "flow.runtime.variables",
    "chain": "flow.authoring.chain",
    "dag": "flow.authoring.decorators",
    "task": "flow.authoring.decorators",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'flow' has no attribute {name!r}")
    value: object = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
