"""The dispatcher dies at every named crash point, one after the other, and is started again.

One world serves all points, so each death also meets what the earlier ones have left behind.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable

from tests.acceptance.ledger import ledger_command, now
from tests.acceptance.system import Daemon
from tests.chaos.crash import arm
from tests.chaos.crashpoints import POINTS, Point
from tests.chaos.desk import Desk
from tests.chaos.scenario import Outcome, Scenario, ScenarioFailed, seconds
from tests.chaos.slots import Slots
from tests.chaos.workload import LedgerTask
from tests.chaos.world import PATIENCE, Chaos

BOUND = 20.0
SLOTS = 3
#: So that every duty of a dispatcher comes round within a second.
SETTINGS = {
    "FLOW_DISPATCHER_RECONCILE_INTERVAL": "0.5",
    "FLOW_DAGS_DAG_DIR_LIST_INTERVAL": "0.3",
    "FLOW_DAGS_MIN_FILE_PROCESS_INTERVAL": "0",
}

Finish = Callable[[], list[str]]
"""What is left to do once the dispatcher is back; returns the runs that must end then."""


class Stage:
    """A dispatcher that dies when told, two agents, and DAGs that take it everywhere."""

    def __init__(self, chaos: Chaos) -> None:
        self.chaos = chaos
        self.desk = Desk(chaos.postgres.url, chaos.broker.url)
        self.armed = chaos.root / "armed"
        self.bin = chaos.root / "crashing"
        self.bin.mkdir()
        command = self.bin / "flow"
        command.write_text(
            f'#!/bin/sh\nexec {sys.executable} -m tests.chaos.crash {self.armed} "$@"\n'
        )
        command.chmod(0o755)
        self.number = 0
        self.reruns = 0
        self.dispatcher = self.start()
        self.node = chaos.start_agent("node1", "q1")
        self.other = chaos.start_agent("node2", "q2")
        self.holder = chaos.start_agent("holder0", "q3", restarted=False)
        self._write_dags()

    def start(self) -> Daemon:
        """Start the dispatcher."""
        return self.chaos.system.start_dispatcher(bin_folder=self.bin, ready=False, **SETTINGS)

    def die_at(self, point: Point) -> float:
        """Let the dispatcher die at *point*; seconds from its death until all was well, without
        those for which a takeover has to wait. Raises ScenarioFailed."""
        self.number += 1
        spared = self.chaos.scale.leases.takeover if point.stimulus == "takeover" else 0.0
        finish = self._stimuli()[point.stimulus](point)
        self.chaos.until(
            lambda: not self.armed.exists(),
            f"a dispatcher came by at {point.name}",
            within=PATIENCE + spared,
        )
        died = now()
        code = self.dispatcher.process.wait(20)
        if code != -signal.SIGKILL:
            raise ScenarioFailed(f"the dispatcher ended with {code} at {point.name}")
        if point.stimulus == "silence":
            self.node.signal(signal.SIGCONT)
        self.dispatcher = self.start()
        led = self.chaos.until(lambda: self.dispatcher.says("leads: epoch"), "one leads again")
        ended = self.chaos.wait_terminal(*finish(), within=spared + 2 * BOUND) - spared
        return max(ended, led) - died

    def recover(self) -> None:
        """After a point that failed: the next one gets its chance all the same."""
        self.armed.unlink(missing_ok=True)
        self.node.signal(signal.SIGCONT)
        if self.dispatcher.process.poll() is not None:
            self.dispatcher = self.start()

    def close(self) -> None:
        """Of what only this scenario has."""
        self.desk.close()

    # -- what takes a dispatcher to a point ----------------------------------------------------

    def _stimuli(self) -> dict[str, Callable[[Point], Finish]]:
        return {
            "run": self._run,
            "restart": self._restart,
            "ask": self._ask,
            "ship": self._ship,
            "rejoin": self._rejoin,
            "silence": self._silence,
            "takeover": self._takeover,
            "schedule": self._schedule,
            "clear": self._clear,
            "cancel": self._cancel,
            "pause": self._pause,
        }

    def _run(self, point: Point) -> Finish:
        arm(self.armed, point)
        run = self.desk.trigger("crash")
        return lambda: [run]

    def _restart(self, point: Point) -> Finish:
        run = self.desk.trigger("crash")
        self.dispatcher.kill()
        arm(self.armed, point)
        self.dispatcher = self.start()
        return lambda: [run]

    def _ask(self, point: Point) -> Finish:
        arm(self.armed, point)
        run = self.desk.trigger("asks")
        return lambda: [run]

    def _ship(self, point: Point) -> Finish:
        arm(self.armed, point)
        before = self._version("asks")
        self._write_asking_dag()
        self.chaos.until(
            lambda: not self.armed.exists() or self._version("asks") != before,
            "the changed DAG is recorded",
        )
        run = self.desk.trigger("asks")
        return lambda: [run]

    def _rejoin(self, point: Point) -> Finish:
        arm(self.armed, point)
        self.other.signal(signal.SIGTERM)
        return lambda: [self.desk.trigger("crash")]

    def _silence(self, point: Point) -> Finish:
        self.node.signal(signal.SIGSTOP)
        arm(self.armed, point)
        run = self.desk.trigger("crash")
        return lambda: [run]

    def _takeover(self, point: Point) -> Finish:
        gate = self.chaos.gate("held")
        gate.unlink(missing_ok=True)
        run = self.desk.trigger("held")
        self.chaos.alive(1, agent=self.holder.name)
        lost, name = self.holder, f"holder{self.number}"
        self.holder = self.chaos.start_agent(name, "q3", restarted=False)
        arm(self.armed, point)
        lost.kill()
        gate.touch()
        self.reruns += 1
        return lambda: [run]

    def _schedule(self, point: Point) -> Finish:
        arm(self.armed, point)
        slots = Slots(self.chaos, f"due{self.number}", SLOTS, late=SLOTS)

        def finish() -> list[str]:
            slots.wait()
            return [self.desk.trigger("crash")]

        return finish

    def _clear(self, point: Point) -> Finish:
        run = self.desk.trigger("crash")
        self.chaos.wait_terminal(run)
        arm(self.armed, point)
        self.desk.ask(
            "clear",
            dag_id="crash",
            run_id=run,
            task_id="second",
            upstream=False,
            downstream=False,
            failed=False,
        )
        self.reruns += 1

        def finish() -> list[str]:
            self.chaos.until(lambda: self._tries(run, "second") == 2, "the cleared task ran again")
            return [run]

        return finish

    def _cancel(self, point: Point) -> Finish:
        run = self.desk.trigger("wished")
        self.chaos.alive(1, agent=self.node.name)
        arm(self.armed, point)
        self.desk.ask("cancel", dag_id="wished", run_id=run)
        return lambda: [run]

    def _pause(self, point: Point) -> Finish:
        arm(self.armed, point)
        self.desk.ask("pause", dag_id="crash")

        def finish() -> list[str]:
            run = self.desk.trigger("crash")
            self.desk.ask("unpause", dag_id="crash")
            return [run]

        return finish

    # -- DAGs and rows -------------------------------------------------------------------------

    def _write_dags(self) -> None:
        ledger = self.chaos.ledger.path
        text = _crash_dag(ledger_command(ledger, 0.05))
        self.chaos.system.write_dag("crash", text)
        self._write_asking_dag()
        held = LedgerTask(task_id="held", queue="q3", until=self.chaos.gate("held"))
        wished = LedgerTask(task_id="wished", until=self.chaos.gate("never"))
        self.chaos.write_ledger_dag("held", [held])
        self.chaos.write_ledger_dag("wished", [wished])
        kept = {"crash", "asks"}
        self.chaos.kept_dags |= kept
        self.chaos.until(lambda: all(map(self._version, kept)), "the dispatcher has the DAGs")

    def _write_asking_dag(self) -> None:
        command = ledger_command(self.chaos.ledger.path, 0.05)
        self.chaos.system.write_dag("asks", _asking_dag(command, self.number))

    def _version(self, dag_id: str) -> int:
        rows = self.chaos.postgres.query("SELECT version_id FROM dag WHERE dag_id = %s", dag_id)
        return int(rows[0][0]) if rows else 0

    def _tries(self, run_id: str, task_id: str) -> int:
        found = self.chaos.postgres.value(
            "SELECT count(*) FROM task_try y JOIN task_instance t ON t.id = y.task_pk"
            " JOIN dag_run r ON r.id = t.run_pk WHERE r.run_id = %s AND t.task_id = %s",
            run_id,
            task_id,
        )
        return int(found)


def _crash_dag(command: str) -> str:
    return f"""
