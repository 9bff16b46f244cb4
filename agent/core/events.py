"""What can happen to an agent. Deliveries are opaque integers, sends are known by their ``ref``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from msgspec import Raw

from flow.wire import Reply, Task, Wanted


@dataclass(frozen=True, slots=True)
class Fenced:
    """Everything older is proven dead (kept tasks excepted) and *session* is fsynced."""

    session: int


@dataclass(frozen=True, slots=True)
class LinkUp:
    """Connected; the control queue is consumed, the task queues are not yet."""


@dataclass(frozen=True, slots=True)
class LinkDown:
    """The connection is gone: unacknowledged deliveries went back, nothing more is confirmed."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """A task message arrived from a task queue."""

    handle: int
    task: Task


@dataclass(frozen=True, slots=True)
class Received:
    """A reply arrived on the control queue."""

    reply: Reply


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A dispatcher sent something of a newer *version* of the messages than this agent reads."""

    version: int


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The broker has confirmed the send as routed."""

    ref: int


@dataclass(frozen=True, slots=True)
class Blocked:
    """The broker holds back what this link publishes (a memory or disk alarm), and has proven that
    it has done so for at least *proven* seconds; 0.0 when it begins."""

    proven: float


@dataclass(frozen=True, slots=True)
class Refused:
    """The send came back: nothing is bound for it, or the link closed under it."""

    ref: int
    reason: str


@dataclass(frozen=True, slots=True)
class Ready:
    """What a token's start waited for has come: the task may start, if it still may."""

    token: int


@dataclass(frozen=True, slots=True)
class ProcessStarted:
    """The process of a token exists. ``started_at`` is seconds since the epoch."""

    token: int
    pid: int
    started_at: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a task's process itself said of how it came out."""

    state: Literal["success", "failed", "skipped"]
    reason: str = ""
    xcom: Mapping[str, Raw] = field(default_factory=dict)
    follow: tuple[str, ...] | None = None
    stop: bool = False
    final: bool = False


@dataclass(frozen=True, slots=True)
class ProcessEnded:
    """All processes of a token are gone, or none could be started (``error``).

    Exactly one of ``exit_code``, ``signal`` and ``error`` says how."""

    token: int
    started_at: float
    ended_at: float
    exit_code: int | None = None
    signal: int | None = None
    error: str = ""
    killed: str = ""
    """Why it was being killed when it ended; empty when it ended by itself."""
    fault: bool = False
    """``error`` is this node's, not the task's: another agent may be able to run it."""
    gpus_taken: tuple[str, ...] = ()
    """``error`` is that another agent of this node uses these devices."""
    outcome: Outcome | None = None
    out_of_memory: str = ""
    """The kernel killed in it for want of memory: the reason for people, or ``""``."""
    memory_peak: int | None = None
    cpu_seconds: float | None = None
    """As in :class:`flow.wire.Finished`, both."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The task of a running token asks for something. ``request`` is unique."""

    token: int
    request: int
    wanted: tuple[Wanted, ...]


@dataclass(frozen=True, slots=True)
class Spooled:
    """A result is on disk, fsynced; or it could not be written (``error``)."""

    token: int
    error: str = ""


@dataclass(frozen=True, slots=True)
class DiskFailed:
    """Something else than a result could not be written here: a task's folder, a bundle."""

    error: str


@dataclass(frozen=True, slots=True)
class Probed:
    """The disk was tried: it takes what is written, or it still does not (``error``)."""

    error: str = ""


@dataclass(frozen=True, slots=True)
class GpusFree:
    """Another agent of this node uses these devices no longer."""

    gpus: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LeaseFired:
    """The keeper has killed at its own deadline; or it is gone itself (``spared_nothing``), and
    with it also the tasks that a lapse does not kill."""

    reason: str
    spared_nothing: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconfigured:
    """Settings that change while tasks run; None leaves one as it is. Times in seconds."""

    queues: tuple[str, ...] | None = None
    slots: int | None = None
    kill_grace: float | None = None
    drain_timeout: float | None = None
    """From the next drain on."""
    claim_interval: float | None = None


@dataclass(frozen=True, slots=True)
class Interrupt:
    """SIGTERM or SIGINT: the first drains, the second kills, the third stops at once."""


@dataclass(frozen=True, slots=True)
class Tick:
    """The time that :meth:`agent.core.Core.wake_at` asked for has come."""


Event = (
    Fenced
    | LinkUp
    | LinkDown
    | Delivered
    | Received
    | Unreadable
    | Confirmed
    | Blocked
    | Refused
    | Ready
    | ProcessStarted
    | ProcessEnded
    | Asked
    | Spooled
    | DiskFailed
    | Probed
    | GpusFree
    | LeaseFired
    | Reconfigured
    | Interrupt
    | Tick
)
