"""What the ledger says about a kill: whether anything was lost or ran twice at once, and how long
it took until all that the killed agent ran was running again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from tests.acceptance.ledger import Life, overlaps


@dataclass(frozen=True, slots=True)
class Kill:
    """An agent was killed; both moments on the ledger's clock."""

    agent: str
    moment: float
    back: float
    """When it is started again. What its keeper still started before that died with it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Names of tasks, and figures."""

    starts: int
    """Copies of tasks that were started."""
    interrupted: tuple[str, ...]
    """What the agent was running when it was killed."""
    lost: tuple[str, ...]
    """Tasks that never finished, or of which the system does not say so."""
    twice: tuple[str, ...]
    """Tasks of which two copies were alive at the same time."""
    needless: tuple[str, ...]
    """Tasks that ran again although nothing had happened to the agent that ran them."""
    recovered: float | None
    """Seconds from the kill until the last of the interrupted ran again; ``None``: never."""

    @property
    def holds(self) -> bool:
        """Whether the promise was kept, and the kill put it to the test."""
        broken = self.lost or self.twice or self.needless
        return bool(self.interrupted) and self.recovered is not None and not broken

    def line(self) -> str:
        """The last line of the demo."""
        recovered = "never recovered"
        if self.recovered is not None:
            recovered = f"recovered in {self.recovered:.1f} s"
        return f"lost {len(self.lost)}, twice {len(self.twice)}, {recovered}"

    def complaints(self) -> list[str]:
        """What is wrong, in words."""
        found = [
            f"{what}: {', '.join(tasks)}"
            for what, tasks in (
                ("lost", self.lost),
                ("two copies at the same time", self.twice),
                ("ran again for no reason", self.needless),
            )
            if tasks
        ]
        if not self.interrupted:
            found.append("the kill interrupted nothing, so it has shown nothing")
        return found


def judge(
    lives: Sequence[Life], kill: Kill, expected: Collection[str], succeeded: Collection[str]
) -> Verdict:
    """Judge the *lives* of the *expected* tasks, of which the system calls those *succeeded*."""
    finished = {name(life) for life in lives if life.finished}
    hit = interrupted(lives, kill)
    again = [restart(lives, kill, task) for task in hit]
    moments = [life.first for life in again if life is not None]
    complete = bool(hit) and len(moments) == len(hit)
    return Verdict(
        starts=len(lives),
        interrupted=hit,
        lost=tuple(sorted(set(expected) - (finished & set(succeeded)))),
        twice=tuple(sorted({name(first) for first, _ in overlaps(lives)})),
        needless=_needless(lives, kill),
        recovered=max(moments) - kill.moment if complete else None,
    )


def interrupted(lives: Sequence[Life], kill: Kill) -> tuple[str, ...]:
    """The tasks that the agent was running when it was killed."""
    return tuple(
        sorted(
            {
                name(life)
                for life in lives
                if life.agent == kill.agent and life.first <= kill.moment and not life.finished
            }
        )
    )


def restart(lives: Sequence[Life], kill: Kill, task: str) -> Life | None:
    """The copy of *task* that was started first by an agent that lives after the kill."""
    later = [
        life
        for life in lives
        if name(life) == task and life.first > kill.moment and not _cut(life, kill)
    ]
    return min(later, key=lambda life: life.first, default=None)


def name(life: Life) -> str:
    """The task's name, without its run."""
    return life.task.rpartition("/")[2]


def _needless(lives: Sequence[Life], kill: Kill) -> tuple[str, ...]:
    # The kill may have come between a task's end and the agent's knowledge of it, so whatever the
    # agent had started may run once more.
    starts = Counter(name(life) for life in lives)
    allowed = Counter(name(life) for life in lives if _cut(life, kill))
    return tuple(sorted(task for task in starts if starts[task] > 1 + allowed[task]))


def _cut(life: Life, kill: Kill) -> bool:
    return life.agent == kill.agent and life.first < kill.back
