"""From a task and its grant to a command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.operators import DEFAULT_PATH, CannotPrepare, Command, NotHere, Preparer
from agent.service import default_name
from flow import wire
from flow.errors import FlowError
from tests.unit.agent_world import task

AGENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/home/flow",
    "LANG": "C.UTF-8",
    "SECRET": "s",
    "FLOW_BROKER_URL": "amqp://user:password@broker/",
    "FLOW_DATABASE_URL": "postgresql://user:password@db/",
    "WANTED": "yes",
}


def prepare(tmp_path: Path, *, pass_env: tuple[str, ...] = (), **fields: Any) -> Command:
    preparer = Preparer.find("node1", AGENT, tmp_path, pass_env)
    grant = wire.Grant(session=1, task_instance_id=1, try_number=2, token=77)
    return preparer.prepare(task(1, 2, **fields), grant)


def test_a_bash_command_is_one_argument_of_bash(tmp_path: Path) -> None:
    command = prepare(tmp_path, arguments={"command": "echo $HOME; exit 3"})
    assert command.argv[0].endswith("/bash")
    assert command.argv[1:] == ("-c", "echo $HOME; exit 3")


def test_the_environment_is_clean(tmp_path: Path) -> None:
    command = prepare(tmp_path, arguments={"command": ":", "env": {"OWN": "1", "LANG": "C"}})
    assert command.env == {
        "PATH": "/usr/bin:/bin",
        "HOME": "/home/flow",
        "LANG": "C",
        "OWN": "1",
        "FLOW_DAG_ID": "dag",
        "FLOW_RUN_ID": "run",
        "FLOW_TASK_ID": "task1",
        "FLOW_MAP_INDEX": "-1",
        "FLOW_TRY_NUMBER": "2",
        "FLOW_TOKEN": "77",
        "FLOW_QUEUE": "q1",
        "FLOW_AGENT": "node1",
        "FLOW_TASK_INSTANCE_ID": "1",
    }


def test_a_task_is_told_what_its_run_is_about(tmp_path: Path) -> None:
    moments = ("2026-11-20T00:00:00+00:00", "2026-11-21T00:00:00+00:00")
    command = prepare(
        tmp_path,
        logical_date=moments[0],
        data_interval_start=moments[0],
        data_interval_end=moments[1],
    )
    names = ("FLOW_LOGICAL_DATE", "FLOW_DATA_INTERVAL_START", "FLOW_DATA_INTERVAL_END")
    assert [command.env[name] for name in names] == [moments[0], *moments]


def test_named_variables_are_passed_but_never_the_agents_own_secrets(tmp_path: Path) -> None:
    command = prepare(tmp_path, pass_env=("WANTED", "FLOW_BROKER_URL", "FLOW_DATABASE_URL", "NO"))
    assert command.env["WANTED"] == "yes"
    assert not [value for value in command.env.values() if "password" in value]


def test_a_task_cannot_pretend_to_be_another(tmp_path: Path) -> None:
    command = prepare(tmp_path, arguments={"command": ":", "env": {"FLOW_TOKEN": "1"}})
    assert command.env["FLOW_TOKEN"] == "77"


def test_a_task_without_a_directory_gets_a_private_one(tmp_path: Path) -> None:
    command = prepare(tmp_path)
    assert command.cwd == str(tmp_path / "77")
    assert command.private == tmp_path / "77"
    assert (tmp_path / "77").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("cwd", "expected"), [("/data", "/data"), ("~", "/home/flow"), ("~/x", "/home/flow/x")]
)
def test_a_given_directory_is_used_with_its_tilde_expanded(
    tmp_path: Path, cwd: str, expected: str
) -> None:
    command = prepare(tmp_path, arguments={"command": ":", "cwd": cwd})
    assert (command.cwd, command.private) == (expected, None)
    assert list(tmp_path.iterdir()) == []


def test_an_agent_without_a_path_uses_the_usual_one(tmp_path: Path) -> None:
    preparer = Preparer.find("node1", {}, tmp_path, ())
    grant = wire.Grant(session=1, task_instance_id=1, try_number=1, token=77)
    assert preparer.prepare(task(), grant).env["PATH"] == DEFAULT_PATH


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        (
            {"operator": "bsh"},
            NotHere,
            (
                "task 'task1': expected an operator that this agent knows, got 'bsh'; "
                "did you mean 'bash'?; upgrade the agent"
            ),
        ),
        (
            {"arguments": {}},
            CannotPrepare,
            "task 'task1': arguments of bash: Object missing required field `command`",
        ),
        (
            {"arguments": {"command": ":", "env": {"A": 1}}},
            CannotPrepare,
            "task 'task1': arguments of bash: Expected `str`, got `int` - at `$.env[...]`",
        ),
    ],
)
def test_what_makes_no_command_is_named(
    tmp_path: Path, fields: dict[str, Any], error: type[FlowError], message: str
) -> None:
    with pytest.raises(error) as caught:
        prepare(tmp_path, **fields)
    assert str(caught.value) == message


def test_a_missing_bash_is_named(tmp_path: Path) -> None:
    preparer = Preparer("node1", {}, tmp_path, (), bash=None)
    grant = wire.Grant(session=1, task_instance_id=1, try_number=1, token=77)
    with pytest.raises(NotHere, match="expected bash in PATH, got none; install bash"):
        preparer.prepare(task(), grant)


@pytest.mark.parametrize(
    ("host", "queue", "expected"),
    [
        ("gpu1.example.org", "gpu.a100", "gpu1-gpu-a100"),
        ("Box_7", "Default", "box-7-default"),
        ("h" * 80, "q", "h" * 60),
    ],
)
def test_the_default_name_fits_the_rule_for_names(
    monkeypatch: pytest.MonkeyPatch, host: str, queue: str, expected: str
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: host)
    assert default_name((queue,)) == expected
