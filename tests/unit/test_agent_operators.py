"""From a task and its grant to a command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agent.gpus import Gpus
from agent.operators import (
    DEFAULT_PATH,
    CannotPrepare,
    Command,
    NotHere,
    Preparer,
    remove_quickly,
)
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


PYTHON = {"operator": "python", "dag_file": "x.py"}


def prepare_warm(tmp_path: Path, token: int = 77, *, warm: bool = True, **fields: Any) -> Command:
    (tmp_path / "work").mkdir(exist_ok=True)
    gpus = Gpus(ids=("0", "1"))
    preparer = Preparer("node1", AGENT, tmp_path / "work", (), None, gpus=gpus, warm=warm)
    grant = wire.Grant(session=1, task_instance_id=token, try_number=2, token=token)
    return preparer.prepare(task(token, 2, **{**PYTHON, **fields}), grant, tmp_path / "dags")


def test_python_tasks_of_a_file_differ_in_what_is_their_own_alone(tmp_path: Path) -> None:
    one, two = (
        prepare_warm(tmp_path, token, run_id=f"run{token}", task_id=f"t{token}", queue=f"q{token}")
        for token in (77, 78)
    )
    assert one.warm is not None
    assert one.warm == two.warm
    assert one.env != two.env
    common = [
        {name: text for name, text in command.env.items() if name not in one.warm.own}
        for command in (one, two)
    ]
    assert common[0] == common[1]
    assert common[0].keys() == {"PATH", "HOME", "LANG", "FLOW_AGENT", "FLOW_DAG_FOLDER"}
    assert "CUDA_VISIBLE_DEVICES" in one.warm.own, "each task gets devices of its own"
    assert json.loads(one.warm.about) == {
        "folder": str(tmp_path / "dags"),
        "file": "x.py",
        "setting": "[agent] python",
        "own": list(one.warm.own),
        "empty": True,
    }
    assert Path(one.warm.cwd) == tmp_path / "warm", "beside what is removed with tasks"
    assert Path(one.warm.cwd).is_dir()


def test_a_given_directory_is_where_the_file_is_read_as_well(tmp_path: Path) -> None:
    command = prepare_warm(tmp_path, arguments={"cwd": str(tmp_path)})
    assert command.warm is not None
    assert command.warm.cwd == command.cwd == str(tmp_path)
    assert json.loads(command.warm.about)["empty"] is False


def test_no_other_tasks_are_warm_and_none_where_that_is_turned_off(tmp_path: Path) -> None:
    assert prepare_warm(tmp_path, warm=False).warm is None
    assert prepare_warm(tmp_path, dag_file=None).warm is None
    assert prepare(tmp_path, arguments={"command": ":"}).warm is None


def test_a_folder_is_removed_at_once_unless_the_task_has_left_something(tmp_path: Path) -> None:
    folder = tmp_path / "7"
    known = (folder / "job.json", folder / "socket")
    assert remove_quickly(folder, known), "it is gone already"
    folder.mkdir()
    known[0].touch()
    assert remove_quickly(folder, known)
    assert not folder.exists()
    folder.mkdir()
    known[0].touch()
    (folder / "left").touch()
    assert not remove_quickly(folder, known)
    assert [path.name for path in folder.iterdir()] == ["left"]


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
