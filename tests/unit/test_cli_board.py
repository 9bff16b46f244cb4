"""``flow board`` without a terminal: one frame, or the reason why not."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pytest
from rich.cells import cell_len

from dispatcher.store.reader import Reader
from flow.cli.main import main
from tests.database_world import DatabaseWorld, dag, task

CHAIN = dag("chain", task("a", queue="q1"), task("b", "a", queue="q2"))


class Result(NamedTuple):
    code: int
    out: str
    err: str


Flow = Callable[..., Result]


@pytest.fixture
def flow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Flow:
    monkeypatch.setenv("FLOW_HOME", str(tmp_path))
    monkeypatch.setenv("FLOW_CONFIG", "")
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)

    def call(*argv: str) -> Result:
        code = main(argv)
        return Result(code, *capsys.readouterr())

    return call


@pytest.fixture
def world(tmp_path: Path) -> DatabaseWorld:
    world = DatabaseWorld(f"sqlite:///{tmp_path}/flow.db", CHAIN)
    world.hello("node1", "q1", slots=3)
    arguments = {"dag_id": "chain", "run_id": "r" * 120, "conf": {}}
    Reader(world.database).request("trigger", arguments, actor="user t", at=datetime.now(UTC))
    world.serve_requests()
    world.start("node1")
    return world


@pytest.mark.usefixtures("world")
def test_one_frame_into_a_pipe_is_plain_text_of_100_columns(flow: Flow) -> None:
    result = flow("board", "--once")
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert max(map(cell_len, lines)) == 100
    assert "\x1b" not in result.out
    assert [line for line in lines if line != line.rstrip()] == []
    rows = {line.split()[0]: line.split() for line in lines if line}
    assert rows["node1"][1:6] == ["■□□", "1/3", "●", "online", "0"]
    assert rows["q1"] == ["q1", "0", "1", "1"]
    assert rows["q2"] == ["q2", "0", "0", "0", "✗", "unserved"]
    assert rows["chain"][1:4] == ["running", "▓" * 12 + "·" * 12, "0/2"]
    assert "q quits" not in result.out


@pytest.mark.usefixtures("world")
def test_the_shell_s_size_is_followed_where_it_is_one(
    flow: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("LINES", "8")
    lines = flow("board", "--once").out.splitlines()
    assert max(map(len, lines)) == 60
    assert len(lines) == 8
    for nonsense in ("0", "-5", "wide", "99999999", ""):
        monkeypatch.setenv("COLUMNS", nonsense)
        assert max(map(len, flow("board", "--once").out.splitlines())) == 100


def test_one_frame_of_no_database_is_a_failure_with_the_remedy(flow: Flow, tmp_path: Path) -> None:
    assert flow("board", "--once") == (
        *(5, ""),
        f"flow: database {tmp_path}/flow.db: expected a file, got none; run `flow db migrate`\n",
    )


def test_without_a_terminal_the_live_board_names_the_remedy(flow: Flow) -> None:
    assert flow("board") == (
        *(2, ""),
        "flow: board: expected a terminal on stdout, got none; use `flow board --once`\n",
    )
