"""Why an agent starts nothing new for a while, and goes on with what it runs.

Three reasons, each with an end of its own. A disk that takes nothing: a result that is not on disk
is lost if the agent dies, and its task runs again. Messages of a version that this agent does not
read: what it takes it could not even answer. Somebody who wants the node drained. The first two are
the agent's own, and it says them to the dispatcher, which knows the third itself.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Suspension:
    """The disk's is begun by the first failed write, ended by a probe that succeeds. *interval*:
    seconds between two probes. The others are set by whoever learns of them."""

    interval: float
    disk: str = ""
    """What the disk said, or ``""`` while nothing is wrong."""
    unread: str = ""
    """Which messages cannot be read, or ``""`` while all can."""
    drained: str = ""
    """Why, and who says so, or ``""``."""
    probe_due: float | None = None
    """When the disk is tried again; None while that goes on, and while nothing is wrong."""

    @property
    def reason(self) -> str:
        """The agent's own reason, or ``""``."""
        return self.disk or self.unread

    @property
    def state(self) -> str:
        """``suspended``, ``drained`` or ``""``."""
        return "suspended" if self.reason else "drained" if self.drained else ""

    @property
    def refusal(self) -> str:
        """Why nothing new may start here, for people; ``""``: it may."""
        return f"the agent is {self.state}: {self.reason or self.drained}" if self.state else ""

    def begin(self, reason: str, now: float) -> bool:
        """A write failed. Whether that is news."""
        if self.disk:
            return False
        self.disk, self.probe_due = reason, now + self.interval
        return True

    def due(self, now: float) -> bool:
        """Whether the disk is to be tried now; the answer goes to :meth:`probed`."""
        if self.probe_due is None or now < self.probe_due:
            return False
        self.probe_due = None
        return True

    def probed(self, error: str, now: float) -> bool:
        """The disk was tried. Whether it takes something again."""
        if not self.disk:
            return False
        if error:
            self.disk, self.probe_due = error, now + self.interval
            return False
        self.disk, self.probe_due = "", None
        return True
