"""One agent's connection: what is open on it, what was sent on it, and when it greets again."""

from __future__ import annotations

from dataclasses import dataclass, field

from msgspec.structs import replace

from agent.core import effects as do
from flow import wire


@dataclass(slots=True)
class Link:
    """Times in seconds, CLOCK_BOOTTIME. *incarnation* is in every message."""

    incarnation: str
    up: bool = False
    greeted: bool = False
    """The broker has confirmed a hello on this link: everything else may follow it."""
    consuming: bool = False
    hello_due: float | None = None
    hello_not_before: float = 0.0
    hello_sent: float = 0.0
    heartbeat_due: float = 0.0
    _refs: int = 0
    _sent: dict[int, tuple[wire.Event, float]] = field(default_factory=dict)

    def opened(self, now: float) -> None:
        """The connection is there, and nothing has been said on it."""
        self.up = True
        self.greet_again(now)

    def greet_again(self, now: float) -> None:
        """A hello is wanted, as soon as one may follow the last."""
        self.hello_due = max(now, self.hello_not_before)

    def lost(self) -> None:
        """The connection is gone, or about to be: what was sent on it is confirmed no more."""
        self.up = self.greeted = self.consuming = False
        self.hello_due = None
        self._sent.clear()

    def send(self, message: wire.Event, now: float, expiration: float | None) -> do.Send:
        """The effect that sends *message*. *expiration*: seconds it is of use."""
        self._refs += 1
        message = replace(message, incarnation=self.incarnation)
        self._sent[self._refs] = (message, now)
        return do.Send(self._refs, message, expiration)

    def settled(self, ref: int) -> tuple[wire.Event | None, float]:
        """The broker has confirmed or returned this one: the message, if it was sent on this very
        connection, and when."""
        return self._sent.pop(ref, (None, 0.0))
