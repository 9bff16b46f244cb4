"""What the keeper remembers of one task. Times are CLOCK_BOOTTIME seconds but for people's."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent.keeper.cgroups import Cgroup


class Task:
    """One started task, from its start until its tree is proven dead."""

    __slots__ = (
        "alone",
        "cgroup",
        "cpu",
        "doomed_at",
        "duration",
        "ended_at",
        "grace",
        "keep",
        "kill_at",
        "lapsed",
        "pid",
        "reason",
        "reported",
        "started",
        "status",
        "timeout",
        "token",
        "usage",
    )

    def __init__(
        self,
        token: int,
        pid: int,
        *,
        keep: bool,
        timeout: float | None,
        grace: float,
        now: float,
        cgroup: Cgroup | None = None,
    ) -> None:
        self.token = token
        self.pid = pid
        self.cgroup = cgroup
        self.usage: dict[str, float | str | None] = {}  # of its cgroup, once it is dead
        self.keep = keep
        self.timeout = timeout
        self.grace = grace
        self.started = now
        self.status: int | None = None  # of the main process, as from waitpid
        self.ended_at = 0.0
        self.duration = 0.0
        self.cpu = 0.0
        self.kill_at: float | None = None  # when TERM becomes KILL
        self.reason = ""
        self.lapsed = False
        self.doomed_at: float | None = None  # since when its processes get SIGKILL
        self.reported = False
        self.alone = False  # what leaves neither session nor environment behind is none of its

    def doomed(self, now: float) -> bool:
        """Whether everything of it that is alive is to die at once."""
        if self.kill_at is None:
            return self.status is not None
        return self.kill_at <= now
