"""What tasks take of agents, and the tasks of one queue on their way there."""

from __future__ import annotations

import heapq
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple

Rank = tuple[int, int, int]
"""(-priority_weight, run, task_pk): the lowest goes first."""


class Shape(NamedTuple):
    """What a task takes of its agent, or an agent has."""

    slots: int
    gpus: int

    def fits(self, room: Shape) -> bool:
        """Whether *room* is enough for it."""
        return self.slots <= room.slots and self.gpus <= room.gpus

    def plus(self, other: Shape, times: int = 1) -> Shape:
        """The sum; with ``times=-1`` the difference."""
        return Shape(self.slots + times * other.slots, self.gpus + times * other.gpus)


NOTHING = Shape(0, 0)
#: What nearly every task takes.
ONE = Shape(1, 0)


@dataclass(frozen=True, slots=True)
class Hold:
    """Room of an agent that is kept for one task, until there is enough of it."""

    task_pk: int
    shape: Shape
    rank: Rank


@dataclass(slots=True)
class Missing:
    """A queued row that the broker showed no message for."""

    try_number: int
    marker: int
    read_up: bool = False
    """The marker came back: claims sent before it have been read."""


@dataclass(slots=True)
class QueueState:
    """One queue's tasks on their way to agents."""

    name: str
    ready: dict[Shape, list[Rank]] = field(default_factory=dict)
    """Heaps of scheduled tasks: where the first of a shape has no room, no other of it has."""
    queued: dict[int, Shape] = field(default_factory=dict)
    """Published, or to be published: rows in state queued, and what they will take of the room
    that agents show."""
    awaited: Shape = NOTHING
    """The sum of these."""
    parked: set[int] = field(default_factory=set)
    """Scheduled tasks that an agent had no room for; they wait for a slot to become free."""
    missing: dict[int, Missing] = field(default_factory=dict)
    """By task_pk: queued rows under suspicion."""

    def best(self, stuck: Collection[Shape] = ()) -> tuple[Rank, Shape] | None:
        """The first of the scheduled tasks, those of the shapes *stuck* left out."""
        heads = ((heap[0], shape) for shape, heap in self.ready.items() if shape not in stuck)
        return min(heads, default=None)

    def push(self, rank: Rank, shape: Shape) -> None:
        """Add a scheduled task."""
        heapq.heappush(self.ready.setdefault(shape, []), rank)

    def pop(self, shape: Shape) -> None:
        """Remove the first one of *shape*."""
        heapq.heappop(self.ready[shape])
        if not self.ready[shape]:
            del self.ready[shape]

    def enqueue(self, task_pk: int, shape: Shape) -> None:
        """A row comes into state queued."""
        self.queued[task_pk] = shape
        self.awaited = self.awaited.plus(shape)

    def dequeue(self, task_pk: int) -> None:
        """A row leaves it."""
        self.awaited = self.awaited.plus(self.queued.pop(task_pk, NOTHING), -1)
        self.missing.pop(task_pk, None)
