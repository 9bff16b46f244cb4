"""The embedded default: real commands on one FLOW_HOME, and no service anywhere."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import pty
import shutil
import signal
import stat
import struct
import subprocess
import termios
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.acceptance.home import Home
from tests.acceptance.ledger import ledger_chain, overlaps, read_ledger
from tests.acceptance.system import BIN
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "dags" / "two_queues.py"
ONE = "with DAG('one'):\n    BashOperator(task_id='t', bash_command='echo hello')\n"
FAILS = (
    "with DAG('fails'):\n"
    "    bad = BashOperator(task_id='bad', bash_command='echo oh no; exit 3')\n"
    "    bad >> BashOperator(task_id='never', bash_command='true', queue='q2')\n"
)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path)
    yield home
    home.close()


def waits_for(go: Path, dag_id: str = "waits") -> str:
    """A DAG whose task goes on once *go* exists."""
    command = f"echo before; until test -e {go}; do sleep 0.02; done; echo after"
    return f"with DAG({dag_id!r}):\n    BashOperator(task_id='t', bash_command={command!r})\n"


def states(out: str) -> dict[str, tuple[str, ...]]:
    """A table of task instances: task to (state, queue, agent)."""
    rows = [line.split() for line in out.splitlines()]
    header = rows[0]
    wanted = [header.index(name) for name in ("state", "queue", "agent")]
    return {row[0]: tuple(row[at] for at in wanted) for row in rows[1:]}


# -- standalone --run ------------------------------------------------------------------------------


def test_a_dag_runs_once_on_an_agent_per_queue_and_its_tasks_are_printed(home: Home) -> None:
    shutil.copy(EXAMPLE, home.dags)
    out, err = home.ended(home.start_command("standalone", "--run", "two_queues"))
    assert states(out) == {
        "a": ("success", "q1", "local-q1"),
        "b": ("success", "q2", "local-q2"),
        "c": ("success", "q1", "local-q1"),
        "d": ("success", "q2", "local-q2"),
    }
    assert err.splitlines()[-1].endswith(": success")
    assert [row["state"] for row in home.listing("agents", "list")] == ["offline", "offline"]
    (run,) = home.listing("runs", "list")
    assert home.flow("tasks", "logs", run["run_id"], "a").startswith("a runs on ")


def test_a_failing_dag_fails_the_command(home: Home) -> None:
    home.write_dag("fails", FAILS)
    out, err = home.ended(home.start_command("standalone", "--run", "fails"), code=1)
    assert states(out)["bad"][0] == "failed"
    assert "exit code 3" in out
    assert "never" in out
    assert err.splitlines()[-1].endswith(": failed")


def test_an_unknown_dag_is_answered_with_what_there_is_and_what_is_wrong(home: Home) -> None:
    home.write_dag("one", ONE)
    home.write_dag("broken", "with DAG('two'):\n    1 / 0\n")
    _, err = home.ended(home.start_command("standalone", "--run", "onee"), code=6)
    first, second = (line for line in err.splitlines() if line.startswith("flow: "))
    assert first.startswith("flow: dag 'onee': expected a DAG of the files in ")
    assert first.endswith("; did you mean 'one'?")
    assert second == "flow: broken.py:3: ZeroDivisionError: division by zero"


def test_a_dag_folder_that_is_missing_is_named(home: Home) -> None:
    home.settings["FLOW_DAGS_FOLDER"] = "/nowhere"
    for command in (("standalone", "--run", "one"), ("dags", "test", "one")):
        _, err = home.ended(home.start_command(*command), code=3)
        assert err == (
            "flow: dags.folder: expected a folder, got none at /nowhere; "
            "create it, or set FLOW_DAGS_FOLDER\n"
        )


def test_with_one_slot_tasks_run_one_after_another_whatever_their_queue(home: Home) -> None:
    ledger = home.root / "ledger"
    chain = ledger_chain(ledger, 0.05, length=6)
    home.write_dag("ledger", chain.replace("chain(*[", "list([").replace(", chain", ""))
    home.flow("standalone", "--run", "ledger", "--slots", "1")
    lives = read_ledger(ledger)
    assert len(lives) == 6
    assert len({life.agent for life in lives}) == 2
    assert all(first.last <= second.first for first, second in itertools.pairwise(lives))


def test_on_a_terminal_the_board_is_shown_until_the_table_takes_its_place(home: Home) -> None:
    shutil.copy(EXAMPLE, home.dags)
    ours, terminal = pty.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(
        [BIN / "flow", "standalone", "--run", "two_queues"],
        env={**home.environment(), "TERM": "xterm", "NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        stdout=terminal,
        stderr=subprocess.PIPE,
    )
    os.close(terminal)
    shown = b"".join(iter(partial(_read, ours), b"")).decode()
    _, err = process.communicate(timeout=30)
    os.close(ours)
    assert (process.returncode, err) == (0, b"")
    *frames, table = shown.split("\x1b[J")
    assert "dispatcher" in frames[0]
    assert "local-q1" in frames[-1]
    assert "4/4" in frames[-1]
    assert "local-q1" in table


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux says EIO once nobody has the other side
        return b""


def make_demo(*variables: str) -> subprocess.CompletedProcess[str]:
    """``make demo`` in the environment that runs the tests."""
    command = ["make", "--old-file=venv", "demo", f"VENV={BIN.parent}", *variables]
    # Run by `make test`, this one would take itself for a part of it and say so.
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def test_the_demo_runs_on_two_queues_and_its_exit_code_is_the_runs(tmp_path: Path) -> None:
    done = make_demo()
    assert done.returncode == 0, done.stderr
    assert {row[1:] for row in states(done.stdout).values()} == {
        ("q1", "local-q1"),
        ("q2", "local-q2"),
    }
    (tmp_path / "fails.py").write_text(f"from flow import DAG, BashOperator\n{FAILS}")
    done = make_demo("DAG=fails", f"DAGS={tmp_path}")
    assert done.returncode != 0
    assert states(done.stdout)["bad"][0] == "failed"


# -- commands beside it ----------------------------------------------------------------------------


def test_a_dag_is_triggered_and_followed_beside_a_running_standalone(home: Home) -> None:
    go = home.root / "go"
    home.write_dag("waits", waits_for(go))
    daemon = home.start()
    home.known("waits")
    assert [row["dag_id"] for row in home.listing("dags", "list")] == ["waits"]
    trigger = home.start_command("dags", "trigger", "waits", "--wait")
    assert trigger.stdout is not None
    run_id = trigger.stdout.readline().strip()
    follower = home.start_command("tasks", "logs", run_id, "t", "-f")
    assert follower.stdout is not None
    assert follower.stdout.readline() == "before\n"
    (task,) = home.listing("tasks", "list", run_id)
    assert (task["state"], task["agent"]) == ("running", "local-default")
    go.touch()
    out, err = home.ended(follower)
    assert out == "after\n"
    assert "warning" not in err
    home.ended(trigger)
    assert daemon.stop() == 0
    (agent,) = home.listing("agents", "list")
    assert (agent["name"], agent["state"]) == ("local-default", "offline")


def test_the_bell_is_heard_at_once_and_only_by_its_user(home: Home) -> None:
    home.settings["FLOW_DISPATCHER_INTENT_POLL_INTERVAL"] = "1000"
    home.write_dag("one", ONE)
    home.start()
    home.known("one")
    home.flow("dags", "pause", "one")
    assert home.listing("dags", "list")[0]["paused"] is True
    home.flow("dags", "unpause", "one")
    out = home.flow("dags", "trigger", "one", "--wait", "--output", "json")
    assert json.loads(out)["state"] == "success"
    assert stat.S_IMODE((home.home / "wake.sock").stat().st_mode) == 0o600


def test_a_lost_bell_costs_a_poll_interval(home: Home) -> None:
    home.write_dag("one", ONE)
    home.start()
    home.known("one")
    (home.home / "wake.sock").unlink()
    home.flow("dags", "trigger", "one", "--wait")


def test_an_agent_comes_with_the_first_dag_that_names_its_queue(home: Home) -> None:
    home.write_dag("one", ONE)
    home.start()
    home.known("one")
    home.write_dag("late", ONE.replace("'one'", "'late'").replace("'t',", "'t', queue='gpu.A1',"))
    home.known("late")
    home.flow("dags", "trigger", "late", "--wait")
    names = [row["name"] for row in home.listing("agents", "list")]
    assert names[0] == "local-default"
    assert names[1].startswith("local-gpu-a1-")


def test_only_the_given_queues_are_served(home: Home) -> None:
    shutil.copy(EXAMPLE, home.dags)
    home.start("--queues", "q1")
    home.known("two_queues")
    run_id = home.flow("dags", "trigger", "two_queues").strip()

    def second_waits() -> bool:
        row = home.listing("tasks", "list", run_id)[1]
        return (row["state"], row["reason"]) == ("scheduled", "queue q2: 0 agents")

    until(second_waits)


# -- one at a time, and again after any end --------------------------------------------------------


def test_a_second_standalone_on_one_home_is_refused(home: Home) -> None:
    first = home.start()
    _, err = home.ended(home.start_command("standalone"), code=1)
    assert err == (
        f"flow: {home.home}: expected no other `flow standalone` on this FLOW_HOME, got the "
        f"running process {first.process.pid}; stop it, or set another FLOW_HOME\n"
    )
    _, err = home.ended(home.start_command("dispatcher"), code=1)
    assert err == (
        f"flow: {home.home}: expected no `flow standalone` on this FLOW_HOME, got a running one; "
        "stop it, or set another FLOW_HOME\n"
    )
    assert first.stop() == 0
    assert home.start().stop(signal.SIGINT) == 0


def test_a_database_server_is_refused(home: Home) -> None:
    home.settings["FLOW_DATABASE_URL"] = "postgresql://flow:geheim@db/flow"
    _, err = home.ended(home.start_command("standalone"), code=3)
    assert err == (
        "flow: FLOW_DATABASE_URL: expected an SQLite database for `flow standalone`, "
        "got postgresql://flow:***@db/flow; unset it, or run `flow dispatcher` and `flow-agent`\n"
    )


def test_an_agent_that_cannot_start_ends_the_command_with_its_reason(home: Home) -> None:
    home.write_dag("one", ONE)
    (home.home / "agents").touch()
    _, err = home.ended(home.start_command("standalone", "--run", "one"), code=3)
    assert err.startswith("flow: agent 'local-default': expected a writable directory ")
    assert err.count("\n") == 1


def test_an_unfinished_run_goes_on_after_a_restart(home: Home) -> None:
    go = home.root / "go"
    home.write_dag("waits", waits_for(go) + "    BashOperator(task_id='u', bash_command='true')\n")
    daemon = home.start("--slots", "1")
    home.known("waits")
    run_id = home.flow("dags", "trigger", "waits").strip()
    until(lambda: home.listing("tasks", "list", run_id)[0]["state"] == "running")
    daemon.process.send_signal(signal.SIGTERM)
    until(lambda: daemon.says("draining"))
    assert daemon.process.poll() is None
    go.touch()
    assert daemon.process.wait(30) == 0
    assert home.listing("tasks", "list", run_id)[0]["state"] == "success"
    assert home.listing("runs", "list")[0]["state"] == "running"
    home.start()
    until(lambda: home.listing("runs", "list")[0]["state"] == "success")


@pytest.mark.parametrize("task", [1, 2, 3])
def test_a_killed_standalone_runs_its_tasks_again_and_never_two_at_once(
    home: Home, task: int
) -> None:
    ledger = home.root / "ledger"
    home.write_dag("ledger", ledger_chain(ledger, 0.4, length=3))
    first = home.start()
    home.known("ledger")
    home.flow("dags", "trigger", "ledger")
    until(lambda: ledger.exists() and len(read_ledger(ledger)) == task)
    first.kill()
    home.start()
    until(lambda: home.listing("runs", "list")[0]["state"] == "success")
    lives = read_ledger(ledger)
    assert overlaps(lives) == []
    assert len({life.task for life in lives if life.finished}) == 3
    assert [life.finished for life in lives] == [True] * (task - 1) + [False] + [True] * (4 - task)


def test_a_second_signal_kills_what_runs(home: Home) -> None:
    home.write_dag("waits", waits_for(home.root / "never"))
    daemon = home.start()
    home.known("waits")
    run_id = home.flow("dags", "trigger", "waits").strip()
    until(lambda: home.listing("tasks", "list", run_id)[0]["state"] == "running")
    daemon.process.send_signal(signal.SIGINT)
    until(lambda: daemon.says("draining"))
    assert daemon.stop(signal.SIGINT) == 130
    assert home.listing("runs", "list")[0]["state"] == "running"


# -- dags test, tasks test -------------------------------------------------------------------------


def test_dags_test_shows_each_line_behind_its_task_and_keeps_nothing(home: Home) -> None:
    shutil.copy(EXAMPLE, home.dags)
    lines = home.flow("dags", "test", "two_queues").splitlines()
    assert [line.partition(" runs on ")[0] for line in lines] == [
        "a | a",
        "b | b",
        "c | c",
        "d | d",
    ]
    assert sorted(path.name for path in home.home.iterdir()) == ["dags"]


def test_dags_test_fails_with_its_run_and_checks_its_parameters(home: Home) -> None:
    home.write_dag("fails", FAILS)
    out, err = home.ended(home.start_command("dags", "test", "fails"), code=1)
    assert out == "bad | oh no\n"
    assert "bad: failed: exit code 3" in err
    _, err = home.ended(home.start_command("dags", "test", "fails", "--conf", "[1]"), code=2)
    assert err == "flow: --conf: expected a JSON object, got '[1]'\n"


def test_tasks_test_runs_one_task_alone(home: Home) -> None:
    home.write_dag("fails", FAILS)
    assert home.flow("tasks", "test", "fails", "never") == ""
    assert home.flow("tasks", "test", "fails", "bad", code=1) == "bad | oh no\n"
    _, err = home.ended(home.start_command("tasks", "test", "fails", "bed"), code=6)
    assert err == "flow: task 'bed': expected a task of dag 'fails'; did you mean 'bad'?\n"


def test_an_interrupted_trial_ends_its_task_at_once(home: Home) -> None:
    home.write_dag("waits", waits_for(home.root / "never"))
    trial = home.start_command("dags", "test", "waits")
    assert trial.stdout is not None
    assert trial.stdout.readline() == "t | before\n"
    trial.send_signal(signal.SIGINT)
    home.ended(trial, code=130)
