"""Tasks that take what they can: processes, output, memory."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from tests.chaos.pulse import PulseThread
from tests.chaos.scenario import Outcome, Scenario, ScenarioFailed
from tests.chaos.workload import LedgerTask
from tests.chaos.world import Chaos

HOSTILE_TASK = Path(__file__).parents[1] / "hostile_task.py"
#: Of the fork bomb: there are no cgroups here to hold a real one.
PROCESSES = 120
#: So many more it makes in place of those that are killed.
MORE = 100
GATE = "go"


def _beside(chaos: Chaos, hostile: str, lasts: Callable[[Chaos, str], None]) -> Outcome:
    """Run the DAG file *hostile*, whose task of that name fails, beside others on one agent, until
    *lasts* has returned; nothing else may notice."""
    dispatcher = chaos.start_dispatcher()
    node = chaos.start_agent("node1", "q1", slots=4)
    held = [LedgerTask(task_id=f"held{number}", until=chaos.gate(GATE)) for number in range(2)]
    chain = [
        LedgerTask(task_id=f"c{number}", after=[f"c{number - 1}"] if number else [])
        for number in range(5)
    ]
    chaos.write_ledger_dag("others", [*held, *chain])
    chaos.system.write_dag("hostile", hostile)
    chaos.until(
        lambda: chaos.postgres.query("SELECT 1 FROM dag WHERE dag_id = 'hostile'") != [],
        "the dispatcher has DAG hostile",
    )
    pulse = PulseThread(chaos.broker.url, "node1")
    try:
        chaos.fault()
        run = chaos.trigger("hostile")
        others = chaos.trigger("others")
        chaos.alive(2, agent="node1")
        chaos.until(
            lambda: chaos.state_of(others, "c4") == "success", "a chain beside it comes to its end"
        )
        lasts(chaos, run)
        chaos.open(GATE)
        chaos.wait_terminal(run, others, within=180.0)
        gap = pulse.worst_gap()
    finally:
        pulse.close()
    lost_after = 3 * chaos.scale.leases.heartbeat
    if gap > lost_after:
        raise ScenarioFailed(f"expected a heartbeat every {lost_after:g} s, got none for {gap:.1f}")
    if dispatcher.says("is lost: silent") or len(node.starts) != 1:
        raise ScenarioFailed("the agent was lost or restarted")
    return Outcome(
        endings={"hostile": "failed"}, detail=f"longest time between heartbeats {gap:.2f} s"
    )


def _dag(operator: str, more: str = "") -> str:
    return f"""
from datetime import timedelta

from flow import DAG, BashOperator, PythonOperator

{more}
with DAG("hostile"):
    {operator}
"""


def fork_bomb(chaos: Chaos) -> Outcome:
    seconds = chaos.scale.outage(60.0, 8.0)
    command = f"{sys.executable} -I -S {HOSTILE_TASK} {PROCESSES} {MORE}"
    hostile = _dag(
        f"BashOperator(task_id='hostile', queue='q1', bash_command={command!r},"
        f" execution_timeout=timedelta(seconds={seconds}))"
    )

    def lasts(chaos: Chaos, _: str) -> None:
        chaos.until(
            lambda: len(chaos.task_processes()) >= PROCESSES, f"it has {PROCESSES} processes"
        )

    return _beside(chaos, hostile, lasts)


def log_flood(chaos: Chaos) -> Outcome:
    seconds = chaos.scale.outage(60.0, 10.0)
    hostile = _dag(
        f"BashOperator(task_id='hostile', queue='q1', bash_command='timeout {seconds:g} yes')"
    )

    def lasts(chaos: Chaos, run: str) -> None:
        chaos.until(
            lambda: chaos.state_of(run, "hostile") == "failed", "the flood is over", seconds + 60.0
        )

    return _beside(chaos, hostile, lasts)


#: Made of one mebibyte, so that the gigabyte exists only where it is taken for a result.
_GIBIBYTE = """
def hostile():
    return ["x" * 1024**2] * 1024

"""


def huge_result(chaos: Chaos) -> Outcome:
    hostile = _dag(
        "PythonOperator(task_id='hostile', queue='q1', python_callable=hostile)", _GIBIBYTE
    )

    def lasts(chaos: Chaos, run: str) -> None:
        chaos.until(
            lambda: chaos.state_of(run, "hostile") == "failed", "the result is refused", 120.0
        )
        (reason,) = chaos.postgres.query("SELECT reason FROM task_try WHERE outcome = 'failed'")[0]
        if "expected results of at most" not in reason:
            raise ScenarioFailed(f"expected the reason to name the limit, got {reason!r}")

    return _beside(chaos, hostile, lasts)


SCENARIOS = (
    Scenario(
        name="fork-bomb",
        fault=f"a task forks and forks ({PROCESSES} processes that ignore TERM, no cgroup)",
        expected="only that task fails, nothing of it is left, heartbeats on time",
        run=fork_bomb,
    ),
    Scenario(
        name="log-flood",
        fault="a task prints as fast as it can",
        expected="only that task fails, events are not held up, heartbeats on time",
        run=log_flood,
    ),
    Scenario(
        name="huge-result",
        fault="a task returns 1 GiB",
        expected="only that task fails, with a reason that names the limit, heartbeats on time",
        run=huge_result,
    ),
)
