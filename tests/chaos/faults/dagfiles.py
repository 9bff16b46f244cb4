"""DAG files that do what they can against whoever reads them."""

from __future__ import annotations

from pathlib import Path

from tests.acceptance.ledger import now
from tests.chaos import hostile_dags
from tests.chaos.scenario import Outcome, Scenario, ScenarioFailed, seconds
from tests.chaos.ticking import Ticking, p99
from tests.chaos.workload import LedgerTask
from tests.chaos.world import Chaos

#: For one file. Five of them have no end, and two are read at a time.
PARSE_TIMEOUT = 5.0
REFUSED_WITHIN = 30.0
#: Seconds by which the 99th percentile may be worse while the files are read: two of them burn a
#: core each, and the machine has two.
P99_SLACK = 0.5


def hostile_files(chaos: Chaos) -> Outcome:
    dispatcher = chaos.start_dispatcher(FLOW_DAGS_PARSE_TIMEOUT=str(PARSE_TIMEOUT))
    chaos.start_agent("node1", "q1", slots=4)
    chaos.write_ledger_dag("good", [LedgerTask(task_id="t")])
    ticking = Ticking(chaos, "q1")
    ticks = chaos.scale.count(400, 60)
    ticking.wait(10)  # the code has arrived on the node
    before = p99(ticking.wait(ticks))
    hostile_dags.write_files(chaos.system.dags)
    fault = chaos.fault()
    chaos.system.write_dag("zz_late", _LATE)
    during: list[float] = []
    while problems := hostile_dags.missing(_errors(chaos)):
        during += ticking.wait(1)
        if now() > fault + 2 * REFUSED_WITHIN:
            raise ScenarioFailed("; ".join(problems))
    recovery = now() - fault
    chaos.until(
        lambda: chaos.postgres.query("SELECT 1 FROM dag WHERE dag_id = 'late'") != [],
        "a good file that came with them is read",
    )
    chaos.wait_terminal(chaos.trigger("good"), chaos.trigger("late"))
    during += ticking.wait(max(0, ticks - len(during)))
    ticking.stop()
    hostile_dags.remove_files(chaos.system.dags)
    chaos.until(lambda: _errors(chaos) == {}, "the errors go with the files")
    # One of them may be read once more at this moment: they are, from time to time.
    chaos.until(
        lambda: not _left_behind(), "nothing is left of what the files started", 2 * PARSE_TIMEOUT
    )
    if p99(during) > before + P99_SLACK:
        raise ScenarioFailed(
            f"p99 of due to begun: {before:.2f} s before, {p99(during):.2f} s then"
        )
    if dispatcher.process.poll() is not None:
        raise ScenarioFailed("the dispatcher has ended")
    return Outcome(
        recovery=recovery,
        detail=f"p99 from due to begun {before * 1000:.0f} ms before, "
        f"{p99(during) * 1000:.0f} ms while they were read",
    )


_LATE = """
from flow import DAG, BashOperator

with DAG("late"):
    BashOperator(task_id="t", queue="q1", bash_command="true")
"""


def _errors(chaos: Chaos) -> dict[str, str]:
    return dict(chaos.postgres.query("SELECT file, message FROM import_error"))


def _left_behind() -> list[int]:
    """Processes that a DAG file has detached from itself."""
    marker = hostile_dags.LEFT_BEHIND.encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if marker in (entry / "cmdline").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:  # it has ended meanwhile
            continue
    return found


SCENARIOS = (
    Scenario(
        name="hostile-dag-files",
        fault=f"{len(hostile_dags.FILES)} hostile DAG files, a FIFO and links to themselves",
        expected="refused one by one, good DAGs run, scheduling as fast as before",
        run=hostile_files,
        bound=seconds(REFUSED_WITHIN),
    ),
)
