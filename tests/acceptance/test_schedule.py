"""A DAG with a schedule, over RabbitMQ and Postgres: each interval is run once, whoever dies."""

from __future__ import annotations

import random
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from tests.acceptance.system import System
from tests.waiting import until

KILLS = 6
SLOTS = 24


def dag_file(start: datetime, ledger: Path) -> str:
    return f"""
from datetime import datetime, timedelta, timezone
from flow import DAG, BashOperator

with DAG(
    "every_second",
    schedule=timedelta(seconds=1),
    start_date=datetime.fromisoformat({start.isoformat()!r}),
    end_date=datetime.fromisoformat({(start + timedelta(seconds=SLOTS - 1)).isoformat()!r}),
    catchup=True,
):
    BashOperator(task_id="t", queue="q1", bash_command="echo $FLOW_LOGICAL_DATE >> {ledger}")
"""


@pytest.mark.slow
def test_every_interval_is_run_once_while_leading_dispatchers_are_killed(
    system: System, tmp_path: Path
) -> None:
    chance = random.Random(4)
    ledger = tmp_path / "ledger"
    start = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=5)
    system.write_dag("every_second", dag_file(start, ledger))
    leader = system.start_dispatcher()
    system.start_agent("node1", "q1")
    for _ in range(KILLS):
        successor = system.start_dispatcher(ready=False)
        until(partial(successor.says, "standing by"))
        time.sleep(chance.uniform(0.2, 1.5))
        leader.kill()
        leader = successor
        until(partial(leader.says, "leads: epoch"))

    def rows() -> list[dict[str, str]]:
        return system.listing("runs", "list", "every_second", "--limit", "1000")

    until(lambda: sum(row["state"] == "success" for row in rows()) >= SLOTS, within=60)
    dates = [(start + timedelta(seconds=number)).isoformat() for number in range(SLOTS)]
    assert sorted(row["run_id"] for row in rows()) == [f"scheduled__{date}" for date in dates]
    assert sorted(ledger.read_text().split()) == dates
    assert system.listing("dags", "next", "every_second") == []


def test_a_pause_and_a_downtime_leave_the_latest_interval_without_catchup(system: System) -> None:
    start = datetime.now(UTC).replace(microsecond=0) - timedelta(days=1100)
    system.write_dag(
        "yearly",
        "from datetime import datetime\n"
        "from flow import DAG, BashOperator\n"
        f"with DAG('yearly', schedule='@yearly', start_date=datetime.fromisoformat("
        f"{start.isoformat()!r})):\n"
        "    BashOperator(task_id='t', bash_command='true')\n",
    )
    dispatcher = system.start_dispatcher()
    until(lambda: len(system.listing("runs", "list")) == 1)
    [run] = system.listing("runs", "list")
    [first, *_] = system.listing("dags", "next", "yearly", "-n", "1")
    assert run["run_id"] < f"scheduled__{first['logical_date']}"
    [listed] = system.listing("dags", "list")
    assert datetime.fromisoformat(listed["next_run"]) > datetime.now(UTC)
    assert listed["next_run"] == first["due"]
    system.flow("dags", "pause", "yearly")
    assert [row["next_run"] for row in system.listing("dags", "list")] == [None]
    system.flow("dags", "unpause", "yearly")
    dispatcher.kill()
    system.start_dispatcher()
    system.known("yearly")
    assert len(system.listing("runs", "list")) == 1
