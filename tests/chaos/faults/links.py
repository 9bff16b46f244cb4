"""An agent's connection that is closed again and again, and a second agent of the same name."""

from __future__ import annotations

import json
import signal

from agent import processes
from tests.chaos.faults.holding import HICCUP, SLOTS, fell_silent, hold
from tests.chaos.scenario import Outcome, Scenario, ScenarioFailed
from tests.chaos.workload import short_tasks
from tests.chaos.world import Chaos

CLOSED = 100
#: Seconds between two of them: an agent gets through its reconnect more often than not.
PAUSES = (0.2, 1.2)


def connections_closed(chaos: Chaos) -> Outcome:
    names = ("node1", "node2")
    chaos.start_dispatcher()
    for name in names:
        chaos.start_agent(name, "q1", name, slots=SLOTS)
    chaos.write_ledger_dag("short", short_tasks(400, "q1", seconds=0.6))
    for name in names:
        chaos.write_ledger_dag(name, hold(chaos, queue=name, count=2))
    runs = [chaos.trigger(name) for name in names]
    chaos.alive(2 * len(names))
    runs.append(chaos.trigger("short"))
    chaos.fault()
    plan = [(chaos.chance.uniform(*PAUSES), chaos.chance.randrange(1000)) for _ in range(CLOSED)]
    closed = chaos.broker.close_connections("flow-agent ", plan)
    chaos.healed()
    chaos.open("go")
    chaos.wait_terminal(*runs, within=120.0)
    return Outcome(detail=f"{closed} closed")


def namesake(chaos: Chaos) -> Outcome:
    dispatcher = chaos.start_dispatcher()
    node = chaos.start_agent("node1", "q1", slots=SLOTS)
    chaos.write_ledger_dag("hold", hold(chaos, count=SLOTS - 1))
    runs = [chaos.trigger("hold")]
    chaos.alive(SLOTS - 1)
    chaos.write_ledger_dag("short", short_tasks(30, "q1", seconds=0.2))
    chaos.fault()
    # Its first session has the number that the other one's has.
    home = chaos.root / "elsewhere"
    clone = chaos.system.start_agent("node1", "q1", slots=SLOTS, FLOW_HOME=str(home))
    chaos.until(lambda: dispatcher.says("is refused"), "the second one is refused")
    runs.append(chaos.trigger("short"))
    state = json.loads((home / "agents" / "node1" / "session.json").read_text())["state_id"]

    def untouched() -> bool:
        runs_none = all(found.keeper for found in processes.marked(state))
        return runs_none and not fell_silent(chaos)

    seconds = 2 * chaos.scale.leases.heartbeat + 2 * HICCUP
    chaos.lasts(seconds, untouched, "the second one runs nothing and the first one's tasks go on")
    if not node.serves or clone.process.poll() is not None:
        raise ScenarioFailed("expected both agents to be there still")
    code = clone.stop(signal.SIGTERM)
    chaos.healed()
    chaos.open("go")
    chaos.wait_terminal(*runs)
    return Outcome(detail=f"told to stop, it exits with {code}")


SCENARIOS = (
    Scenario(
        name="connection-closed",
        fault=f"agents' connections closed {CLOSED} times at random",
        expected="tasks continue, no rerun",
        run=connections_closed,
    ),
    Scenario(
        name="agent-of-the-same-name",
        fault="a second agent of the same name with another FLOW_HOME",
        expected="refused, live leases untouched",
        run=namesake,
    ),
)