from flow import DAG, BashOperator

with DAG("crash", max_active_runs=1000):
    first = BashOperator(task_id="first", queue="q1", bash_command={f"{command} && echo done"!r})
    second = BashOperator(task_id="second", queue="q2", bash_command={command!r})
    first >> second
"""


def _asking_dag(command: str, version: int) -> str:
    asking = f"{command} && echo {{{{ ti.xcom_pull('give') }}}}"
    return f"""
import subprocess

from flow import DAG, BashOperator, PythonOperator

def give():
    subprocess.run({command!r}, shell=True, check=True)
    return {version}

with DAG("asks", max_active_runs=1000):
    given = PythonOperator(task_id="give", queue="q1", python_callable=give, retries={version})
    given >> BashOperator(task_id="take", queue="q2", bash_command={asking!r})
"""


def run(chaos: Chaos) -> Outcome:
    """See the module's docstring."""
    slowest, failures = 0.0, []
    with contextlib.closing(Stage(chaos)) as stage:
        for point in POINTS:
            try:
                took = stage.die_at(point)
            except ScenarioFailed as failure:
                failures.append(f"{point.name}: {failure}")
                stage.recover()
                continue
            slowest = max(slowest, took)
            if took > BOUND:
                failures.append(f"{point.name}: {took:.1f} s until all was well")
        chaos.wait_outbox()
    if failures:
        raise ScenarioFailed("; ".join(failures))
    return Outcome(
        recovery=slowest,
        detail=f"{len(POINTS)} points, the slowest recovery",
        reruns_allowed=stage.reruns,
        endings={"wished": "failed"},
    )


SCENARIO = Scenario(
    name="dispatcher-crash-points",
    fault=f"dispatcher killed at each of {len(POINTS)} named points",
    expected="recovery, no loss, no duplicate",
    run=run,
    bound=seconds(BOUND),
)
