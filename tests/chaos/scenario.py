"""What a scenario is: a fault, what is expected of the system then, and within which time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.chaos.world import Chaos


class ScenarioFailed(AssertionError):
    """Something that the scenario relies on or expects did not hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leases:
    """The times of the lease, in seconds, as the settings of the same names have them."""

    heartbeat: float
    lease: float
    margin: float
    grace: float
    kill_grace: float

    @property
    def takeover(self) -> float:
        """From an agent's last sign of life until its tasks are taken over."""
        return self.lease + self.grace

    @property
    def trusted(self) -> float:
        """From an agent's last confirmed heartbeat until it kills its tasks itself."""
        return self.lease - self.margin

    def settings(self) -> dict[str, str]:
        """As environment variables of flow's processes."""
        return {
            "FLOW_LEASE_HEARTBEAT_INTERVAL": str(self.heartbeat),
            "FLOW_LEASE_DURATION": str(self.lease),
            "FLOW_LEASE_MARGIN": str(self.margin),
            "FLOW_LEASE_GRACE": str(self.grace),
            "FLOW_AGENT_KILL_GRACE": str(self.kill_grace),
        }


DEFAULT = Leases(heartbeat=5.0, lease=60.0, margin=5.0, grace=15.0, kill_grace=5.0)
#: A tenth of the defaults.
SCALED = Leases(heartbeat=0.5, lease=6.0, margin=0.5, grace=1.5, kill_grace=0.5)


@dataclass(frozen=True, slots=True)
class Scale:
    """How long everything takes: as in production, or in proportion shorter."""

    leases: Leases
    full: bool

    def outage(self, full_seconds: float, scaled_seconds: float) -> float:
        """The length of an outage or the number of something, by the scale."""
        return full_seconds if self.full else scaled_seconds

    def count(self, full: int, scaled: int) -> int:
        """How many of something, by the scale."""
        return full if self.full else scaled

    @property
    def name(self) -> str:
        return "full" if self.full else "scaled"


FULL = Scale(DEFAULT, full=True)
QUICK = Scale(SCALED, full=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a scenario allows and has measured; what really happened the checker reads itself."""

    recovery: float | None = None
    """Seconds until it was healthy again, where the scenario has a bound."""
    detail: str = ""
    """What was done and seen, in a few words."""
    reruns_allowed: int = 0
    """Starts beyond the first of each task instance: for leases lost to faults, retries, clears."""
    endings: Mapping[str, str] = field(default_factory=dict)
    """States by task_id that differ from ``success``."""
    clock_true: bool = True
    """The dispatcher's wall clock was the machine's: ends in the database can be compared with the
    ledger."""


Bound = Callable[[Scale], float | None]


def no_bound(_: Scale) -> None:
    """Nothing is promised about how long it takes."""


def seconds(bound: float) -> Bound:
    """A bound that does not depend on the leases."""
    return lambda _: bound


def takeover_plus(more: float) -> Bound:
    """Seconds after the moment at which another agent may take over."""
    return lambda scale: scale.leases.takeover + more


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One line of the report."""

    name: str
    fault: str
    expected: str
    run: Callable[[Chaos], Outcome]
    bound: Bound = no_bound
    """In seconds, of :attr:`Outcome.recovery`."""
    own_services: bool = False
    """It breaks RabbitMQ or Postgres, so it gets some of its own."""
    short: bool = False
    """Part of ``make test``."""
    waits: bool = False
    """With the default leases it mostly waits: such scenarios may run side by side."""
