"""The way out: finish what runs, have it answered, say goodbye, stop."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from agent.core.settings import Settings


class Step(Enum):
    """What to do next on the way out."""

    WAIT = auto()
    KILL = auto()
    GOODBYE = auto()
    STOP = auto()


@dataclass(slots=True)
class Departure:
    """Begun by the first signal. The second kills what runs, the third ends the agent at once."""

    settings: Settings
    kill_at: float
    signals: int = 1
    killed: bool = False
    idle_since: float | None = None
    goodbye_until: float | None = None

    @property
    def hurried(self) -> bool:
        """More than one signal: someone is waiting."""
        return self.signals > 1

    def next(
        self, now: float, *, running: bool, greeted: bool, unanswered: bool, results: bool
    ) -> Step:
        """Decide. *unanswered*: claims, results or releases wait for the dispatcher; *results*:
        results among them."""
        if running:
            self.idle_since = None
            return Step.KILL if now >= self.kill_at and not self.killed else Step.WAIT
        if self.goodbye_until is not None:
            return Step.STOP if now >= self.goodbye_until or not greeted else Step.WAIT
        if self.idle_since is None:
            self.idle_since = now
        waited = now >= self._answers_until
        # A goodbye ends the tokens of results that nobody has read; without it the next start
        # hands them in. That the broker has them is not enough: its queue may be deleted.
        if greeted and not results and (waited or not unanswered):
            self.goodbye_until = now + self.settings.hurried_wait
            return Step.GOODBYE
        return Step.STOP if waited or not (greeted or unanswered) else Step.WAIT

    def due(self, *, running: bool) -> float | None:
        """When :meth:`next` must be asked again at the latest."""
        if running:
            return None if self.killed else self.kill_at
        if self.goodbye_until is not None:
            return self.goodbye_until
        return None if self.idle_since is None else self._answers_until

    @property
    def _answers_until(self) -> float:
        wait = self.settings.hurried_wait if self.hurried else self.settings.answer_wait
        return (self.idle_since or 0.0) + wait
