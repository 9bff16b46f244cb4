"""Which faults a seed has: its cell of the matrix of faults and steps, and some more by chance."""

from __future__ import annotations

from random import Random
from typing import NamedTuple

from tests.sim.faults import Fault
from tests.sim.kinds import KINDS


class Setup(NamedTuple):
    """What makes a step of the protocol happen: faults (kind, duration, and after which step,
    ``""``: at some early moment), and at which of its occurrences to strike."""

    faults: tuple[tuple[str, float, str], ...] = ()
    nth: tuple[int, ...] = (1,)


_OFTEN = Setup((), (1, 1, 2, 3, 5, 8))
_RELEADING = Setup((("dispatcher kill", 0.3, ""), ("dispatcher cut", 0.0, "")), (1, 2, 2, 2, 3))
_GREETING = Setup((("link cut", 0.0, ""),), (1, 3, 4, 4, 4))
_DRAINING = Setup((("agent drain", 0.0, "process started"), ("agent drain", 0.0, "")))
_STOPPING = Setup((("clear", 0.0, "process started"), ("cancel", 0.0, "process started")))
_GONE = Setup((("node crash", 14.0, ""),))
#: The steps of the protocol.
STEPS: dict[str, Setup] = {
    "election": _RELEADING,
    "epoch": _RELEADING,
    "load": _RELEADING,
    "connected": _GREETING,
    "hello sent": _GREETING,
    "hello confirmed": _GREETING,
    "hello read": _GREETING,
    "configured": _GREETING,
    "task published": _OFTEN,
    "delivered": _OFTEN,
    "adopted": Setup(
        # What was delivered before goes to whoever serves the queue, and that is mostly another.
        (
            ("link cut", 0.0, "process started"),
            ("link cut", 0.0, "started sent"),
            ("link cut", 0.0, "heartbeat sent"),
            ("link cut", 0.0, "heartbeat sent"),
            ("link cut", 0.0, "heartbeat confirmed"),
            ("link cut", 0.0, "heartbeat confirmed"),
            ("link cut", 0.0, "grant received"),
            ("link cut", 0.0, ""),
            ("link cut", 0.0, ""),
            ("link cut", 0.0, ""),
        )
    ),
    "claim sent": _OFTEN,
    "claim read": _OFTEN,
    "commit sent": _OFTEN,
    "commit done": _OFTEN,
    "ack": _OFTEN,
    "grant committed": _OFTEN,
    "grant received": _OFTEN,
    "deny received": Setup((("message duplicated", 0.3, "task published"),) * 2),
    "process started": _OFTEN,
    "started sent": _OFTEN,
    "process ended": _OFTEN,
    "heartbeat sent": _OFTEN,
    "heartbeat confirmed": _OFTEN,
    "heartbeat read": _OFTEN,
    "blocked": Setup((("alarm", 4.0, "process started"),), (1, 2, 3, 6)),
    "spooled": _OFTEN,
    "finished sent": _OFTEN,
    "finished read": _OFTEN,
    "result committed": _OFTEN,
    "answered": _OFTEN,
    "release sent": Setup(),
    "release read": Setup(),
    "lapse": Setup((("partition", 7.5, "process started"),)),
    "fence begun": Setup((("partition", 7.5, ""),), (2, 3, 4, 4)),
    "fence done": Setup((("partition", 7.5, ""),), (2, 3, 4, 4)),
    "lost": _GONE,
    "takeover": _GONE,
    "pulse sent": Setup((("node crash", 8.0, ""),), (1, 2, 3)),
    "pulse returned": Setup((("node crash", 8.0, ""),), (1, 2, 3)),
    "session ended": Setup((("impostor", 6.0, "hello read"),)),
    "wished": _STOPPING,
    "stop received": _STOPPING,
    "drain begun": _DRAINING,
    "goodbye sent": _DRAINING,
    "goodbye read": _DRAINING,
    "stopped": _DRAINING,
    "reconcile publish": Setup((("message dropped", 0.0, "commit done"),) * 3),
    "intents read": Setup((), (1, 2)),
}
#: Steps that need tasks which a node cannot start.
RELEASES = frozenset({"release sent", "release read"})
#: Steps that need tasks which run for a while.
LASTING = frozenset({"adopted", "wished", "stop received", "lapse"})
#: Steps of tasks that come as messages: mostly of agents that are handed none.
DELIVERED = frozenset({"adopted"})
#: Faults that cannot follow a step, and why.
IMPOSSIBLE: dict[tuple[str, str], str] = {
    ("alarm", "blocked"): "publishers are blocked while there is an alarm already",
    ("stall after alarm", "blocked"): "it raises an alarm, and there is one already",
    ("alone after alarm", "blocked"): "it raises an alarm, and there is one already",
    ("impostor", "session ended"): "only an impostor's live session is ended, and one is enough",
}
CELLS = [(kind, step) for step in STEPS for kind in KINDS if (kind, step) not in IMPOSSIBLE]


def plan_of(seed: int) -> list[Fault]:
    """The faults of *seed*, always the same."""
    rng = Random(f"plan {seed}")
    kind, step = CELLS[seed % len(CELLS)]
    setup = STEPS[step]
    plan = []
    for prelude, duration, after in setup.faults:
        at = 0.0 if after else rng.uniform(0.8, 4.0)
        plan.append(_fault(rng, prelude, at=at, step=after, nth=_early(rng), duration=duration))
    plan.append(_fault(rng, kind, step=step, nth=rng.choice(setup.nth)))
    for _ in range(rng.choice((0, 0, 1, 1, 2, 3))):
        extra = rng.choice(list(KINDS))
        if rng.random() < 0.4:
            plan.append(_fault(rng, extra, at=rng.uniform(0.2, 10.0)))
        else:
            plan.append(_fault(rng, extra, step=rng.choice(list(STEPS)), nth=_early(rng)))
    return plan


def _early(rng: Random) -> int:
    return rng.choice((1, 1, 2, 4))


def _fault(
    rng: Random, kind: str, *, at: float = 0.0, step: str = "", nth: int = 1, duration: float = 0.0
) -> Fault:
    chosen = rng.choice((rng.uniform(0.05, 1.0), rng.uniform(1.0, 5.0), rng.uniform(5.0, 16.0)))
    return Fault(kind, duration or chosen, rng.randrange(1000), at, step, nth)
