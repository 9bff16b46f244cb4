"""One direction of a connection: everything arrives in order, some time later, or is lost."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from tests.sim.schedule import Call, Clock

Receive = Callable[[Call], None]


def at_once(call: Call) -> None:
    """Receive without a process that could be stopped or dead."""
    call()


class Pipe:
    """*delay*: seconds on the way, asked for each frame. Who is at its end gets frames through
    *receive*."""

    def __init__(
        self, clock: Clock, delay: Callable[[], float], receive: Receive = at_once
    ) -> None:
        self._clock = clock
        self._delay = delay
        self._receive = receive
        self._flight: deque[Call] = deque()
        self._last = 0.0
        self._holds = 0
        self._due = 0
        self._open = True

    def send(self, call: Call) -> None:
        """Put a frame, which is what happens when it arrives, on its way."""
        if self._open:
            self._flight.append(call)
            when = self._clock.now + self._delay()
            self._last = when = max(when, self._last)
            self._clock.at(when, self._arrive)

    def hold(self) -> None:
        """Nothing arrives until :meth:`release`; as often as it was held."""
        self._holds += 1

    def release(self) -> None:
        """What was held arrives now, in order."""
        self._holds -= 1
        if not self._holds:
            due, self._due = self._due, 0
            for _ in range(due):
                self._clock.at(self._clock.now, self._arrive)

    def lose(self, keep: int) -> None:
        """Of what is on its way only the first *keep* frames arrive."""
        while len(self._flight) > keep:
            self._flight.pop()

    def close(self) -> None:
        """Nothing more is sent; what is on its way arrives."""
        self._open = False

    @property
    def in_flight(self) -> int:
        return len(self._flight)

    def _arrive(self) -> None:
        if self._holds:
            self._due += 1
        elif self._flight:
            self._receive(self._flight.popleft())
