"""What users ask for while a task refuses to die."""

from __future__ import annotations

from tests.chaos.scenario import Outcome, Scenario, ScenarioFailed
from tests.chaos.workload import LedgerTask
from tests.chaos.world import Chaos

#: Seconds between TERM and KILL: long enough for a second command meanwhile.
GRACE = "3"


def cancelled_then_cleared(chaos: Chaos) -> Outcome:
    chaos.start_dispatcher()
    environment = {} if chaos.scale.full else _patient()
    chaos.start_agent("node1", "q1", environment=environment)
    task = LedgerTask(task_id="deaf", until=chaos.gate("go"), words=("stubborn", "detached"))
    chaos.write_ledger_dag("deaf", [task])
    run = chaos.trigger("deaf")
    chaos.alive(1)
    cancelled_at = chaos.fault()
    chaos.system.flow("runs", "cancel", run)
    chaos.system.flow("tasks", "clear", run, "deaf")
    chaos.until(lambda: len(chaos.ledger.lives()) == 2, "a new copy runs")
    chaos.open("go")
    chaos.wait_terminal(run)
    asked = [
        event
        for (event,) in chaos.postgres.query(
            "SELECT event FROM audit WHERE entity = 'task' AND source = 'running' ORDER BY id"
        )
    ]
    if asked[:2] != ["ask to cancel", "ask to clear"]:
        raise ScenarioFailed(f"expected both wishes while it ran, got {asked}")
    first, second = chaos.ledger.lives()
    return Outcome(
        detail=f"old copy dead after {first.last - cancelled_at:.2f} s, new one "
        f"{second.first - first.last:.2f} s later",
        reruns_allowed=1,
    )


def _patient() -> dict[str, str]:
    return {"FLOW_AGENT_KILL_GRACE": GRACE, "FLOW_LEASE_MARGIN": GRACE}


SCENARIOS = (
    Scenario(
        name="cancelled-then-cleared",
        fault="cancel, then clear, of a task that ignores TERM",
        expected="the new copy starts only after the old one is dead",
        run=cancelled_then_cleared,
        short=True,
    ),
)
