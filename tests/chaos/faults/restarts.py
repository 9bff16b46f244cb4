"""Agents that are restarted: by force again and again, and politely one after the other."""

from __future__ import annotations

import signal
import time

from tests.chaos.nodes import Node
from tests.chaos.scenario import Outcome, Scenario, ScenarioFailed
from tests.chaos.workload import short_tasks
from tests.chaos.world import Chaos

RESTARTS = 50
FLAPPING_SLOTS = 2
#: Tasks per run of the flapping agent.
BATCH = 60


def flapping(chaos: Chaos) -> Outcome:
    chaos.start_dispatcher()
    node = chaos.start_agent("node1", "q1", slots=FLAPPING_SLOTS)
    seconds = chaos.scale.outage(0.5, 0.05)
    chaos.write_ledger_dag("short", short_tasks(BATCH, "q1", seconds=seconds))
    runs: list[str] = []
    chaos.fault()
    for number in range(RESTARTS):
        if chaos.unfinished() < BATCH // 3:
            runs.append(chaos.trigger("short"))
        # Up for 12 s on average, or a twentieth of it.
        time.sleep(chaos.chance.uniform(0.5, 1.5) * chaos.scale.outage(11.0, 0.6))
        _wait_for_suspects(chaos)
        node.kill()
        _back(chaos, node, number + 2)
    chaos.healed()
    chaos.wait_terminal(*runs, within=120.0)
    return Outcome(
        detail=f"{RESTARTS} times, {len(runs) * BATCH} tasks",
        reruns_allowed=RESTARTS * FLAPPING_SLOTS,
    )


def _back(chaos: Chaos, node: Node, starts: int) -> None:
    chaos.until(lambda: len(node.starts) == starts and node.serves, f"agent {node.name} is back")


def _wait_for_suspects(chaos: Chaos) -> None:
    """Three deaths are poison by rule, whatever kills: so nobody is killed under a task that has
    died twice."""
    chaos.until(
        lambda: (
            not chaos.postgres.query(
                "SELECT 1 FROM task_instance WHERE deaths >= 2 AND state = 'running'"
            )
        ),
        "tasks that have died twice end",
    )


def rolling(chaos: Chaos) -> Outcome:
    chaos.start_dispatcher()
    names = ("node1", "node2", "node3")
    nodes = [chaos.start_agent(name, "q1", slots=4) for name in names]
    seconds = chaos.scale.outage(2.0, 0.5)
    chaos.write_ledger_dag("short", short_tasks(400, "q1", seconds=seconds))
    run = chaos.trigger("short")
    chaos.alive(12)
    chaos.fault()
    for node in nodes:
        stopped = node.daemon
        node.signal(signal.SIGTERM)
        _back(chaos, node, 2)
        if stopped.process.returncode != 0:
            raise ScenarioFailed(f"expected {node.name} to exit with 0: {stopped.process}")
    chaos.healed()
    left = chaos.unfinished()
    if left == 0:
        raise ScenarioFailed("expected load until the last agent was back")
    chaos.wait_terminal(run, within=300.0)
    return Outcome(detail=f"{left} tasks left after the last restart")


SCENARIOS = (
    Scenario(
        name="agent-flapping",
        fault=f"flapping agent: {RESTARTS} times kill -9 and restart, under short tasks",
        expected="nothing dropped, nothing failed as poison",
        run=flapping,
    ),
    Scenario(
        name="agents-restarted-in-turn",
        fault="rolling restart of three agents with drain, under load",
        expected="no rerun",
        run=rolling,
    ),
)
