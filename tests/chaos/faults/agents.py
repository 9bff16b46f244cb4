"""Agents that die: by kill -9, by their own task, with a result in the spool."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tests.acceptance.ledger import now
from tests.chaos.faults.holding import SLOTS, began_again, hold, let_go_when_dead
from tests.chaos.scenario import Outcome, Scenario, ScenarioFailed, seconds, takeover_plus
from tests.chaos.workload import LedgerTask, short_tasks
from tests.chaos.world import Chaos

ROOT = Path(__file__).resolve().parents[3]
#: Results after whose writing the agent dies.
SPOOLED = 5


def killed_and_restarted(chaos: Chaos) -> Outcome:
    chaos.start_dispatcher()
    node = chaos.start_agent("node1", "q1", slots=SLOTS)
    chaos.write_ledger_dag("hold", hold(chaos))
    run = chaos.trigger("hold")
    chaos.alive(SLOTS)
    killed_at = chaos.fault()
    node.kill()
    let_go_when_dead(chaos, killed_at)
    began = began_again(chaos, killed_at)
    chaos.wait_terminal(run)
    return Outcome(recovery=began - node.starts[1], reruns_allowed=SLOTS)


def killed_for_good(chaos: Chaos) -> Outcome:
    chaos.start_dispatcher()
    node = chaos.start_agent("node1", "q1", slots=SLOTS, restarted=False)
    chaos.write_ledger_dag("hold", hold(chaos))
    run = chaos.trigger("hold")
    chaos.alive(SLOTS, agent="node1")
    chaos.start_agent("node2", "q1", slots=SLOTS)
    killed_at = chaos.fault()
    node.kill()
    let_go_when_dead(chaos, killed_at)
    began = began_again(chaos, killed_at)
    chaos.wait_terminal(run)
    return Outcome(recovery=began - killed_at, reruns_allowed=SLOTS)


def killed_by_its_task(chaos: Chaos) -> Outcome:
    chaos.start_dispatcher()
    node = chaos.start_agent("node1", "q1", slots=SLOTS)
    killer = LedgerTask(task_id="killer", words=("kills-agent",))
    chaos.write_ledger_dag("work", [killer, *short_tasks(12, "q1", seconds=0.5)])
    run = chaos.trigger("work")
    chaos.wait_terminal(run, within=120.0)
    deaths = sum(life.task.endswith("/killer") for life in chaos.ledger.lives())
    reason = chaos.postgres.value("SELECT reason FROM task_instance WHERE task_id = 'killer'")
    if deaths != 3 or "3 agents died" not in reason:
        raise ScenarioFailed(f"expected three deaths to be the reason, got {deaths}: {reason!r}")
    # All that ran beside it at its first death are suspects from then on, as it is itself; what
    # begins later may be hit by the second and the third.
    return Outcome(
        detail=f"{len(node.starts) - 1} restarts",
        endings={"killer": "failed"},
        reruns_allowed=2 + 3 * (SLOTS - 1),
    )


def dies_with_a_spooled_result(chaos: Chaos) -> Outcome:
    flags = chaos.root / "died"
    flags.mkdir()
    chaos.start_dispatcher()
    node = chaos.start_agent(
        "node1",
        "q1",
        bin_folder=_dying_agent(chaos.root),
        environment={"CHAOS_DIED": str(flags)},
    )
    chain = [
        LedgerTask(task_id=f"t{number}", after=[f"t{number - 1}"] if number else [])
        for number in range(SPOOLED)
    ]
    chaos.write_ledger_dag("chain", chain)
    run = chaos.trigger("chain")
    chaos.wait_terminal(run, within=120.0)
    died = {int(flag.name): float(flag.read_text()) for flag in flags.iterdir()}
    if len(died) != SPOOLED:
        raise ScenarioFailed(f"expected {SPOOLED} deaths after writing a result, got {len(died)}")
    wall_ahead = time.time() - now()
    took = [
        closed.timestamp() - wall_ahead - died[token]
        for token, closed in chaos.postgres.query("SELECT token, closed_at FROM task_try")
    ]
    return Outcome(recovery=max(took), detail=f"{len(node.starts) - 1} deaths")


def _dying_agent(root: Path) -> Path:
    """A folder with a ``flow-agent`` that dies after each first writing of a result."""
    folder = root / "bin"
    folder.mkdir()
    script = folder / "flow-agent"
    script.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\n"
        "from tests.chaos.dying_agent import main\nsys.exit(main())\n"
    )
    script.chmod(0o755)
    return folder


SCENARIOS = (
    Scenario(
        name="agent-killed",
        fault="agent kill -9, one of its tasks double-forked and ignoring TERM",
        expected="all dead, rerun once it is restarted",
        run=killed_and_restarted,
        bound=seconds(5.0),
        short=True,
    ),
    Scenario(
        name="agent-killed-for-good",
        fault="the same, never restarted",
        expected="another agent takes over when the lease has run out",
        run=killed_for_good,
        bound=takeover_plus(5.0),
        waits=True,
    ),
    Scenario(
        name="agent-killed-by-its-task",
        fault="a task that kills its agent",
        expected="three deaths, failed as poison, other tasks fine",
        run=killed_by_its_task,
    ),
    Scenario(
        name="agent-dies-with-result",
        fault=f"agent dies between spooling a result and publishing it, {SPOOLED} times",
        expected="delivered, no rerun",
        run=dies_with_a_spooled_result,
        bound=seconds(10.0),
    ),
)
