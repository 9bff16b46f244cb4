"""What Python tasks leave for each other, over the real broker and database."""

from __future__ import annotations

from pathlib import Path

from flow.dagspec import MAX_XCOM_BYTES
from tests.acceptance.system import System
from tests.waiting import until

LARGE = """
from flow import DAG, task

with DAG("large"):

    @task(queue="q1")
    def make():
        return "x" * (8 * 1024 * 1024 - 100)

    @task(queue="q2")
    def measure(*texts):
        return [len(text) for text in texts]

    @task
    def tell(sizes):
        print(*sizes)

    tell.override(queue="q1")(measure(make(), make()))
"""
#: Tells by a file that it runs, and asks once another one is there.
PATIENT = """
import pathlib, time
from flow import DAG, Variable, task

with DAG("patient"):

    @task
    def first():
        return "kept"

    @task
    def second(ti):
        pathlib.Path({folder!r}, "runs").touch()
        while not pathlib.Path({folder!r}, "ask").exists():
            time.sleep(0.01)
        print(ti.xcom_pull("first"), Variable.get("colour"))

    first() >> second()
"""


def test_the_largest_results_travel_from_node_to_node(system: System) -> None:
    system.settings["FLOW_XCOM_MAX_BYTES"] = str(MAX_XCOM_BYTES)
    system.write_dag("large", LARGE)
    system.start_dispatcher()
    system.start_agent("node1", "q1")
    system.start_agent("node2", "q2")
    system.known("large")
    run = system.flow("dags", "trigger", "large", "--wait").strip()
    size = MAX_XCOM_BYTES - 100
    until(lambda: system.flow("tasks", "logs", run, "tell") == f"{size} {size}\n")


def test_a_task_that_asks_while_no_dispatcher_runs_is_answered_by_the_next_one(
    system: System, tmp_path: Path
) -> None:
    system.write_dag("patient", PATIENT.format(folder=str(tmp_path)))
    dispatcher = system.start_dispatcher()
    system.start_agent("node1", "default")
    system.known("patient")
    system.flow("variables", "set", "colour", "red")
    run = system.flow("dags", "trigger", "patient").strip()
    until((tmp_path / "runs").exists)
    dispatcher.kill()
    system.flow("variables", "set", "colour", "blue")
    (tmp_path / "ask").touch()
    system.start_dispatcher(ready=False)
    until(lambda: system.tasks(run)["second"]["state"] == "success", within=90)
    until(lambda: system.flow("tasks", "logs", run, "second") == "kept blue\n")
    assert system.tasks(run)["second"]["try_number"] == 1
