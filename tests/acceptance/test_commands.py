"""The real `flow` command as a user starts it, where the database is all it needs."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sysconfig
from datetime import UTC, datetime
from pathlib import Path

import click
import pytest

from flow.cli.agent import agent
from flow.cli.main import root
from tests.database_world import DatabaseWorld, dag, task

ROOT = Path(__file__).parents[2]
FLOW = Path(sysconfig.get_path("scripts")) / "flow"


@pytest.fixture
def environment(tmp_path: Path, postgres_url: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "HOME") if name in os.environ}
    return {**kept, "FLOW_HOME": str(tmp_path), "FLOW_DATABASE_URL": postgres_url}


def run(environment: dict[str, str], *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [FLOW, *argv], env=environment, capture_output=True, text=True, check=False, timeout=60
    )


def test_a_fresh_database_is_migrated_checked_and_listed(environment: dict[str, str]) -> None:
    before = run(environment, "db", "check")
    assert (before.returncode, before.stdout) == (5, "")
    assert before.stderr.endswith("; run `flow db migrate`\n")
    assert run(environment, "db", "migrate").returncode == 0
    assert run(environment, "db", "check").returncode == 0
    for noun in ("dags", "runs", "queues", "agents"):
        listed = run(environment, noun, "list", "--output", "json")
        assert (listed.returncode, listed.stdout) == (0, "[]\n"), noun


def test_two_migrations_at_once_are_safe(environment: dict[str, str]) -> None:
    both = [
        subprocess.Popen([FLOW, "db", "migrate"], env=environment, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    applied = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(map(bool, applied)) == [False, True]


def test_stdout_is_the_result_alone(environment: dict[str, str], postgres_url: str) -> None:
    world = DatabaseWorld(postgres_url, dag("d", task("t")))
    world.store.record_error(world.epoch, "bad.py", "no", datetime.now(UTC))
    listed = run(environment, "dags", "list", "--output", "json")
    assert [row["dag_id"] for row in json.loads(listed.stdout)] == ["d"]
    assert "1 file cannot be read" in listed.stderr


def test_a_trigger_without_a_dispatcher_leaves_its_request(
    environment: dict[str, str], postgres_url: str
) -> None:
    DatabaseWorld(postgres_url, dag("d", task("t", queue="q9")))
    environment["FLOW_BROKER_URL"] = "amqp://guest:guest@127.0.0.1:1/"
    done = run(environment, "dags", "trigger", "d")
    assert done.returncode == 0
    assert re.fullmatch(r"manual__\S+\n", done.stdout)
    assert done.stderr == (
        "flow: warning: queue q9: 0 agents; task t will wait for one\n"
        "flow: warning: no dispatcher has dealt with the trigger within 5 s; it stays requested "
        "until `flow dispatcher` runs\n"
    )


REFUSALS = {
    "an unknown database": ("/test_", "/no_such_", "expected a database that exists"),
    "an unknown user": ("flow@", "nobody_we_know@", "expected a user that exists"),
    "nobody listening": ("@127.0.0.1:", "@127.0.0.2:", "expected an answer"),
}


@pytest.mark.parametrize(("right", "wrong", "said"), REFUSALS.values(), ids=REFUSALS)
def test_a_database_that_cannot_be_used_is_one_line_and_exit_code_5(
    environment: dict[str, str], right: str, wrong: str, said: str
) -> None:
    environment["FLOW_DATABASE_URL"] = environment["FLOW_DATABASE_URL"].replace(right, wrong)
    done = run(environment, "dags", "list")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (5, "", 1)
    assert said in done.stderr


def test_version_is_a_version(environment: dict[str, str]) -> None:
    done = run(environment, "version")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"\d+\.\d+\.\S+\n", done.stdout)


def test_on_a_narrow_terminal_no_name_is_cut(
    environment: dict[str, str], postgres_url: str
) -> None:
    name = "a_rather_long_name_of_a_dag_that_is_wider_than_the_terminal"
    DatabaseWorld(postgres_url, dag(name, task("t")))
    master, slave = pty.openpty()
    environment |= {"COLUMNS": "40", "TERM": "xterm"}
    with subprocess.Popen([FLOW, "dags", "list"], env=environment, stdout=slave) as process:
        assert process.wait(60) == 0
    os.close(slave)
    shown = os.read(master, 65536).decode()
    os.close(master)
    assert name in shown


def commands(group: click.Group, path: tuple[str, ...]) -> list[str]:
    names = []
    for name, command in group.commands.items():
        inner = (*path, name)
        names += commands(command, inner) if isinstance(command, click.Group) else [" ".join(inner)]
    return names


def test_the_documentation_names_every_command_option_and_exit_code() -> None:
    text = (ROOT / "docs" / "commands.md").read_text()
    for line in [*commands(root, ("flow",)), "flow-agent"]:
        assert f"`{line}" in text, line
    for command in (root, agent, *(root.commands[name] for name in root.commands)):
        inner = command.commands.values() if isinstance(command, click.Group) else ()
        for item in (command, *inner):
            for param in item.params:
                if isinstance(param, click.Option):
                    assert max(param.opts, key=len) in text, (item.name, param.opts)
    for code in (0, 1, 2, 3, 4, 5, 6, 130, 141):
        assert f"| {code} |" in text, code
