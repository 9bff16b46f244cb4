"""``chain``: many arrows in one call."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from flow.authoring import collect
from flow.authoring.operators import Operator, connect, tasks_of


def chain(*steps: Operator | Sequence[Operator]) -> None:
    """Each step runs after the one before it.

    A step is a task or a list of tasks. A task and a list are connected each with each; two lists
    in a row must be equally long and are connected pair by pair:
    ``chain(a, [b, c], [d, e], f)`` is ``a >> [b, c]; b >> d; c >> e; [d, e] >> f``.
    """
    for before, after in pairwise(steps):
        upstream, downstream = tasks_of(before), tasks_of(after)
        if isinstance(before, Operator) or isinstance(after, Operator):
            pairs = [(first, second) for first in upstream for second in downstream]
        elif len(upstream) == len(downstream):
            pairs = list(zip(upstream, downstream, strict=True))
        elif isinstance(before, (list, tuple)) and isinstance(after, (list, tuple)):
            collect.report(
                f"{collect.caller()}: expected lists of equal length side by side in chain, got "
                f"{len(upstream)} and {len(downstream)} tasks; put a task between them"
            )
            continue
        else:  # one of them is no step at all, which has been reported
            continue
        for first, second in pairs:
            connect(first, second)
