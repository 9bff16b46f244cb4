"""A user's Python is not flow's: packages, helper modules, versions of code."""

from __future__ import annotations

from pathlib import Path

from tests.acceptance.system import System
from tests.runtime_world import make_other_python
from tests.waiting import until

#: ``torchlike`` is in the node's interpreter only, ``agent`` is the user's own module.
DAG_FILE = """
from flow import DAG, BashOperator, task
import helper

with DAG("own"):

    @task(queue="gpu")
    def use():
        import agent
        import torchlike
        print(torchlike.VERSION, helper.WORD, agent.NAME)

    use() >> BashOperator(
        task_id="later", queue="late", bash_command="cat $FLOW_DAG_FOLDER/helper.py"
    )
"""


def test_a_task_uses_its_own_interpreter_and_the_code_its_run_began_with(
    system: System, agent_environment: Path, tmp_path: Path
) -> None:
    python = make_other_python(tmp_path / "venv", torchlike="VERSION = 7\n")
    system.settings["FLOW_AGENT_PYTHON_FOR"] = f"gpu={python}"
    (system.dags / "helper.py").write_text('WORD = "old"\n')
    (system.dags / "agent.py").write_text('NAME = "my own"\n')
    system.write_dag("own", DAG_FILE)
    dispatcher = system.start_dispatcher()
    system.start_agent("node1", "gpu", bin_folder=agent_environment)
    system.known("own")
    first = system.flow("dags", "trigger", "own").strip()
    until(lambda: system.tasks(first)["use"]["state"] == "success")
    bundles = dispatcher.output.read_text().count("bundle ")
    (system.dags / "helper.py").write_text('WORD = "new"\n')
    until(lambda: dispatcher.output.read_text().count("bundle ") > bundles)
    system.start_agent("node2", "late", bin_folder=agent_environment)
    until(lambda: system.tasks(first)["later"]["state"] == "success")
    second = system.flow("dags", "trigger", "own", "--wait").strip()
    until(lambda: system.flow("tasks", "logs", first, "use") == "7 old my own\n")
    until(lambda: system.flow("tasks", "logs", second, "use") == "7 new my own\n")
    assert system.flow("tasks", "logs", first, "later") == 'WORD = "old"\n'
    until(lambda: system.flow("tasks", "logs", second, "later") == 'WORD = "new"\n')
    assert not (system.root / "node1" / "dags").exists()
