"""DAGs that are due by turns, four times a second, and how late their tasks begin."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from tests.chaos.world import Chaos

#: Each is due once a second, which is as often as a schedule can be.
DAGS = 4


class Ticking:
    """Each has one task, which writes down when it was due and when it began."""

    def __init__(self, chaos: Chaos, queue: str) -> None:
        self._chaos = chaos
        self._file = chaos.root / "ticks"
        self._read = 0
        chaos.system.write_dag("ticks", _text(self._file, queue))

    def wait(self, count: int) -> list[float]:
        """Wait until *count* more have begun; of each, seconds from due to begun."""
        self._chaos.until(
            lambda: len(self._lines()) >= self._read + count,
            f"{count} tasks begin by schedule",
            within=60.0 + 2 * count / DAGS,
        )
        lines = self._lines()[self._read : self._read + count]
        self._read += count
        return [float(at) - datetime.fromisoformat(due).timestamp() for due, at in lines]

    def stop(self) -> None:
        """No more of it; returns once all has ended."""
        for number in range(DAGS):
            self._chaos.system.flow("dags", "pause", f"ticks{number}")
        running = "SELECT 1 FROM dag_run WHERE dag_id LIKE 'ticks%%' AND state = 'running'"
        self._chaos.until(
            lambda: not self._chaos.postgres.query(running), "the last tick has ended"
        )

    def _lines(self) -> list[list[str]]:
        return [line.split() for line in self._file.read_text().splitlines()]


def p99(values: list[float]) -> float:
    """The 99th percentile, in seconds."""
    return sorted(values)[min(len(values) - 1, len(values) * 99 // 100)]


def _text(file: Path, queue: str) -> str:
    file.touch()
    start = datetime.now(UTC).isoformat()
    return f"""
from datetime import datetime, timedelta

from flow import DAG, BashOperator

for number in range({DAGS}):
    with DAG(
        f"ticks{{number}}",
        schedule=timedelta(seconds=1),
        start_date=datetime.fromisoformat({start!r}) + timedelta(seconds=number / {DAGS}),
        catchup=True,
    ):
        BashOperator(
            task_id="tick",
            queue={queue!r},
            bash_command='echo "$FLOW_DATA_INTERVAL_END $EPOCHREALTIME" >> {file}',
        )
"""
