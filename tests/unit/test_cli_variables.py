"""``flow variables``: what it prints, and its exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from dispatcher.store import migrate, open_database
from flow.cli.main import main


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
    database = open_database(f"sqlite:///{tmp_path}/flow.db")
    migrate(database)
    database.close()

    def call(*argv: str) -> Result:
        code = main(["variables", *argv])
        return Result(code, *capsys.readouterr())

    return call


def test_a_variable_is_set_changed_read_and_deleted(flow: Flow) -> None:
    assert flow("set", "bucket", "s3://a") == (0, "", "")
    assert flow("set", "bucket", "s3://ä b") == (0, "", "")
    assert flow("get", "bucket") == (0, "s3://ä b\n", "")
    assert flow("delete", "bucket") == (0, "", "")
    assert flow("get", "bucket").code == 6


def test_variables_are_listed_by_name(flow: Flow) -> None:
    flow("set", "b", "2")
    flow("set", "a", "1")
    rows = json.loads(flow("list", "--output", "json").out)
    assert [(row["name"], row["value"]) for row in rows] == [("a", "1"), ("b", "2")]
    assert list(rows[0]) == ["name", "value", "updated_at"]
    assert flow("list").out.split()[:3] == ["name", "value", "updated_at"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ("get", "buckt"),
            6,
            "variable 'buckt': expected a known variable; did you mean 'bucket'?",
        ),
        (
            ("delete", "zzz"),
            6,
            "variable 'zzz': expected a known variable; see `flow variables list`",
        ),
        (
            ("set", "", "x"),
            2,
            "variables set: NAME: expected 1 to 250 characters, got 0",
        ),
        (
            ("set", "v", "x" * 262145),
            2,
            "variables set: VALUE: expected 262144 bytes or less, got 262145",
        ),
    ],
)
def test_what_is_wrong_is_one_line(
    flow: Flow, arguments: tuple[str, ...], code: int, message: str
) -> None:
    flow("set", "bucket", "x")
    assert flow(*arguments) == (code, "", f"flow: {message}\n")
