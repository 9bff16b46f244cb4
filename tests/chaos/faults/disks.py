"""Disks without room: under an agent's results and code, under the dispatcher's logs."""

from __future__ import annotations

from tests.acceptance.ledger import now
from tests.chaos.faults.holding import GATE, hold
from tests.chaos.scenario import Outcome, Scenario, ScenarioFailed
from tests.chaos.smalldisk import SmallDisk, small_disk
from tests.chaos.workload import LedgerTask, short_tasks
from tests.chaos.world import Chaos

SHORT = 12
#: Of a node's whole FLOW_HOME. Two bundles and some results fit.
MEGABYTES = 8
#: Of the log store; the task prints three times as much.
LOG_MEGABYTES = 1
PRINTED = 3 * 1024 * 1024


def _ran_on(chaos: Chaos, since: float) -> set[str]:
    """The agents that started a task after *since*."""
    return {life.agent for life in chaos.ledger.lives() if life.first > since}


def results_on_a_full_disk(chaos: Chaos) -> Outcome:
    with small_disk(chaos.root / "node1", MEGABYTES) as disk:
        chaos.start_dispatcher()
        node = chaos.start_agent("node1", "q1", "only1", slots=4)
        chaos.write_ledger_dag("hold", hold(chaos, queue="only1", count=3))
        chaos.write_ledger_dag("short", short_tasks(SHORT, "q1"))
        chaos.write_ledger_dag("pinned", [LedgerTask(task_id="pinned", queue="only1")])
        held = chaos.trigger("hold")
        chaos.alive(3)
        chaos.start_agent("node2", "q1")
        disk.fill()
        full_at = chaos.fault()
        chaos.open(GATE)  # three results, and no room for any
        chaos.wait_terminal(held)
        _suspended(chaos, "node1")
        chaos.wait_terminal(chaos.trigger("short"))
        pinned = chaos.trigger("pinned")
        chaos.until(
            lambda: "1 agent, suspended" in chaos.system.flow("tasks", "list", pinned),
            "a task that only node1 may run says why it waits",
        )
        if "node1" in _ran_on(chaos, full_at):
            raise ScenarioFailed("a suspended agent started a task")
        disk.empty()
        healed = chaos.healed()
        recovery = chaos.wait_terminal(pinned) - healed
        chaos.until(lambda: _spool(disk) == [], "nothing is left in the spool")
        if len(node.starts) != 1:
            raise ScenarioFailed("the agent was restarted")
    return Outcome(recovery=recovery, detail="3 results without room, all counted")


def _suspended(chaos: Chaos, name: str) -> None:
    """Wait until agent and dispatcher say so, with the reason."""
    full = "No space left on device"
    chaos.until(
        lambda: chaos.nodes[name].daemon.says(f"suspended: {full}"), f"{name} says that it is full"
    )

    def listed() -> bool:
        (row,) = [row for row in chaos.system.listing("agents", "list") if row["name"] == name]
        return bool(row["state"] == "suspended")

    chaos.until(listed, f"`flow agents list` shows {name} as suspended")


def _spool(disk: SmallDisk) -> list[str]:
    return [path.name for path in disk.path.glob("agents/*/spool/*")]


def code_on_a_full_disk(chaos: Chaos) -> Outcome:
    """The disk is full before the first task comes, and when the agent is restarted."""
    with small_disk(chaos.root / "node1", MEGABYTES) as disk:
        chaos.start_dispatcher()
        node = chaos.start_agent("node1", "q1", slots=4)
        chaos.write_ledger_dag("short", short_tasks(SHORT, "q1"))
        disk.fill()
        full_at = chaos.fault()
        run = chaos.trigger("short")
        _suspended(chaos, "node1")
        node.kill()  # and the next process has no room for the number of its session
        chaos.until(lambda: len(node.starts) > 1, "the agent is started again")
        chaos.until(
            lambda: node.daemon.says("no session can begin: No space left on device"),
            "it says what it waits for",
        )
        chaos.start_agent("node2", "q1")
        chaos.wait_terminal(run)
        if _ran_on(chaos, full_at) != {"node2"}:
            raise ScenarioFailed("an agent without room started a task")
        disk.empty()
        healed = chaos.healed()
        recovery = (
            chaos.until(lambda: node.daemon.says("of agent node1 begins"), "node1 is back") - healed
        )
        chaos.nodes["node2"].restarted = False
        chaos.nodes["node2"].kill()
        chaos.wait_terminal(chaos.trigger("short"))
        if _ran_on(chaos, healed) != {"node1"}:
            raise ScenarioFailed("expected node1 to run tasks again")
        if len(node.starts) != 2:
            raise ScenarioFailed(f"the agent was started {len(node.starts)} times")
    return Outcome(recovery=recovery)


def logs_on_a_full_disk(chaos: Chaos) -> Outcome:
    with small_disk(chaos.root / "logs", LOG_MEGABYTES) as disk:
        dispatcher = chaos.start_dispatcher(FLOW_LOGS_FOLDER=str(disk.path))
        chaos.start_agent("node1", "q1", slots=4)
        chaos.write_ledger_dag("short", short_tasks(SHORT, "q1"))
        chaos.system.write_dag("loud", _LOUD)
        chaos.until(
            lambda: chaos.postgres.query("SELECT 1 FROM dag WHERE dag_id = 'loud'") != [],
            "the dispatcher has DAG loud",
        )
        chaos.fault()
        loud = chaos.trigger("loud")
        chaos.until(
            lambda: dispatcher.says("cannot be written: No space left on device"),
            "the dispatcher says that the logs have no room",
        )
        began = now()
        chaos.wait_terminal(chaos.trigger("short"), loud)  # events are not held up by output
        while_full = now() - began
        disk.grow(64)
        healed = chaos.healed()
        log = disk.path / _log_name(chaos, loud)
        recovery = chaos.until(lambda: log.stat().st_size == PRINTED, "all output is kept") - healed
        if b"\0" in log.read_bytes():
            raise ScenarioFailed("output is missing in the middle")
        if not dispatcher.says("output of tasks is stored again"):
            raise ScenarioFailed("the dispatcher does not say that it is over")
    return Outcome(
        recovery=recovery, detail=f"{SHORT} tasks in {while_full:.1f} s while nothing was stored"
    )


_LOUD = f"""
from flow import DAG, BashOperator

with DAG("loud"):
    BashOperator(
        task_id="loud",
        queue="q1",
        bash_command="head -c {PRINTED} /dev/zero | tr '\\\\0' x",
    )
"""


def _log_name(chaos: Chaos, run_id: str) -> str:
    run, task = chaos.postgres.query(
        "SELECT r.id, t.id FROM dag_run r JOIN task_instance t ON t.run_pk = r.id"
        " WHERE r.run_id = %s",
        run_id,
    )[0]
    return f"{run}/{task}/1.log"


SCENARIOS = (
    Scenario(
        name="disk-full-results",
        fault="no room on an agent's disk when three tasks end",
        expected="results sent and kept, the node takes nothing until there is room",
        run=results_on_a_full_disk,
    ),
    Scenario(
        name="disk-full-code",
        fault="no room on an agent's disk for code, then not for a session either",
        expected="nothing fails, another agent runs it, no crash loop",
        run=code_on_a_full_disk,
    ),
    Scenario(
        name="disk-full-logs",
        fault="no room for the output that the dispatcher stores",
        expected="events are not held up, all output is there once there is room",
        run=logs_on_a_full_disk,
    ),
)
