"""Questions about a graph of names, without recursion: a chain may be 10,000 tasks long."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def find_cycle(downstream: Mapping[str, Iterable[str]]) -> tuple[str, ...]:
    """A way from a node back to itself (first and last are the same), or ``()``.

    The answer depends on the order of *downstream* only. Every target must be a key.
    """
    done: set[str] = set()
    for root in downstream:
        if root in done:
            continue
        path = {root: None}  # a dict for its order
        ways = [iter(downstream[root])]
        while ways:
            node = next(ways[-1], None)
            if node is None:
                ways.pop()
                done.add(path.popitem()[0])
            elif node in path:
                nodes = list(path)
                return (*nodes[nodes.index(node) :], node)
            elif node not in done:
                path[node] = None
                ways.append(iter(downstream[node]))
    return ()
