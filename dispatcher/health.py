"""How a dispatcher stands: the line that ``systemctl status`` shows, and whether it makes progress.

**Progress** is what the watchdog stands for (``flow.supervision``: the event loop itself says so,
in a turn of its own). While it leads, these are looked at on top of that:

- *timers fire*: no moment at which the core wanted to be called is more than ``PATIENCE`` past;
- *the database answers*: no call that the reign waits for (its beginning, each commit) is older
  than ``DATABASE_PATIENCE``. libpq's own limits come first, so this is for a database that holds
  the connection and says nothing, as a stopped one does. Its thread cannot be freed, and the reign
  not ended, in any way but the process's end; and as long as this process leads, no other can,
  though the way to the database may be blocked for this machine alone. Where it is not, ending
  costs nothing: agents go on with their tasks, and the next start leads nobody before the database
  has answered, which is waiting that no watchdog minds.

While it does not lead, only the loop is looked at: a dispatcher that waits for broker or database
does what it should.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from dispatcher.core.core import Core
from flow.errors import FlowError, StoreError, TransportError
from flow.supervision import Standing

#: Seconds by which the core may be called late.
PATIENCE = 10.0
#: Seconds for which a leader waits for its database: more than ``tcp_user_timeout``.
DATABASE_PATIENCE = 35.0
#: Seconds after which the status says that a leader waits for its database.
SHOWN_AFTER = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reigning:
    """A leader's state, as far as it is shown. Times in seconds."""

    epoch: int
    running: int
    agents: int
    late: float
    """How much the core's next call is overdue."""


@dataclass(slots=True)
class Health:
    """Told what the dispatcher is at; asked by the service manager's side."""

    clock: Callable[[], float] = time.monotonic
    doing: str = "starting"
    ready: bool = False
    """It stands for election, or waits for broker or database: the start is over."""
    reign: Callable[[], Reigning] | None = None
    """Gives the leader's state; None while it does not lead."""
    _asked_at: float | None = None

    def waits(self, error: FlowError) -> None:
        """Broker or database cannot be used now."""
        what = {StoreError: "the database", TransportError: "the broker"}
        waited = next((name for kind, name in what.items() if isinstance(error, kind)), "")
        self.reign = None
        self.doing, self.ready = f"waiting for {waited}: {error}" if waited else str(error), True

    def stands_by(self) -> None:
        """It stands for election."""
        self.reign = None
        self.doing, self.ready = "stands by", True

    def begins(self) -> None:
        """It was elected, and reads the database."""
        self.doing = "elected: reading the database"

    def leads(self, epoch: int, core: Core, now: Callable[[], float]) -> None:
        """Its reign has begun. *now* is the core's clock."""

        def look() -> Reigning:
            wanted = core.next_wakeup()
            return Reigning(
                epoch=epoch,
                running=sum(len(agent.tokens) for agent in core.state.agents.values()),
                agents=sum(agent.live for agent in core.state.agents.values()),
                late=0.0 if wanted is None else now() - wanted,
            )

        self.reign = look

    def ends(self) -> None:
        """Its reign is over."""
        self.reign = None
        self.doing = "between reigns"

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Around a call to the database that the reign waits for."""
        self._asked_at = self.clock()
        try:
            yield
        finally:
            self._asked_at = None

    def standing(self) -> Standing:
        """What the service manager is told."""
        reigning = None if self.reign is None else self.reign()
        silent = 0.0 if self._asked_at is None else self.clock() - self._asked_at
        status = self.doing if reigning is None else _leads(reigning)
        if silent >= SHOWN_AFTER:
            status += f"; the database has not answered for {silent:.0f} s"
        return Standing(status=status, ready=self.ready, stuck=_stuck(reigning, silent))


def _leads(reigning: Reigning) -> str:
    agents = f"{reigning.agents} agent{'' if reigning.agents == 1 else 's'}"
    return f"leads: epoch {reigning.epoch}, {reigning.running} running, {agents}"


def _stuck(reigning: Reigning | None, silent: float) -> str:
    if silent > DATABASE_PATIENCE:
        return f"the database has not answered for {silent:.0f} s, and no other dispatcher can lead"
    if reigning is not None and reigning.late > PATIENCE:
        return f"the core wanted to be called {reigning.late:.0f} s ago"
    return ""
