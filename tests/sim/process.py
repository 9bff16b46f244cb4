"""A process of the operating system, as the world deals with it: stopped, continued, killed."""

from __future__ import annotations

from random import Random

from tests.sim.schedule import Call, Schedule, Timer


class Crashed(Exception):
    """The process that is being executed was killed: nothing more of it happens."""


class Process:
    """What happens to it waits while it is stopped, and is lost once it is dead."""

    def __init__(self, schedule: Schedule, rng: Random) -> None:
        self.alive = True
        self.paused = False
        self._schedule = schedule
        self._rng = rng
        self._depth = 0
        self._arrived: list[Call] = []
        self._fired: list[Call] = []

    def receive(self, call: Call) -> None:
        """Something reaches it from outside."""
        if self.paused:
            self._arrived.append(call)
        elif self.alive:
            self._execute(call)

    def after(self, delay: float, call: Call) -> Timer:
        """A timer of its own."""
        return self._schedule.after(delay, lambda: self._fire(call))

    def at(self, when: float, call: Call) -> Timer:
        """A timer of its own."""
        return self._schedule.at(when, lambda: self._fire(call))

    def _fire(self, call: Call) -> None:
        if self.paused:
            self._fired.append(call)
        elif self.alive:
            self._execute(call)

    def _execute(self, call: Call) -> None:
        self._depth += 1
        try:
            call()
        except Crashed:
            if self.alive or self._depth > 1:
                raise
        finally:
            self._depth -= 1

    def pause(self) -> None:
        """SIGSTOP. What is being executed is done first."""
        self.paused = True

    def resume(self) -> None:
        """SIGCONT: an event loop takes what has come in and its timers in either order."""
        if not self.paused:
            return
        self.paused = False
        arrived, fired = self._arrived, self._fired
        self._arrived, self._fired = [], []
        for call in fired + arrived if self._rng.random() < 0.5 else arrived + fired:
            self.receive(call)

    def kill(self) -> None:
        """SIGKILL. Raises :class:`Crashed` where it is its own code that led here."""
        self.alive = self.paused = False
        self._arrived, self._fired = [], []

    def unwind(self) -> None:
        """To be called once the world has taken note of the death."""
        if self._depth and not self.alive:
            raise Crashed
