"""What a callable may ask for by the names of its parameters, beside its own arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

#: The names; :mod:`flow.runtime.context` has their values. Templates have them, too.
NAMES = (
    *("ti", "task_instance", "task", "dag", "dag_run", "run_id", "params", "conf", "var"),
    *("logical_date", "data_interval_start", "data_interval_end"),
    *("ds", "ds_nodash", "ts", "ts_nodash", "macros"),
)

_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def wanted(
    function: Callable[..., object],
    args: Sequence[object],
    kwargs: Mapping[str, object],
    context: Mapping[str, Any],
) -> dict[str, Any]:
    """What of *context* is added to a call with *args* and *kwargs*: parameters of these names
    that are not given, everything else of it for ``**kwargs``.

    Raises :class:`TypeError` when the call lacks something, or has too much.
    """
    try:
        signature = inspect.signature(function)
    except ValueError:  # some of C have none
        return {}
    given = signature.bind_partial(*args, **kwargs).arguments
    added = {}
    takes_all = False
    for name, parameter in signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            takes_all = True
        elif parameter.kind in _VARIABLE or parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            continue
        elif name in context and name not in given:
            added[name] = context[name]
    if takes_all:
        added |= {
            name: value
            for name, value in context.items()
            if name not in kwargs and name not in signature.parameters
        }
    signature.bind(*args, **{**kwargs, **added})
    return added
