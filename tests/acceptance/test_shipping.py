"""Code shipping: a node runs what only the dispatcher's machine has, a run what it began with."""

from __future__ import annotations

import json

import psycopg2

from flow.bundle import digest_of
from tests.acceptance.system import System
from tests.waiting import until

HELPED = """
from flow import DAG, BashOperator

with DAG({dag_id!r}):
    first = BashOperator(
        task_id="first", bash_command="bash $FLOW_DAG_FOLDER/helper.sh", queue="q1"
    )
    second = BashOperator(
        task_id="second",
        bash_command="$FLOW_DAG_FOLDER/helper.sh; cat $FLOW_DAG_FOLDER/sub/q.sql",
        queue="q2",
    )
    first >> second
"""


def write(system: System, helper: str, dag_id: str = "helped") -> None:
    system.write_dag(dag_id, HELPED.format(dag_id=dag_id))
    (system.dags / "sub").mkdir(exist_ok=True)
    (system.dags / "sub" / "q.sql").write_text("select 1\n")
    edit(system, helper)


def edit(system: System, helper: str) -> None:
    (system.dags / "helper.sh").write_text(f"#!/bin/bash\necho {helper}\n")
    (system.dags / "helper.sh").chmod(0o755)


def trigger(system: System, dag_id: str = "helped") -> str:
    return system.flow("dags", "trigger", dag_id).strip()


def state_of(system: System, run_id: str, task: str) -> tuple[str, str]:
    row = system.tasks(run_id)[task]
    return row["state"], row["reason"]


def has_ended(system: System, run_id: str, task: str, state: str = "success") -> bool:
    assert state_of(system, run_id, task)[0] not in {"success", "failed"} - {state}, system.tasks(
        run_id
    )
    return state_of(system, run_id, task)[0] == state


def output(system: System, run_id: str, task: str) -> str:
    return system.flow("tasks", "logs", run_id, task)


def test_a_run_keeps_the_files_it_began_with_and_the_next_one_has_the_new(system: System) -> None:
    write(system, "old")
    dispatcher = system.start_dispatcher()
    node1 = system.start_agent("node1", "q1")
    system.known("helped")
    run_id = trigger(system)
    until(lambda: has_ended(system, run_id, "first"))
    until(lambda: output(system, run_id, "first") == "old\n")
    # Its second task waits for an agent while the helper alone is edited.
    bundles = dispatcher.output.read_text().count("bundle ")
    edit(system, "new")
    until(lambda: dispatcher.output.read_text().count("bundle ") > bundles)
    node2 = system.start_agent("node2", "q2")
    until(lambda: has_ended(system, run_id, "second"))
    until(lambda: output(system, run_id, "second") == "old\nselect 1\n")
    again = trigger(system)
    until(lambda: has_ended(system, again, "second"))
    until(lambda: output(system, again, "first") == "new\n")
    until(lambda: output(system, again, "second") == "new\nselect 1\n")
    # What was fetched once is not fetched again.
    third = trigger(system)
    until(lambda: has_ended(system, third, "second"))
    assert [agent.output.read_text().count("fetched") for agent in (node1, node2)] == [2, 2]
    for name in ("node1", "node2"):
        assert not (system.root / name / "dags").exists()


def test_a_damaged_file_fails_its_task_by_name_and_disturbs_nothing_else(system: System) -> None:
    write(system, "good")
    system.write_dag(
        "other",
        "from flow import DAG, BashOperator\n"
        "with DAG('other'):\n    BashOperator(task_id='t', bash_command='true', queue='q3')\n",
    )
    system.start_dispatcher()
    system.known("helped")
    system.known("other")
    digest = digest_of((system.dags / "helper.sh").read_bytes())
    connection = psycopg2.connect(system.database_url)
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "UPDATE blob_piece SET data = overlay(data placing 'X' from 1) WHERE digest = %s",
            (digest,),
        )
        assert cursor.rowcount == 1
    connection.close()
    system.start_agent("node1", "q1")
    run_id = trigger(system)
    until(lambda: has_ended(system, run_id, "first", "failed"), 60.0)
    reason = state_of(system, run_id, "first")[1]
    assert "given back 3 times" in reason
    assert "file 'helper.sh': expected content with SHA-256" in reason
    assert reason.count("bundle ") == 1
    # The same node runs what does not need that file: an edit heals the folder.
    edit(system, "better")
    system.start_agent("node3", "q2", "q3")
    healed: list[str] = []

    def runs() -> bool:
        healed.append(system.flow("dags", "trigger", "helped").strip())
        until(lambda: state_of(system, healed[-1], "first")[0] in ("success", "failed"), 60.0)
        return state_of(system, healed[-1], "first")[0] == "success"

    until(runs, 60.0)


def test_a_folder_that_cannot_be_shipped_is_shown_and_the_last_good_one_stays(
    system: System,
) -> None:
    write(system, "good")
    system.start_dispatcher()
    system.start_agent("node1", "q1", "q2")
    system.known("helped")
    (system.dags / "out").symlink_to("/etc/passwd")
    edit(system, "unshipped")
    system.write_dag("later", HELPED.format(dag_id="later"))
    until(lambda: any(row["file"] == "(bundle)" for row in system.listing("dags", "errors")))
    (error,) = system.listing("dags", "errors")
    assert error["message"] == (
        "out: expected a link to a file of the DAG folder, got one to '/etc/passwd'; "
        "copy that in, or name the link in .flowignore"
    )
    out = system.flow("dags", "trigger", "helped", "--wait", "--output", "json")
    run_id = json.loads(out.splitlines()[-1])["run_id"]
    until(lambda: output(system, run_id, "first") == "good\n")
    assert [row["dag_id"] for row in system.listing("dags", "list")] == ["helped"]
    (system.dags / ".flowignore").write_text("/out\n")
    system.known("later")
    assert system.listing("dags", "errors") == []
    out = system.flow("dags", "trigger", "later", "--wait", "--output", "json")
    run_id = json.loads(out.splitlines()[-1])["run_id"]
    until(lambda: output(system, run_id, "first") == "unshipped\n")
