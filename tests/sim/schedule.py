"""Virtual time: calls happen at their moments, those of one moment in the order they were made."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Protocol

Call = Callable[[], None]


class Timer:
    """A call to come. Cancelling it twice, or after it has happened, is harmless."""

    __slots__ = ("call",)

    def __init__(self, call: Call) -> None:
        self.call: Call | None = call

    def cancel(self) -> None:
        self.call = None


class Cancellable(Protocol):
    def cancel(self) -> None: ...


class Clock(Protocol):
    """What the model broker needs of time, virtual or not."""

    @property
    def now(self) -> float: ...

    def at(self, when: float, call: Call) -> Cancellable: ...


class Schedule:
    """The heap of everything that is still to happen. ``now`` is in seconds, from 0."""

    def __init__(self) -> None:
        self.now = 0.0
        self.events = 0
        """How many calls have happened."""
        self._heap: list[tuple[float, int, Timer]] = []
        self._made = 0

    def at(self, when: float, call: Call) -> Timer:
        """Call *call* at *when*, which is not past."""
        timer = Timer(call)
        self._made += 1
        heapq.heappush(self._heap, (max(self.now, when), self._made, timer))
        return timer

    def after(self, delay: float, call: Call) -> Timer:
        """Call *call* in *delay* seconds."""
        return self.at(self.now + delay, call)

    def step(self) -> bool:
        """Let the next thing happen; whether there was one."""
        while self._heap:
            when, _, timer = heapq.heappop(self._heap)
            call = timer.call
            if call is not None:
                timer.call = None
                self.now = when
                self.events += 1
                call()
                return True
        return False
