"""A node whose disk takes no more: it starts nothing new until it does again.

A result that is not on disk is lost if the agent dies, and its task runs again; so an agent that
cannot write goes on with what it runs, and takes nothing more upon itself.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Suspension:
    """Begun by the first failed write, ended by a probe that succeeds. *interval*: seconds between
    two probes."""

    interval: float
    reason: str = ""
    """What the disk said, or ``""`` while nothing is wrong."""
    probe_due: float | None = None
    """When the disk is tried again; None while that goes on, and while nothing is wrong."""

    def begin(self, reason: str, now: float) -> bool:
        """A write failed. Whether that is news."""
        if self.reason:
            return False
        self.reason, self.probe_due = reason, now + self.interval
        return True

    def due(self, now: float) -> bool:
        """Whether the disk is to be tried now; the answer goes to :meth:`probed`."""
        if self.probe_due is None or now < self.probe_due:
            return False
        self.probe_due = None
        return True

    def probed(self, error: str, now: float) -> bool:
        """The disk was tried. Whether the suspension is over."""
        if not self.reason:
            return False
        if error:
            self.reason, self.probe_due = error, now + self.interval
            return False
        self.reason, self.probe_due = "", None
        return True
