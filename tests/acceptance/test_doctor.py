"""`flow doctor` as a user calls it, on a control machine and on a node."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.acceptance.system import BIN, System
from tests.waiting import until


def doctor(system: System, bin_folder: Path, *argv: str, **environ: str) -> list[dict[str, str]]:
    """Its findings on node gpu1, which must be no problems."""
    done = subprocess.run(
        [bin_folder / "flow", "doctor", "--output", "json", *argv],
        env=system.node_environment("gpu1", FLOW_AGENT_NAME="gpu1", **environ),
        cwd=system.root,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    found: list[dict[str, str]] = json.loads(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.startswith("flow: doctor: no problems, ")
    return found


def said(found: list[dict[str, str]], check: str) -> list[str]:
    return [f"{row['level']} {row['what']}" for row in found if row["check"] == check]


@pytest.mark.slow
def test_a_system_at_work_has_no_problems(system: System, agent_environment: Path) -> None:
    system.write_dag(
        "d",
        "from flow import DAG, BashOperator\n"
        "with DAG('d'):\n"
        "    BashOperator(task_id='t', queue='gpu', bash_command='true')\n",
    )
    system.start_dispatcher()
    system.start_agent("gpu1", "gpu", bin_folder=agent_environment)
    system.known("d")
    system.flow("dags", "trigger", "d", "--wait")

    control = system.flow("doctor").splitlines()
    assert "ok       schema: its schema is this release's" in control
    assert any(line.startswith("ok       schema: dispatcher ") for line in control)
    assert not any(line.startswith("problem") for line in control)

    # As on a node: no database library, no address of a database, and nobody says who it is.
    node: list[dict[str, str]] = []

    def served() -> bool:
        node[:] = doctor(system, agent_environment, FLOW_AGENT_QUEUES="gpu")
        return "ok queue gpu: 1 consume it, 0 tasks wait" in said(node, "queues")

    until(served, every=0.2)
    assert said(node, "queues")[0] == "ok agent gpu1 runs on this machine"
    assert said(node, "rights")[0] == "ok the user of agent gpu1 may do all that it needs"
    assert said(node, "code cache")[0].endswith("files are whole")
    assert not said(node, "database")


def test_a_problem_is_exit_code_1_and_says_what_to_do(system: System) -> None:
    system.database_url = f"{system.database_url}x"
    out = system.flow("doctor", code=1)
    (line,) = (line for line in out.splitlines() if line.startswith("problem"))
    assert line.startswith("problem  database: database flow@")
    assert line.endswith("run createdb, or correct its URL")


def test_no_password_is_ever_shown(system: System) -> None:
    wrong = system.broker_url.replace("guest:guest@", "guest:hunter2@")
    done = subprocess.run(
        [BIN / "flow", "doctor", "-v"],
        env=system.environment(FLOW_BROKER_URL=wrong),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "login refused" in done.stdout
    assert "hunter2" not in done.stdout + done.stderr
