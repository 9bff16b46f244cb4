"""What the core wants done. Effects of one step are carried out in order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flow import wire

Level = Literal["info", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Send:
    """Publish an event; answer with ``Confirmed(ref)`` or ``Refused(ref)``. ``expiration``:
    seconds after which nobody needs to read it any more."""

    ref: int
    message: wire.Event
    expiration: float | None = None


@dataclass(frozen=True, slots=True)
class Ack:
    """Settle a delivery (harmless when its link is gone)."""

    handle: int


@dataclass(frozen=True, slots=True)
class Consume:
    """Begin to consume the task queues."""


@dataclass(frozen=True, slots=True)
class Serve:
    """From the next connection on consume *queues*, with room for *slots* tasks."""

    queues: tuple[str, ...]
    slots: int


@dataclass(frozen=True, slots=True)
class Reconnect:
    """Close the connection and connect anew: whatever was delivered goes back to its queue."""

    reason: str


@dataclass(frozen=True, slots=True)
class Start:
    """Start the task's process under *grant*'s token, with *gpus* for its own."""

    task: wire.Task
    grant: wire.Grant
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Kill:
    """End one token's whole process tree: SIGTERM, after *grace* seconds SIGKILL."""

    token: int
    grace: float
    reason: str


@dataclass(frozen=True, slots=True)
class Relay:
    """Give the task that made *request* its answer."""

    request: int
    answer: wire.Answer


@dataclass(frozen=True, slots=True)
class Fence:
    """Kill everything but *keep*, prove it dead, fsync a session above all before and above
    *above*, say ``Fenced``."""

    keep: frozenset[int]
    above: int
    reason: str


@dataclass(frozen=True, slots=True)
class SetDeadline:
    """The session's lease ends at *at* (CLOCK_BOOTTIME): the keeper kills then."""

    at: float


@dataclass(frozen=True, slots=True)
class Spool:
    """Write the result to disk, fsync, say ``Spooled``."""

    result: wire.Finished


@dataclass(frozen=True, slots=True)
class DropSpool:
    """The result was answered: delete it."""

    token: int


@dataclass(frozen=True, slots=True)
class Probe:
    """See whether the disk takes something again, say ``Probed``."""


@dataclass(frozen=True, slots=True)
class ProbeGpus:
    """See which of these another agent of the node no longer uses, say ``GpusFree``."""

    gpus: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """A line for the operator."""

    level: Level
    text: str


@dataclass(frozen=True, slots=True)
class Stop:
    """End the agent with this exit code; anything that still runs is killed."""

    code: int
    reason: str


Effect = (
    Send
    | Ack
    | Consume
    | Serve
    | Reconnect
    | Start
    | Kill
    | Relay
    | Fence
    | SetDeadline
    | Spool
    | DropSpool
    | Probe
    | ProbeGpus
    | Report
    | Stop
)
