"""The files between the agent and a task's process, and the interpreter that runs it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.core.events import Outcome
from agent.interpreters import Interpreters, NoInterpreter
from agent.jobs import OWN_PYTHON, START, JobFolder, libraries, read_outcome
from agent.operators import CannotPrepare, Command, Preparer
from flow import wire
from flow.dagspec import MAX_XCOM_BYTES
from tests.unit.agent_world import task

PYTHON = {"args": [1], "kwargs": {}, "env": {"A": "b"}, "cwd": None, "meaning": "value"}
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/home/flow"}


def prepare(tmp_path: Path, interpreters: Interpreters | None = None, **fields: Any) -> Command:
    preparer = Preparer.find(
        *("node1", ENVIRONMENT, tmp_path, ()),
        interpreters=interpreters or Interpreters(),
        xcom_max_bytes=1000,
    )
    inputs = {"conf": '{"a": 1}', "params": '{"p": 2}'}
    grant = wire.Grant(session=1, task_instance_id=1, try_number=2, token=77, inputs=inputs)
    values = {"operator": "python", "arguments": PYTHON, "dag_file": "x.py", "line": 9} | fields
    return preparer.prepare(task(1, 2, **values), grant, Path("/cache/b1"))


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    return JobFolder(tmp_path)


# -- to the process ----------------------------------------------------------------------------


def test_a_python_task_is_flows_runtime_under_its_interpreter(tmp_path: Path) -> None:
    command = prepare(tmp_path)
    job = tmp_path / "77.job"
    options = ("-u", "-X", "faulthandler")
    assert command.argv == (sys.executable, *options, str(START), str(job / "job.json"))
    assert (command.cwd, command.private) == (str(tmp_path / "77"), tmp_path / "77")
    assert command.job == JobFolder(job)
    assert job.stat().st_mode & 0o777 == 0o700
    assert (job / "job.json").stat().st_mode & 0o777 == 0o600


def test_the_job_file_says_all_that_the_runtime_needs(tmp_path: Path) -> None:
    prepare(tmp_path, logical_date="2025-03-01T00:00:00+00:00")
    job = tmp_path / "77.job"
    assert json.loads((job / "job.json").read_text()) == {
        "operator": "python",
        "arguments": PYTHON,
        "dag_id": "dag",
        "run_id": "run",
        "task_id": "task1",
        "map_index": -1,
        "try_number": 2,
        "dag_file": "x.py",
        "line": 9,
        "logical_date": "2025-03-01T00:00:00+00:00",
        "data_interval_start": None,
        "data_interval_end": None,
        "conf": '{"a": 1}',
        "params": '{"p": 2}',
        "outcome": f"{job}/outcome.json",
        "socket": f"{job}/socket",
        "libraries": dict(libraries()),
        "folder": "/cache/b1",
        "max_bytes": 1000,
        "setting": "[agent] python",
    }


def test_flows_own_jinja2_is_found_with_what_it_needs() -> None:
    assert {name: (Path(path) / name).is_dir() for name, path in libraries().items()} == {
        "jinja2": True,
        "markupsafe": True,
    }


def test_a_task_of_the_runtime_knows_its_folder_and_its_socket(tmp_path: Path) -> None:
    env = prepare(tmp_path).env
    assert env["FLOW_DAG_FOLDER"] == "/cache/b1"
    assert env["FLOW_TASK_SOCKET"] == f"{tmp_path}/77.job/socket"
    assert env["A"] == "b"


def test_a_command_with_templates_starts_in_flows_own_python(tmp_path: Path) -> None:
    arguments = {"command": "echo {{ ds }}", "env": {}, "cwd": "/data", "templated": True}
    command = prepare(tmp_path, operator="bash", arguments=arguments)
    assert command.argv == (*OWN_PYTHON, str(START), f"{tmp_path}/77.job/job.json")
    assert (command.cwd, command.private) == ("/data", None)
    job = json.loads((tmp_path / "77.job" / "job.json").read_text())
    assert job["bash"].endswith("/bash")


def test_a_plain_command_starts_no_python(tmp_path: Path) -> None:
    command = prepare(tmp_path, operator="bash", arguments={"command": "true"})
    assert (command.argv[1:], command.job) == (("-c", "true"), None)


# -- which interpreter -------------------------------------------------------------------------


@pytest.fixture
def pythons(tmp_path: Path) -> dict[str, str]:
    made = {}
    for name in ("own", "queue", "agent"):
        path = tmp_path / name / "python"
        path.parent.mkdir()
        path.symlink_to(sys.executable)
        made[name] = str(path)
    return made


def test_the_tasks_own_interpreter_goes_before_the_queues_and_this_before_the_agents(
    pythons: dict[str, str],
) -> None:
    settings = Interpreters.of(pythons["agent"], (f"gpu={pythons['queue']}",))
    chosen = [
        settings.choose(pythons["own"], "gpu", ENVIRONMENT),
        settings.choose(None, "gpu", ENVIRONMENT),
        settings.choose(None, "other", ENVIRONMENT),
        Interpreters().choose(None, "gpu", ENVIRONMENT),
    ]
    assert [(item.path, item.setting) for item in chosen] == [
        (pythons["own"], "python= of the task"),
        (pythons["queue"], "[agent] python_for of queue 'gpu'"),
        (pythons["agent"], "[agent] python"),
        (sys.executable, "[agent] python"),
    ]


def test_a_name_is_looked_up_in_the_path_and_a_tilde_is_the_tasks_home(
    pythons: dict[str, str],
) -> None:
    folder = Path(pythons["own"]).parent
    environment = {"PATH": str(folder), "HOME": str(folder.parent)}
    assert Interpreters("python").choose(None, "q", environment).path == pythons["own"]
    assert Interpreters("~/own/python").choose(None, "q", environment).path == pythons["own"]


def test_what_lies_beside_the_interpreter_is_in_the_path(
    tmp_path: Path, pythons: dict[str, str]
) -> None:
    path = prepare(tmp_path, Interpreters(pythons["agent"])).env["PATH"]
    assert path == f"{tmp_path}/agent:/usr/bin:/bin"


def test_an_interpreter_that_does_not_exist_is_named_with_its_setting(tmp_path: Path) -> None:
    with pytest.raises(CannotPrepare) as caught:
        prepare(tmp_path, arguments={**PYTHON, "python": "/opt/none/bin/python"})
    assert str(caught.value) == (
        "task 'task1': expected a Python interpreter on this node, got '/opt/none/bin/python', "
        "which is none that can be run; install it, or change python= of the task"
    )


@pytest.mark.parametrize("wanted", ["/usr/bin", "/etc/passwd", "no-such-python"])
def test_what_cannot_be_run_is_no_interpreter(wanted: str) -> None:
    with pytest.raises(NoInterpreter, match=r"change \[agent\] python$"):
        Interpreters(wanted).choose(None, "q", ENVIRONMENT)


# -- from the process --------------------------------------------------------------------------


def test_an_outcome_is_read_with_its_values_as_they_were_written(folder: JobFolder) -> None:
    said = {"state": "success", "xcom": {"k": '{"big": 123456789012345678901234567890}'}}
    folder.outcome.write_text(json.dumps({**said, "follow": ["a"], "unknown": 1}))
    outcome = read_outcome(folder)
    assert outcome is not None
    assert outcome == Outcome("success", "", outcome.xcom, ("a",))
    assert bytes(outcome.xcom["k"]) == b'{"big": 123456789012345678901234567890}'


def test_a_process_that_said_nothing_has_no_outcome(folder: JobFolder) -> None:
    assert read_outcome(folder) is None


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"", "Input data was truncated"),
        (b"\xff", "JSON is malformed"),
        (b"[]", "Expected `object`, got `array`"),
        (b'{"state": "running"}', "Invalid enum value 'running' - at `$.state`"),
        (b'{"state": "success", "xcom": {"a": "{"}}', "Input data was truncated"),
        (b'{"state": "success", "xcom": {"a": 1}}', "Expected `str`, got `int`"),
        (b'{"state": "success", "xcom": {"a": "[\\"\\\\ud800\\"]"}}', "Input data was truncated"),
        (
            json.dumps({"state": "success", "xcom": {"a": "1" * (MAX_XCOM_BYTES + 1)}}).encode(),
            "its results are too large",
        ),
        (b" " * (6 * MAX_XCOM_BYTES + 1), "it is too large"),
    ],
)
def test_what_is_no_outcome_is_a_failure_that_says_so(
    folder: JobFolder, said: bytes, reason: str
) -> None:
    folder.outcome.write_bytes(said)
    outcome = read_outcome(folder)
    assert outcome is not None
    assert (outcome.state, outcome.xcom) == ("failed", {})
    assert outcome.reason.startswith("expected a result that can be read, got ")
    assert reason in outcome.reason


def test_a_reason_is_made_fit_for_a_row(folder: JobFolder) -> None:
    folder.outcome.write_text(json.dumps({"state": "failed", "reason": "a\0b" + "x" * 5000}))
    outcome = read_outcome(folder)
    assert outcome is not None
    assert outcome.reason.startswith("a\N{REPLACEMENT CHARACTER}bxxx")
    assert len(outcome.reason) == 2000


def test_every_outcome_that_is_read_can_be_sent(folder: JobFolder) -> None:
    value = json.dumps("ä" * 1000, ensure_ascii=False)
    folder.outcome.write_text(json.dumps({"state": "success", "xcom": {"k": value}}))
    outcome = read_outcome(folder)
    assert outcome is not None
    message = wire.Finished(
        agent="node1",
        session=1,
        task_instance_id=1,
        try_number=1,
        token=1,
        state="success",
        started_at=1.0,
        ended_at=2.0,
        xcom=dict(outcome.xcom),
    )
    read = wire.decode(wire.encode(message))
    assert isinstance(read, wire.Finished)
    assert msgspec.json.decode(read.xcom["k"]) == "ä" * 1000
