"""``flow runs cancel`` and ``flow tasks clear`` over the real system."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.acceptance.ledger import LEDGER_TASK, overlaps, read_ledger
from tests.acceptance.system import System
from tests.waiting import until


@pytest.fixture
def ledger(system: System, tmp_path: Path) -> Path:
    path = tmp_path / "ledger"
    system.settings["FLOW_AGENT_KILL_GRACE"] = "0.5"
    stubborn = f"trap '' TERM; {sys.executable} -I -S {LEDGER_TASK} {path} 60 & wait; wait"
    system.write_dag(
        "long",
        "from flow import DAG, BashOperator\n"
        "with DAG('long'):\n"
        f"    first = BashOperator(task_id='first', bash_command={stubborn!r}, retries=3)\n"
        "    first >> BashOperator(task_id='second', bash_command='true')\n"
        "with DAG('mend'):\n"
        f"    bad = BashOperator(task_id='bad', bash_command='test -e {tmp_path}/mended')\n"
        "    bad >> BashOperator(task_id='after', bash_command='true')\n",
    )
    system.start_dispatcher()
    system.start_agent("node1", "default")
    system.known("long")
    return path


def state_of(system: System, run_id: str, task_id: str) -> str:
    return str(system.tasks(run_id)[task_id]["state"])


def test_cancel_kills_what_runs_and_skips_the_rest(system: System, ledger: Path) -> None:
    run_id = system.flow("dags", "trigger", "long").strip()
    until(ledger.exists)
    system.flow("runs", "cancel", run_id)
    until(lambda: state_of(system, run_id, "first") == "failed")
    tasks = system.tasks(run_id)
    assert tasks["first"]["reason"].startswith("cancelled by user ")
    assert tasks["second"]["state"] == "skipped"
    (run,) = system.listing("runs", "list")
    assert run["state"] == "failed"
    (life,) = read_ledger(ledger)
    assert not life.finished
    assert "expected one that has not ended" in failure(system, "runs", "cancel", run_id, code=1)


def test_cancel_and_then_clear_starts_the_new_copy_after_the_old_one_is_dead(
    system: System, ledger: Path
) -> None:
    run_id = system.flow("dags", "trigger", "long").strip()
    until(ledger.exists)
    system.flow("runs", "cancel", run_id)
    system.flow("tasks", "clear", run_id)
    until(lambda: len(read_ledger(ledger)) == 2)
    assert overlaps(read_ledger(ledger)) == []
    assert system.tasks(run_id)["first"]["try_number"] == 2
    system.flow("runs", "cancel", run_id)
    until(lambda: state_of(system, run_id, "first") == "failed")


def test_clear_failed_runs_what_failed_and_what_waited_for_it(
    system: System, ledger: Path, tmp_path: Path
) -> None:
    del ledger
    run_id = system.flow("dags", "trigger", "mend", "--wait", code=1).strip()
    (tmp_path / "mended").touch()
    system.flow("tasks", "clear", run_id, "--failed")
    until(lambda: state_of(system, run_id, "after") == "success")
    assert system.tasks(run_id)["bad"]["try_number"] == 2
    assert "got none" in failure(system, "tasks", "clear", run_id, "--failed", code=1)
    assert "did you mean 'bad'" in failure(system, "tasks", "clear", run_id, "badd", code=1)


def failure(system: System, *arguments: str, code: int) -> str:
    """What a command that fails says, in one line."""
    process = system.start_command(*arguments)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err.count("\n")) == (code, "", 1)
    return err
