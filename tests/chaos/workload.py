"""DAGs whose tasks keep the ledger."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.acceptance.ledger import ledger_command


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerTask:
    """A task that keeps the ledger."""

    task_id: str
    queue: str = "q1"
    seconds: float = 0.1
    """How long it lives."""
    words: Sequence[str] = ()
    """See ``ledger_task.py``."""
    until: Path | None = None
    """It lives until this file is there, instead."""
    after: Sequence[str] = ()
    """The tasks it depends on."""
    retries: int = 0
    on_agent_lost: str = "rerun"
    weight: int = 1
    """``priority_weight``."""

    def command(self, ledger: Path) -> str:
        """The shell command."""
        words = [*self.words, *([f"until={self.until}"] if self.until else [])]
        return ledger_command(ledger, self.seconds, *words)


def short_tasks(count: int, *queues: str, seconds: float = 0.1) -> list[LedgerTask]:
    """*count* independent tasks that take turns on *queues*."""
    return [
        LedgerTask(task_id=f"s{number}", queue=queues[number % len(queues)], seconds=seconds)
        for number in range(count)
    ]


def dag_file(dag_id: str, ledger: Path, tasks: Iterable[LedgerTask], **options: object) -> str:
    """The text of a DAG file; *options* are arguments of ``DAG``, and are written as they are."""
    arguments = "".join(f", {name}={value!r}" for name, value in options.items())
    lines = [
        "from datetime import UTC, datetime, timedelta",
        "",
        "from flow import DAG, BashOperator",
        "",
        f"with DAG({dag_id!r}{arguments}):",
        "    tasks = {}",
    ]
    for task in tasks:
        lines += [
            f"    tasks[{task.task_id!r}] = BashOperator(",
            f"        task_id={task.task_id!r}, queue={task.queue!r}, retries={task.retries},",
            f"        on_agent_lost={task.on_agent_lost!r}, priority_weight={task.weight},",
            f"        bash_command={task.command(ledger)!r},",
            "    )",
        ]
        lines += [f"    tasks[{name!r}] >> tasks[{task.task_id!r}]" for name in task.after]
    return "\n".join(lines) + "\n"
