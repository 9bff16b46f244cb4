"""The command line itself: what it refuses, in which words, with which exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from flow.cli import agent, grammar, main
from flow.errors import ConfigError, StoreError

Refusal = tuple[str, str, str]


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOW_HOME", str(tmp_path))
    monkeypatch.setenv("FLOW_CONFIG", "")


WRONG_LINES = {
    "no command": (
        "",
        (
            "flow: expected a command (agents, board, broker, config, dags, db, dispatcher, "
            "doctor, queues, runs, standalone, tasks, variables or version), got none; "
            "see `flow --help`"
        ),
    ),
    "a noun alone": (
        "runs",
        "flow: runs: expected a command (cancel, list or show), got none; see `flow runs --help`",
    ),
    "a misspelt noun": ("dgas list", "flow: unknown command 'dgas'; did you mean 'dags'?"),
    "a misspelt verb": ("dags lsit", "flow: dags: unknown command 'lsit'; did you mean 'list'?"),
    "another verb": (
        "queues frobnicate",
        "flow: queues: unknown command 'frobnicate'; expected list",
    ),
    "a misspelt option": (
        "dags list --ouput json",
        "flow: dags list: unknown option '--ouput'; did you mean '--output'?",
    ),
    "another option": (
        "dags list --zzz",
        "flow: dags list: unknown option '--zzz'; see `flow dags list --help`",
    ),
    "a misspelt global option": (
        "--confg x version",
        "flow: unknown option '--confg'; did you mean '--config'?",
    ),
    "a bad choice": (
        "dags list --output xml",
        "flow: dags list: --output: 'xml' is not one of 'table', 'json'",
    ),
    "a missing argument": (
        "dags show",
        "flow: dags show: expected DAG, got none; see `flow dags show --help`",
    ),
    "an argument too many": (
        "agents list node1",
        "flow: agents list: got unexpected extra argument (node1)",
    ),
    "an option without its value": (
        "dags list --output",
        "flow: option '--output' requires an argument",
    ),
    "a number that is none": (
        "tasks logs R T --try x",
        "flow: tasks logs: --try: 'x' is not a valid integer range",
    ),
    "a number out of range": (
        "runs list --limit 0",
        "flow: runs list: --limit: 0 is not in the range x>=1",
    ),
    "conf that is not JSON": (
        "dags trigger d --conf {a}",
        (
            "flow: --conf: expected a JSON object, got '{a}': expecting property name enclosed in "
            "double quotes at line 1 column 2"
        ),
    ),
    "conf that is no object": (
        "dags trigger d --conf [1]",
        "flow: --conf: expected a JSON object, got '[1]'",
    ),
    "conf with NaN": (
        'dags trigger d --conf {"a":NaN}',
        "flow: --conf: expected JSON, got NaN, which JSON does not have",
    ),
}


@pytest.mark.parametrize(("line", "message"), WRONG_LINES.values(), ids=WRONG_LINES)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(
    line: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(line.split()) == 2
    assert capsys.readouterr() == ("", f"{message}\n")


WRONG_AGENTS = {
    "a misspelt option": (
        "--slot 3",
        2,
        "flow-agent: unknown option '--slot'; did you mean '--slots'?",
    ),
    "slots that are no number": ("--slots x", 2, "flow-agent: --slots: 'x' is not a valid integer"),
    "a bad name": (
        "--name Node_1",
        3,
        (
            "flow-agent: --name: expected a name of 1 to 100 lower-case letters, digits, '-', "
            "got 'Node_1'"
        ),
    ),
}


@pytest.mark.parametrize(("line", "code", "message"), WRONG_AGENTS.values(), ids=WRONG_AGENTS)
def test_a_wrong_agent_command_says_so_in_its_own_name(
    line: str, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert agent.main(line.split()) == code
    out, err = capsys.readouterr()
    assert (out, err.splitlines()[0]) == ("", message)


def test_a_missing_config_file_is_told_with_exit_code_3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "none.toml"
    assert main.main(["--config", str(missing), "config", "show"]) == 3
    expected = f"flow: {missing}: expected a configuration file, got 'No such file or directory'\n"
    assert capsys.readouterr() == ("", expected)


def test_global_options_may_follow_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "flow.toml"
    file.write_text("[agent]\nslots = 17\n")
    assert main.main(["config", "show", "--output", "json", "--config", str(file)]) == 0
    assert '"value": 17' in capsys.readouterr().out


def test_every_problem_of_the_settings_is_a_line_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "flow.toml"
    file.write_text("[dispatcher]\nlookahed = 1\n[logs]\nfoldr = 'x'\n")
    assert main.main(["--config", str(file), "dags", "list"]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.partition(": unknown")[0] for line in err.splitlines()] == [
        f"flow: {file}:2",
        f"flow: {file}:4",
    ]


def test_config_show_finds_what_is_wrong_for_a_single_agent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "flow.toml"
    file.write_text(
        '[agents.gpu]\nslots = "many"\n[agents.cpu]\nslots = 2\n[agents.io]\nslots = 0\n'
    )
    assert main.main(["--config", str(file), "config", "show"]) == 3
    assert capsys.readouterr().err.splitlines() == [
        f"flow: {file}:2: agents.gpu.slots: expected a whole number from 1 to 10000, got 'many'",
        f"flow: {file}:6: agents.io.slots: expected a whole number from 1 to 10000, got 0",
    ]


def test_passwords_are_masked_in_config_show(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FLOW_BROKER_URL", "amqp://user:geheim@host/")
    assert main.main(["config", "show"]) == 0
    out, err = capsys.readouterr()
    assert "amqp://user:***@host/" in out
    assert "geheim" not in out + err


def command_that(action: Callable[[], None]) -> click.Command:
    return grammar.Command("it", callback=action)


def fail_with_a_cause() -> None:
    try:
        raise ConnectionRefusedError(111, "Connection refused")
    except ConnectionRefusedError as error:
        raise StoreError("database: expected an answer") from error


def test_a_failure_is_one_line_without_its_cause(capsys: pytest.CaptureFixture[str]) -> None:
    assert grammar.run(command_that(fail_with_a_cause), "flow", []) == 5
    assert capsys.readouterr() == ("", "flow: database: expected an answer\n")


def test_with_v_the_causes_follow_line_by_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert grammar.run(command_that(fail_with_a_cause), "flow", ["-v"]) == 5
    assert capsys.readouterr().err.splitlines() == [
        "flow: database: expected an answer",
        "flow:   caused by ConnectionRefusedError: [Errno 111] Connection refused",
    ]


def test_a_cause_that_was_suppressed_stays_unsaid(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        try:
            raise KeyError("secret")
        except KeyError:
            raise ConfigError("wrong") from None

    assert grammar.run(command_that(fail), "flow", ["-v"]) == 3
    assert capsys.readouterr().err == "flow: wrong\n"


def test_a_bug_keeps_its_traceback() -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        grammar.run(command_that(fail), "flow", [])


def test_an_interrupt_ends_with_130_and_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    assert grammar.run(command_that(interrupt), "flow", []) == 130
    assert capsys.readouterr() == ("", "")


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "FLOW_HOME": "/nonexistent"},
    )


def test_flow_version_loads_none_of_the_heavy_libraries() -> None:
    done = run_python(
        "import sys; from flow.cli.main import main; main(['version']);"
        "heavy = {'peewee', 'aio_pika', 'pika', 'rich', 'msgspec', 'asyncio', 'dispatcher',"
        " 'agent', 'tomli', 'psycopg2', 'jinja2'};"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    assert done.stderr.splitlines()[-1] == "[]"


def test_the_help_of_all_commands_imports_none_of_them() -> None:
    done = run_python(
        "import sys; from flow.cli.main import main; main(['--help']);"
        "print(*(name for name in sys.modules if name.startswith('flow')), file=sys.stderr)"
    )
    assert done.returncode == 0
    assert sorted(done.stderr.split()) == [
        *("flow", "flow.cli", "flow.cli.grammar", "flow.cli.invocation", "flow.cli.main"),
        "flow.errors",
    ]


@pytest.mark.parametrize("name", main.COMMANDS)
def test_the_help_of_all_commands_says_of_each_what_its_own_says(name: str) -> None:
    stand_in = main.root.commands[name]
    assert isinstance(stand_in, main.Later)
    command = stand_in.load()
    assert command.name == name
    assert stand_in.get_short_help_str(1000) == command.get_short_help_str(1000)
    assert stand_in.hidden == command.hidden


def test_a_closed_pipe_is_no_error_worth_telling() -> None:
    done = subprocess.run(
        [
            "bash",
            "-c",
            f"{sys.executable} -m flow.cli.main config show | true; echo ${{PIPESTATUS[0]}}",
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "FLOW_HOME": "/nonexistent"},
    )
    assert done.stderr == ""
    assert done.stdout.strip() in ("141", "0")  # 0: it was done before the reader had gone
