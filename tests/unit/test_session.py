"""The agent's state directory."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from agent.session import NameTaken, StateDirectory, home_id, write_durably
from flow.errors import ConfigError


def test_sessions_count_up_across_restarts(tmp_path: Path) -> None:
    state = StateDirectory.open(tmp_path, "node1")
    assert state.session == 0
    assert [state.next_session(), state.next_session()] == [1, 2]
    state.close()
    again = StateDirectory.open(tmp_path, "node1")
    assert again.next_session() == 3
    assert again.state_id == state.state_id
    again.close()


def test_a_session_is_above_what_the_dispatcher_has_seen(tmp_path: Path) -> None:
    state = StateDirectory.open(tmp_path, "node1")
    assert state.next_session(above=41) == 42
    assert state.next_session(above=7) == 43
    state.close()


def test_agents_share_a_home_under_different_names(tmp_path: Path) -> None:
    first = StateDirectory.open(tmp_path, "node1")
    second = StateDirectory.open(tmp_path, "node2")
    assert first.state_id != second.state_id
    assert home_id(first) != home_id(second)
    first.close()
    second.close()


def test_a_second_agent_of_one_name_is_refused_and_told_who_is_there(tmp_path: Path) -> None:
    first = StateDirectory.open(tmp_path, "node1")
    with pytest.raises(NameTaken) as caught:
        StateDirectory.open(tmp_path, "node1")
    assert str(caught.value) == (
        f"agent 'node1': expected to be the only one of this name, got the running process "
        f"{os.getpid()} with {tmp_path}/agents/node1; stop it or choose another --name"
    )
    first.close()
    StateDirectory.open(tmp_path, "node1").close()


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"session": "x", "state_id": "y"}', "\0"])
def test_a_damaged_session_file_is_no_session_zero(tmp_path: Path, content: str) -> None:
    StateDirectory.open(tmp_path, "node1").close()
    file = tmp_path / "agents" / "node1" / "session.json"
    file.write_text(content)
    with pytest.raises(ConfigError, match="expected JSON with session and state_id") as caught:
        StateDirectory.open(tmp_path, "node1")
    assert str(file) in str(caught.value)
    file.unlink()
    StateDirectory.open(tmp_path, "node1").close()


def test_a_home_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "agents").write_text("a file")
    with pytest.raises(ConfigError, match="expected a writable directory") as caught:
        StateDirectory.open(tmp_path, "node1")
    assert "set FLOW_HOME" in str(caught.value)


def test_the_directory_is_private(tmp_path: Path) -> None:
    state = StateDirectory.open(tmp_path, "node1")
    for folder in (state.path, state.spool, state.work, state.parked):
        assert folder.stat().st_mode & 0o777 == 0o700
    state.close()


def test_a_durable_write_leaves_the_old_content_or_the_new(tmp_path: Path) -> None:
    file = tmp_path / "file"
    write_durably(file, b"old")
    write_durably(file, json.dumps({"new": 1}).encode())
    assert json.loads(file.read_text()) == {"new": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
