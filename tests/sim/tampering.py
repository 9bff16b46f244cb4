"""Messages lost, doubled and late. Events are exempt: they are persistent, in a queue that is
replicated and has one consumer; they come back in order, or are lost with the whole broker."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from flow.topology import EVENTS
from tests.sim.queues import Message, Queue

if TYPE_CHECKING:
    from tests.sim.world import World


class Tampering:
    """What is to happen to the next messages for task and control queues."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._wanted: list[tuple[str, float]] = []

    def want(self, what: str, delay: float) -> None:
        """*what* (dropped, duplicated or late) happens to the next message."""
        self._wanted.append((what, delay))

    def look(self, queue: Queue, message: Message) -> list[Message]:
        """The copies of *message* that arrive in *queue* now."""
        if not self._wanted or queue.spec.exchange == EVENTS:
            return [message]
        what, delay = self._wanted.pop(0)
        self._world.note(what, "", message.body)
        if what == "dropped":
            return []
        copy = Message(
            message.position, message.key, message.body, message.headers, message.user, None
        )
        self._world.heal_after(delay, partial(_put_late, queue, copy))
        return [message] if what == "duplicated" else []


def _put_late(queue: Queue, message: Message) -> None:
    if not queue.gone:
        queue.put(message)
