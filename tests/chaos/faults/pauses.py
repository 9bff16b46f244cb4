"""Agents and keepers that are stopped, and keepers that die."""

from __future__ import annotations

import signal

from agent import processes
from tests.chaos.faults.holding import (
    SLOTS,
    began_again,
    fell_silent,
    hold,
    let_go_when_dead,
)
from tests.chaos.nodes import Node
from tests.chaos.scenario import Outcome, Scenario, ScenarioFailed, takeover_plus
from tests.chaos.workload import LedgerTask, short_tasks
from tests.chaos.world import Chaos


def _brief(chaos: Chaos) -> LedgerTask:
    """A task that ends while its agent cannot hear of it."""
    return LedgerTask(task_id="brief", until=chaos.gate("brief"))


def _end_brief(chaos: Chaos) -> None:
    chaos.open("brief")
    chaos.until(
        lambda: any(life.finished for life in chaos.ledger.lives()), "the brief task has ended"
    )


def stopped_within_the_lease(chaos: Chaos) -> Outcome:
    chaos.start_dispatcher()
    node = chaos.start_agent("node1", "q1", slots=SLOTS, restarted=False)
    chaos.write_ledger_dag("hold", [*hold(chaos, count=SLOTS - 1), _brief(chaos)])
    run = chaos.trigger("hold")
    chaos.alive(SLOTS)
    chaos.start_agent("node2", "q1", slots=SLOTS)
    chaos.fault()
    node.signal(signal.SIGSTOP)
    _end_brief(chaos)
    pause = chaos.scale.outage(20.0, 2.0)
    chaos.lasts(pause, lambda: not fell_silent(chaos), "nothing ends")
    chaos.healed()
    node.signal(signal.SIGCONT)
    chaos.open("go")
    chaos.wait_terminal(run)
    return Outcome(detail=f"{pause:g} s")


def stopped_beyond_the_lease(chaos: Chaos) -> Outcome:
    dispatcher = chaos.start_dispatcher()
    node = chaos.start_agent("node1", "q1", slots=SLOTS, restarted=False)
    chaos.write_ledger_dag("hold", [*hold(chaos, count=SLOTS - 1), _brief(chaos)])
    run = chaos.trigger("hold")
    chaos.alive(SLOTS)
    chaos.start_agent("node2", "q1", slots=SLOTS)
    stopped_at = chaos.fault()
    node.signal(signal.SIGSTOP)
    _end_brief(chaos)
    let_go_when_dead(chaos, stopped_at)
    began = began_again(chaos, stopped_at)
    ended = chaos.wait_terminal(run)
    pause = chaos.scale.outage(120.0, 12.0)
    chaos.lasts(max(0.0, stopped_at + pause - ended), lambda: True, "it stays stopped")
    chaos.healed()
    node.signal(signal.SIGCONT)
    chaos.until(
        lambda: dispatcher.says("agent node1 is here: session 2"),
        "the agent notices that it has lapsed, and begins a new session",
    )
    # Both agents work, whoever gets what.
    chaos.write_ledger_dag("after", short_tasks(8, "q1"))
    chaos.wait_terminal(chaos.trigger("after"))
    accepted = chaos.postgres.query(
        "SELECT y.agent, y.outcome FROM task_try y JOIN task_instance t ON t.id = y.task_pk"
        " WHERE t.task_id = 'brief' ORDER BY y.id"
    )
    if accepted != [("node1", "lost"), ("node2", "success")]:
        raise ScenarioFailed(f"expected the late result to be refused, got {accepted}")
    return Outcome(recovery=began - stopped_at, detail=f"{pause:g} s", reruns_allowed=SLOTS)


def keeper_stopped(chaos: Chaos) -> Outcome:
    chaos.start_dispatcher()
    node = chaos.start_agent("node1", "q1", slots=SLOTS, restarted=False)
    chaos.write_ledger_dag("hold", [*hold(chaos, count=SLOTS - 1), _brief(chaos)])
    run = chaos.trigger("hold")
    chaos.alive(SLOTS)
    chaos.start_agent("node2", "q1", slots=SLOTS)
    keeper = _keeper(node)
    chaos.fault()
    processes.send_signal(keeper, signal.SIGSTOP)
    _end_brief(chaos)
    pause = chaos.scale.outage(120.0, 12.0)
    chaos.lasts(pause, lambda: not fell_silent(chaos), "the tasks go on")
    chaos.healed()
    processes.send_signal(keeper, signal.SIGCONT)
    chaos.open("go")
    chaos.wait_terminal(run)
    return Outcome(detail=f"{pause:g} s")


def keeper_killed(chaos: Chaos) -> Outcome:
    chaos.start_dispatcher()
    node = chaos.start_agent("node1", "q1", slots=SLOTS, restarted=False)
    chaos.write_ledger_dag("hold", hold(chaos))
    run = chaos.trigger("hold")
    chaos.alive(SLOTS)
    keeper = _keeper(node)
    killed_at = chaos.fault()
    processes.send_signal(keeper, signal.SIGKILL)
    let_go_when_dead(chaos, killed_at)
    began = began_again(chaos, killed_at)
    chaos.wait_terminal(run)
    return Outcome(recovery=began - killed_at, reruns_allowed=SLOTS)


def _keeper(node: Node) -> processes.Process:
    keeper = node.keeper
    if keeper is None:
        raise ScenarioFailed(f"expected agent {node.name} to have a keeper")
    return keeper


SCENARIOS = (
    Scenario(
        name="agent-stopped",
        fault="agent SIGSTOP for less than its lease, then CONT",
        expected="tasks continue, no rerun",
        run=stopped_within_the_lease,
        waits=True,
    ),
    Scenario(
        name="agent-stopped-for-long",
        fault="agent SIGSTOP for longer than its lease, then CONT",
        expected="killed by its keeper, taken over, late result refused",
        run=stopped_beyond_the_lease,
        bound=takeover_plus(5.0),
        waits=True,
    ),
    Scenario(
        name="keeper-stopped",
        fault="SIGSTOP of the keeper alone for longer than the lease, then CONT",
        expected="tasks continue, no rerun, their results arrive afterwards",
        run=keeper_stopped,
        waits=True,
    ),
    Scenario(
        name="keeper-killed",
        fault="kill -9 of the keeper alone",
        expected="all dead, rerun",
        run=keeper_killed,
        bound=lambda scale: scale.leases.lease,
    ),
)
