"""A graph as what Celery can say: chains and groups.

Celery has no graphs. A task that waits for one other follows it in a chain, and several that wait
for one are a group at the chain's end. Where a task waits for several, the graph is done by
layers: a group of all tasks at one depth, and a chord that waits for all of them before the next.
That is more waiting than the graph asks for, but it is what can be written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

Upstream: TypeAlias = Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True)
class Steps:
    """A ``chain`` (one after the other) or a ``group`` (side by side) of at least two parts."""

    kind: Literal["chain", "group"]
    parts: tuple[Plan, ...]


Plan: TypeAlias = "int | Steps"


def plan(upstream: Upstream) -> Plan:
    """What to run for a graph in which task *n* waits for the tasks in ``upstream[n]``, all of
    lower numbers."""
    if all(len(before) <= 1 for before in upstream):
        return _forest(upstream)
    return _put("chain", [_put("group", layer) for layer in _layers(upstream)])


def _layers(upstream: Upstream) -> list[list[int]]:
    """The tasks by the length of the longest path to them."""
    depths: list[int] = []
    for before in upstream:
        depths.append(1 + max((depths[n] for n in before), default=-1))
    found: list[list[int]] = [[] for _ in range(max(depths) + 1)]
    for n, depth in enumerate(depths):
        found[depth].append(n)
    return found


def _forest(upstream: Upstream) -> Plan:
    """Trees, from their leaves up: a line of thousands would be too deep a recursion."""
    roots: list[int] = []
    followers: list[list[int]] = [[] for _ in upstream]
    for n, before in enumerate(upstream):
        (followers[before[0]] if before else roots).append(n)
    # Of each task, the steps that begin with it, the last one first.
    steps: dict[int, list[Plan]] = {}
    for n in reversed(range(len(upstream))):
        branches = [steps.pop(follower) for follower in followers[n]]
        if len(branches) == 1:
            steps[n] = branches[0]
            steps[n].append(n)
        elif branches:
            steps[n] = [_put("group", [_in_order(branch) for branch in branches]), n]
        else:
            steps[n] = [n]
    return _put("group", [_in_order(steps[root]) for root in roots])


def _in_order(backwards: Sequence[Plan]) -> Plan:
    return _put("chain", backwards[::-1])


def _put(kind: Literal["chain", "group"], parts: Sequence[Plan]) -> Plan:
    return parts[0] if len(parts) == 1 else Steps(kind, tuple(parts))
