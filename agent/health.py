"""How an agent stands: the line that ``systemctl status`` shows, and whether it makes progress.

**Progress** is what the watchdog stands for (``flow.supervision``: the event loop itself says so,
in a turn of its own). On top of that these are looked at:

- *the core is stepped*: no moment at which it wanted to be called is more than ``PATIENCE`` past.
  Heartbeats, resends, the lease and the drain all hang on that one timer;
- *the keeper answers*: it is asked through the same loop that starts, kills and reaps tasks.

Not looked at, since a restart would mend none of it and would end tasks that run well: broker and
dispatcher (the lease decides there), the disk (the agent suspends itself), a thread that waits for
a file system which does not answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flow.supervision import Standing

#: Seconds by which the core may be called late, and for which the keeper may owe an answer.
PATIENCE = 5.0
#: Seconds beyond `drain_timeout` in which killed tasks end, results are answered, output is sent.
LAST_STEPS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What there is to see of an agent. Times and durations in seconds."""

    tasks: int
    """That run here."""
    busy: int
    """Slots that they take."""
    slots: int
    queues: tuple[str, ...]
    session: int
    """0 before the first has begun: until then earlier processes are being proven dead."""
    fenced: bool
    greeted: bool
    link: bool
    connection: str
    """What was last said of the connection."""
    refused: tuple[str, ...] = ()
    """Queues that the broker does not let it read."""
    suspended: str
    drained: str
    """Why people want nothing new here, and who; ``""``: they do not."""
    draining: float | None
    """For how long; None while it does not."""
    drain_timeout: float
    late: float
    """How much the core's next step is overdue."""
    keeper_silence: float


def standing(seen: Seen) -> Standing:
    """What the service manager is told."""
    return Standing(
        status=status_line(seen),
        ready=seen.session > 0,
        stuck=_stuck(seen),
        stopping=seen.draining is not None,
        takes_time=seen.draining is None or seen.draining < seen.drain_timeout + LAST_STEPS,
    )


def status_line(seen: Seen) -> str:
    """What matters most, first."""
    tasks = f"{seen.tasks} task{'' if seen.tasks == 1 else 's'}"
    if seen.draining is not None:
        return f"draining, {tasks} left"
    slots = f"{seen.busy}/{seen.slots} slots busy"
    if seen.session == 0:
        return "starting: until nothing of an earlier session runs"
    if seen.fenced:
        return "between sessions: until nothing of the last one runs"
    if seen.suspended:
        return f"suspended: {seen.suspended}; {slots}"
    if seen.drained and seen.link:
        return f"drained: {seen.drained}; {slots}"
    if not seen.link:
        reason = seen.connection or "waiting for the broker"
        return f"{reason}; {slots}" if seen.tasks else reason
    if not seen.greeted:
        return f"waiting for a dispatcher; {slots}" if seen.tasks else "waiting for a dispatcher"
    served = [queue for queue in seen.queues if queue not in seen.refused]
    parts = [f"{slots}, {_named(served)}" if served else slots]
    if seen.refused:
        parts.append(f"refused by the broker: {_named(seen.refused)}")
    return "; ".join(parts)


def _named(queues: Sequence[str]) -> str:
    return f"queue{'' if len(queues) == 1 else 's'} {', '.join(queues)}"


def _stuck(seen: Seen) -> str:
    if seen.late > PATIENCE:
        return f"the agent's rules wanted to be called {seen.late:.0f} s ago"
    if seen.keeper_silence > PATIENCE:
        return f"the keeper has not answered for {seen.keeper_silence:.0f} s"
    return ""
