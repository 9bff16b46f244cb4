"""A DAG that is due every second for a while, and how to see that each slot got its one run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import psycopg2

from tests.acceptance.ledger import ledger_command
from tests.chaos.scenario import ScenarioFailed
from tests.chaos.world import PATIENCE, Chaos


class Slots:
    """*count* slots, a second apart; the first *late* of them are overdue already."""

    def __init__(self, chaos: Chaos, dag_id: str, count: int, *, late: int = 0) -> None:
        self._chaos = chaos
        self._dag_id = dag_id
        start = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=late)
        self.dates = [start + timedelta(seconds=number) for number in range(count)]
        chaos.kept_dags.add(dag_id)
        chaos.system.write_dag(dag_id, self._text())

    def ended(self) -> list[datetime]:
        """The slots whose runs have succeeded, in order; a run too many shows twice."""
        rows = self._chaos.postgres.query(
            "SELECT logical_date FROM dag_run WHERE dag_id = %s AND state = 'success'"
            " ORDER BY logical_date",
            self._dag_id,
        )
        return [moment for (moment,) in rows]

    def wait(self, within: float = PATIENCE) -> float:
        """Wait until as many runs have ended as there are slots; the moment. Raises
        ScenarioFailed when they are not the ones that the schedule asks for."""

        def enough() -> bool:
            try:
                return len(self.ended()) >= len(self.dates)
            except psycopg2.OperationalError:  # the database is what the fault hit
                return False

        moment = self._chaos.until(enough, f"{self._dag_id} ran {len(self.dates)} slots", within)
        if (found := self.ended()) != self.dates:
            missing = sorted(set(self.dates) - set(found))
            raise ScenarioFailed(
                f"I7: {self._dag_id}: expected {len(self.dates)} runs, one per slot, got "
                f"{len(found)}; missing {[str(date) for date in missing]}"
            )
        return moment

    def _text(self) -> str:
        return f"""
from datetime import datetime, timedelta

from flow import DAG, BashOperator

with DAG(
    {self._dag_id!r},
    schedule=timedelta(seconds=1),
    start_date=datetime.fromisoformat({self.dates[0].isoformat()!r}),
    end_date=datetime.fromisoformat({self.dates[-1].isoformat()!r}),
    catchup=True,
):
    BashOperator(
        task_id="slot",
        queue="q1",
        bash_command={ledger_command(self._chaos.ledger.path, 0.05)!r},
    )
"""
