"""Tasks that run until the scenario lets them end, and how they are seen to run again."""

from __future__ import annotations

from collections.abc import Sequence

from tests.acceptance.ledger import now
from tests.chaos.workload import LedgerTask
from tests.chaos.world import Chaos

#: Of an agent: so many tasks hold it.
SLOTS = 4
GATE = "go"
#: Seconds after which a copy of which nothing is heard is dead.
SILENCE = 0.5
#: Seconds for which one that lives may be kept waiting by a busy machine.
HICCUP = 3.0
#: Seconds for which a live task may give no sign of life because the machine is busy.
_HICCUP = 3.0


def hold(chaos: Chaos, *, queue: str = "q1", count: int = SLOTS) -> list[LedgerTask]:
    """*count* tasks that live until the gate opens; the last one is double-forked, and all its
    processes ignore TERM."""
    gate = chaos.gate(GATE)
    words: list[Sequence[str]] = [()] * (count - 1) + [("stubborn", "detached")]
    return [
        LedgerTask(task_id=f"hold{number}", queue=queue, until=gate, words=words[number])
        for number in range(count)
    ]


def let_go_when_dead(chaos: Chaos, since: float) -> None:
    """Open the gate once no copy that began before *since* is alive: the next ones end at once.
    (An agent runs those that have died with one only one at a time.)"""

    def dead() -> bool:
        return not any(life.first < since for life in chaos.ledger.alive(SILENCE))

    chaos.until(dead, "the old copies are dead", chaos.scale.leases.takeover + 30.0)
    chaos.open(GATE)


def fell_silent(chaos: Chaos) -> list[str]:
    """The tasks of which a copy has given no sign of life for a while, and not ended either."""
    alive = {life.token for life in chaos.ledger.alive(HICCUP)}
    return [
        life.task for life in chaos.ledger.lives() if not life.finished and life.token not in alive
    ]


def began_again(chaos: Chaos, since: float, count: int = SLOTS) -> float:
    """Wait until *count* tasks have a copy younger than *since*; when the last of these began."""

    def young() -> dict[str, float]:
        return {life.task: life.first for life in chaos.ledger.lives() if life.first > since}

    within = chaos.scale.leases.takeover + 30.0
    chaos.until(lambda: len(young()) == count, f"{count} tasks run again", within)
    return max(young().values())


def live_on(chaos: Chaos, count: int) -> bool:
    """Whether at least *count* copies live, for :meth:`Chaos.lasts`."""
    lives = chaos.ledger.lives()
    return sum(not life.finished and life.last > now() - _HICCUP for life in lives) >= count


def taken_over_by(chaos: Chaos, agent: str, count: int) -> list[float]:
    """Wait until *agent* has begun each of *count* held tasks, and let them go; when they began.
    (An agent runs those that have died with another only one at a time.)"""

    def began() -> dict[str, float]:
        return {life.task: life.first for life in chaos.ledger.lives() if life.agent == agent}

    within = chaos.scale.leases.trusted + chaos.scale.leases.takeover + 30.0
    chaos.until(lambda: bool(began()), f"{agent} takes over", within)
    chaos.open(GATE)
    chaos.until(lambda: len(began()) == count, f"{agent} takes over {count} tasks")
    return list(began().values())


def last_sign_of(chaos: Chaos, agent: str) -> float:
    """The last moment at which any task lived on *agent*."""
    return max(life.last for life in chaos.ledger.lives() if life.agent == agent)
