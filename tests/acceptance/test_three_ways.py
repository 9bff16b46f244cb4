"""The same DAG files come to the same ends in the foreground, without services, and with them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from tests.acceptance.home import Home
from tests.acceptance.system import System

EXAMPLES = Path(__file__).resolve().parents[2] / "dags"

#: A DAG in which everything can happen: failure, retry, skip, branch, short circuit, rules.
MIXED = """
from datetime import timedelta
from flow import DAG, BashOperator, SkipTask, task

with DAG("mixed", default_args={"retry_delay": timedelta(seconds=0.1)}):

    @task
    def number():
        return 7

    @task(retries=1)
    def second_time(ti):
        if ti.try_number < 2:
            raise ValueError("not yet")

    @task
    def nothing_to_do():
        raise SkipTask("nothing to do")

    @task.branch
    def choose(value):
        return "left" if value > 5 else "right"

    @task.short_circuit
    def enough(value):
        return value > 100

    value = number()
    left = BashOperator(
        task_id="left", bash_command="echo {{ ti.xcom_pull('number') }}", queue="q2"
    )
    right = BashOperator(task_id="right", bash_command="true")
    join = BashOperator(
        task_id="join", bash_command="true", trigger_rule="none_failed_min_one_success"
    )
    choose(value) >> [left, right] >> join
    enough(value) >> BashOperator(task_id="never", bash_command="false")
    nothing_to_do() >> BashOperator(task_id="not_needed", bash_command="false")
    bad = BashOperator(task_id="bad", bash_command="exit 3")
    bad >> BashOperator(task_id="below", bash_command="true")
    bad >> BashOperator(task_id="clean", bash_command="true", trigger_rule="all_done")
    second_time()
"""
EXPECTED = {
    "number": "success",
    "second_time": "success",
    "nothing_to_do": "skipped",
    "choose": "success",
    "enough": "success",
    "left": "success",
    "right": "skipped",
    "join": "success",
    "never": "skipped",
    "not_needed": "skipped",
    "bad": "failed",
    "below": "upstream_failed",
    "clean": "success",
}
DAGS = {"two_queues": 0, "fan_out": 0, "train": 0, "nightly_report": 0, "mixed": 1}


def put_dags(folder: Path) -> None:
    for file in EXAMPLES.glob("*.py"):
        shutil.copy(file, folder)
    (folder / "mixed.py").write_text(MIXED)


def in_the_foreground(home: Home, dag_id: str) -> dict[str, str]:
    _, err = home.ended(home.start_command("dags", "test", dag_id), DAGS[dag_id])
    told = re.findall(r"^flow: (\w+): (\w+)", err, re.MULTILINE)
    return {task_id: state for task_id, state in told if task_id != "run"}


def standalone(home: Home, dag_id: str) -> dict[str, str]:
    home.ended(home.start_command("standalone", "--run", dag_id), DAGS[dag_id])
    run_id = home.listing("runs", "list", dag_id)[0]["run_id"]
    return {row["task_id"]: row["state"] for row in home.listing("tasks", "list", run_id)}


def with_services(system: System, dag_id: str) -> dict[str, str]:
    system.known(dag_id)
    out = system.flow("dags", "trigger", dag_id, "--wait", code=DAGS[dag_id])
    return {name: row["state"] for name, row in system.tasks(out.strip()).items()}


def test_every_dag_comes_to_the_same_end_in_all_three_ways(system: System, tmp_path: Path) -> None:
    home = Home(tmp_path / "alone")
    put_dags(home.dags)
    put_dags(system.dags)
    system.start_dispatcher()
    system.start_agent("node1", "default", "q1")
    system.start_agent("node2", "gpu", "q2")
    try:
        ends = {
            dag_id: (
                in_the_foreground(home, dag_id),
                standalone(home, dag_id),
                with_services(system, dag_id),
            )
            for dag_id in DAGS
        }
    finally:
        home.close()
    for dag_id, (first, second, third) in ends.items():
        assert first == second == third, dag_id
        expected = EXPECTED if dag_id == "mixed" else dict.fromkeys(third, "success")
        assert third == expected
