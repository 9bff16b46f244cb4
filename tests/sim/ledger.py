"""The truth about processes, outside of the system: who ran, where, from when to when."""

from __future__ import annotations

from dataclasses import dataclass, field


class Violation(Exception):
    """An invariant does not hold. ``invariant`` is its name."""

    def __init__(self, invariant: str, text: str) -> None:
        super().__init__(f"{invariant}: {text}")
        self.invariant = invariant


@dataclass(slots=True, eq=False)
class TaskProcess:
    """One task's process tree."""

    token: int
    task_pk: int
    task_id: str
    node: str
    keep: bool
    started: float
    exit_code: int = 0
    stubborn: bool = False
    """It ignores SIGTERM."""
    ended: float | None = None
    signal: int | None = None
    reason: str = ""
    """Why it was being killed when it ended."""
    slots: int = 1
    gpus: tuple[str, ...] = ()

    @property
    def alive(self) -> bool:
        return self.ended is None


@dataclass(slots=True)
class Ledger:
    """Every start and end, as they happen. Raises :class:`Violation` at once."""

    live: dict[int, TaskProcess] = field(default_factory=dict)
    """By task instance."""
    starts: dict[int, int] = field(default_factory=dict)
    """By task instance: how often it was started."""
    by_token: dict[int, TaskProcess] = field(default_factory=dict)
    closed: dict[int, str] = field(default_factory=dict)
    """Tokens that have ended in the database, and how."""

    def start(self, process: TaskProcess) -> None:
        other = self.live.get(process.task_pk)
        if other is not None:
            raise Violation(
                "I2 no two at once",
                f"task instance {process.task_pk} starts on {process.node} under token "
                f"{process.token} while it runs on {other.node} under token {other.token}",
            )
        if process.token in self.by_token:
            raise Violation("I4 a token starts once", f"token {process.token} starts again")
        if process.token in self.closed:
            raise Violation(
                "I2 nothing starts under an ended token",
                f"task instance {process.task_pk} starts on {process.node} under token "
                f"{process.token}, which has ended: {self.closed[process.token]}",
            )
        self.live[process.task_pk] = process
        self.by_token[process.token] = process
        self.starts[process.task_pk] = self.starts.get(process.task_pk, 0) + 1

    def end(self, process: TaskProcess, now: float) -> None:
        process.ended = now
        del self.live[process.task_pk]

    def close_token(self, token: int, outcome: str) -> None:
        """The database says that a token has ended."""
        process = self.by_token.get(token)
        if process is not None and process.alive:
            raise Violation(
                "I2 a token ends after its processes",
                f"token {token} of task instance {process.task_pk} has ended ({outcome}) while "
                f"its process runs on {process.node}",
            )
        self.closed[token] = outcome
