"""The ledger: what tasks wrote down about their own lives, outside the system.

One machine has one CLOCK_BOOTTIME, so what it says about overlaps is exact.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

LEDGER_TASK = Path(__file__).with_name("ledger_task.py")


def ledger_command(ledger: Path, seconds: float, *words: str) -> str:
    """A shell command that keeps *ledger*; *words* are those of ``ledger_task.py``."""
    return " ".join([sys.executable, "-I -S", str(LEDGER_TASK), str(ledger), str(seconds), *words])


def ledger_chain(ledger: Path, seconds: float, *, length: int = 4) -> str:
    """A DAG file: a chain alternating between q1 and q2 whose tasks keep the ledger."""
    return f"""
from flow import DAG, BashOperator, chain

COMMAND = {ledger_command(ledger, seconds)!r}

with DAG("ledger", max_active_runs=16):
    chain(*[
        BashOperator(task_id=f"t{{n}}", bash_command=COMMAND, queue=f"q{{n % 2 + 1}}")
        for n in range({length})
    ])
"""


@dataclass(frozen=True, slots=True)
class Life:
    """One copy of a task instance, as it wrote it down itself, in CLOCK_BOOTTIME seconds."""

    task: str
    instance: int
    try_number: int
    token: int
    agent: str
    pid: int
    """Of its main process."""
    first: float
    last: float
    """The last sign of life of any of its processes."""
    finished: bool
    """Its main process came to its end by itself."""

    def is_alive(self, hiccup: float = 0.03) -> bool:
        """Whether it gives signs of life now, or did so *hiccup* seconds ago: on a busy machine a
        task may be kept waiting."""
        return not self.finished and self.last > now() - hiccup


@dataclass(slots=True)
class _Story:
    task: str
    instance: int
    try_number: int
    agent: str
    pid: int
    first: float
    last: float
    finished: bool = False


@dataclass(slots=True)
class Ledger:
    """A ledger that is read while it grows: each line once."""

    path: Path
    _stories: dict[int, _Story] = field(default_factory=dict)
    _offset: int = 0

    def lives(self) -> list[Life]:
        """All lives so far, oldest first."""
        self._read_on()
        lives = [
            Life(
                task=story.task,
                instance=story.instance,
                try_number=story.try_number,
                token=token,
                agent=story.agent,
                pid=story.pid,
                first=story.first,
                last=story.last,
                finished=story.finished,
            )
            for token, story in self._stories.items()
        ]
        return sorted(lives, key=lambda life: life.first)

    def alive(self, hiccup: float = 0.03) -> list[Life]:
        """Those that give signs of life now, or did so *hiccup* seconds ago."""
        return [life for life in self.lives() if life.is_alive(hiccup)]

    def _read_on(self) -> None:
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._offset)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        for line in whole.decode().splitlines():
            self._take(*line.split(" "))

    def _take(
        self,
        kind: str,
        moment: str,
        task: str,
        token: str,
        agent: str,
        instance: str,
        try_number: str,
        pid: str,
    ) -> None:
        at = float(moment)
        story = self._stories.get(int(token))
        if story is None:
            story = _Story(task, int(instance), int(try_number), agent, int(pid), at, at)
            self._stories[int(token)] = story
        story.last = max(story.last, at)
        story.finished |= kind == "end"


def read_ledger(path: Path) -> list[Life]:
    """All lives in the file, oldest first."""
    return Ledger(path).lives()


def overlaps(lives: Iterable[Life]) -> list[tuple[Life, Life]]:
    """Pairs of copies of one task instance that were alive at the same time."""
    by_task: dict[str, list[Life]] = {}
    for life in lives:
        by_task.setdefault(life.task, []).append(life)
    return [
        (first, second)
        for copies in by_task.values()
        for position, first in enumerate(copies)
        for second in _later(copies, position)
        if second.first <= first.last
    ]


def _later(copies: Sequence[Life], position: int) -> Sequence[Life]:
    return copies[position + 1 :]


def now() -> float:
    """The ledger's clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
