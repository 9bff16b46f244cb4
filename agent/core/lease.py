"""The lease, as its agent counts it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Lease:
    """Of the present session. *trusted*: L - M, the seconds for which the sending of a confirmed
    hello or heartbeat counts."""

    trusted: float
    deadline: float | None = None
    """When it ends. None before the session's first confirmed hello."""
    held: bool = False
    """The broker holds this link's publishers back: it has an alarm, and takes nothing."""
    _held_from: float | None = None
    """Some moment before it began to."""

    def over(self, now: float) -> bool:
        """Nothing may be sent, confirmed or started any more."""
        return self.deadline is not None and now >= self.deadline

    def renew(self, sent_at: float) -> bool:
        """What was sent at *sent_at* has been confirmed. Whether the lease ends later for it."""
        deadline = sent_at + self.trusted
        if self.deadline is not None and deadline <= self.deadline:
            return False
        self.deadline = deadline
        return True

    def hold(self, proven: float) -> float | None:
        """The broker has held publishers back for *proven* seconds, certainly. The moment that
        counts like a sending, or None. A dispatcher's pulses are stuck as long
        (``dispatcher.core.leases``), so time for which that is proven uses up no lease.

        It is counted from the last confirmed sending, which was before it began; never from now:
        this proof may have waited in a buffer.
        """
        if proven == 0.0 and self.deadline is not None:
            self._held_from = self.deadline - self.trusted
        if self._held_from is None:
            return None
        self.held = True
        return self._held_from + proven

    def released(self) -> None:
        """The broker takes messages: it has confirmed one, or the connection is another."""
        self.held = False

    def link_lost(self) -> None:
        """Whatever the broker did to this connection is over."""
        self.held, self._held_from = False, None
