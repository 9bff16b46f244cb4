"""Shapes of DAGs, as numbers of upstream tasks; task n names only lower numbers.

None, line, star, binary tree and grid are the five of Airflow's own performance suite.
"""

from __future__ import annotations

import math
import random

Shape = tuple[tuple[int, ...], ...]


def none(tasks: int) -> Shape:
    """No dependencies at all."""
    return ((),) * tasks


def line(tasks: int) -> Shape:
    """Each task after the one before it."""
    return tuple((n - 1,) if n else () for n in range(tasks))


def star(tasks: int) -> Shape:
    """All tasks after the first."""
    return tuple((0,) if n else () for n in range(tasks))


def binary_tree(tasks: int) -> Shape:
    """Each task is followed by two."""
    return tuple(((n - 1) // 2,) if n else () for n in range(tasks))


def grid(tasks: int) -> Shape:
    """Rows of the square root of *tasks*; a task is after its neighbours to the left and above."""
    width = math.isqrt(tasks)
    shape = []
    for n in range(tasks):
        left = (n - 1,) if n % width else ()
        above = (n - width,) if n >= width else ()
        shape.append(tuple(sorted((*left, *above))))
    return tuple(shape)


def fan(tasks: int) -> Shape:
    """One, then *tasks* side by side, then one that joins them."""
    return ((), *(((0,),) * tasks), tuple(range(1, tasks + 1)))


def scattered(tasks: int, seed: int = 6) -> Shape:
    """Each task after up to three earlier ones, chosen among the last hundred."""
    chosen = random.Random(seed)  # noqa: S311 - the same graph every time is the point
    shape: list[tuple[int, ...]] = [()]
    for n in range(1, tasks):
        window = range(max(0, n - 100), n)
        shape.append(tuple(sorted(chosen.sample(window, min(len(window), chosen.randint(0, 3))))))
    return tuple(shape)


#: By the names in the tables.
FIVE = {"none": none, "line": line, "star": star, "binary tree": binary_tree, "grid": grid}
