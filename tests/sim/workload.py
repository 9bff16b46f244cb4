"""What is run: small DAGs of which every task behaves in one way, and people who change their
minds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from agent.core.events import Outcome
from flow import wire
from flow.dagspec import DagSpec, Resources, TaskSpec
from tests.sim.ledger import TaskProcess

#: Virtual time 0 on the wall.
START = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
#: Slots of the scheduled DAG, and seconds from one to the next.
SLOTS, SLOT = 3, 4


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How a task's process lives. Times in seconds."""

    duration: float
    exit_code: int = 0
    stubborn: bool = False
    deadly: bool = False


def _task(task_id: str, *upstream: str, **settings: Any) -> TaskSpec:
    return TaskSpec(
        task_id=task_id,
        operator="bash",
        arguments={"command": "true"},
        upstream=upstream,
        **{"queue": "q1", "retry_delay": 0.5, **settings},
    )


#: Losses of every kind; the name of a task says how it behaves.
WORK = DagSpec(
    dag_id="work",
    tasks=(
        _task("flaky", retries=2),
        _task("long", "flaky", priority_weight=5),
        _task("kept", "flaky", queue="q2", on_agent_lost="wait"),
        _task("frail", "long", queue="q2", on_agent_lost="fail", retries=1),
        _task("last", "kept", "frail", trigger_rule="all_done"),
    ),
    max_active_runs=1,
    max_active_tasks=3,
)
#: Ends that are no successes, and what they mean below.
ENDS = DagSpec(
    dag_id="ends",
    tasks=(
        _task("skipped", queue="q2"),
        _task("below_skipped", "skipped", queue="q2"),
        _task("bad", retries=1),
        _task("below_bad", "bad"),
        _task("unstartable", queue="q2"),
        _task("stubborn"),
    ),
    max_active_runs=1,
)
#: Its task ends when somebody cancels the run, and not before.
ENDLESS = DagSpec(dag_id="endless", tasks=(_task("endless", queue="q2"),))
POISON = DagSpec(dag_id="poison", tasks=(_task("deadly"), _task("beside"), _task("beside2")))
SLOTTED = DagSpec(
    dag_id="slotted",
    tasks=(_task("quick", queue="q2"),),
    schedule=f"PT{SLOT}S",
    start_date=START.isoformat(),
    end_date=(START + timedelta(seconds=SLOT * (SLOTS - 1))).isoformat(),
    catchup=True,
    max_active_runs=2,
)


def _widened(spec: DagSpec, rng: Random) -> DagSpec:
    """The same, with tasks that take one slot or two, and perhaps a device or two."""
    tasks = []
    for task in spec.tasks:
        resources = Resources(slots=rng.choice((1, 1, 2)), gpus=rng.choice((0, 0, 1)))
        tasks.append(replace(task, resources=resources))
    return replace(spec, tasks=tuple(tasks))


class Workload:
    """The DAGs of one world, and how its tasks behave. *releases*: some cannot be
    started. *lasting*: some run for longer than most faults. *waiting*: what must wait for its
    agent runs for longer than a takeover takes."""

    def __init__(
        self,
        rng: Random,
        *,
        releases: bool = False,
        lasting: bool = False,
        waiting: bool = False,
    ) -> None:
        self.wide = rng.random() < 0.4
        """Some tasks take more of their agent than one slot."""
        self.specs = [_widened(WORK, rng), _widened(ENDS, rng)] if self.wide else [WORK, ENDS]
        if rng.random() < 0.1:
            self.specs.append(POISON)
        if rng.random() < 0.4:
            self.specs.append(SLOTTED)
        if rng.random() < 0.25:
            self.specs.append(ENDLESS)
        self.triggers = ["work"]
        if releases or rng.random() < 0.5:
            self.triggers.append("ends")
        if rng.random() < 0.3:
            self.triggers.append("work")
        if POISON in self.specs:
            self.triggers.append("poison")
        if ENDLESS in self.specs:
            self.triggers.append("endless")
        self.patience = rng.uniform(2.0, 8.0)
        """When somebody cancels what would not end."""
        self.bundle = "0" * 64 if rng.random() < 0.3 else None
        self._refusals = rng.randrange(1, 4) if releases else rng.randrange(4)
        self._waiting = waiting
        self._longest = rng.choice((8.0, 14.0) if lasting else (1.0, 2.0, 2.0, 8.0, 14.0))

    def behaviour(self, task: wire.Task, rng: Random) -> Behaviour:
        """How the process of this try lives."""
        short = rng.uniform(0.02, 0.6)
        match task.task_id:
            case "flaky":
                return Behaviour(short, exit_code=1 if task.try_number == 1 else 0)
            case "bad":
                return Behaviour(short, exit_code=1)
            case "kept" if self._waiting:
                return Behaviour(rng.uniform(8.0, 16.0))
            case "long" | "kept" | "frail":
                return Behaviour(rng.uniform(0.2, self._longest), stubborn=rng.random() < 0.2)
            case "stubborn":
                return Behaviour(rng.uniform(0.5, self._longest + 1.0), stubborn=True)
            case "endless":
                return Behaviour(10_000.0)
            case "deadly":
                return Behaviour(1.0, deadly=True)
            case "beside" | "beside2":
                return Behaviour(rng.uniform(0.7, 2.0))
            case _:
                return Behaviour(short)

    def outcome(self, process: TaskProcess) -> Outcome | None:
        """What the process itself says of its end."""
        return Outcome("skipped") if process.task_id == "skipped" else None

    def refuses(self, task: wire.Task) -> bool:
        """Whether this node cannot start the task now."""
        if task.task_id == "unstartable" and self._refusals:
            self._refusals -= 1
            return True
        return False
