"""The bell in the home folder."""

from __future__ import annotations

import asyncio
import re
import socket
import stat
from pathlib import Path

import pytest

from flow.cli.wakesocket import listening, ring
from flow.errors import FlowError
from tests.waiting import eventually


async def test_a_ring_is_heard_and_many_are_heard_too(tmp_path: Path) -> None:
    heard: list[None] = []
    with listening(tmp_path, lambda: heard.append(None)):
        assert ring(tmp_path) is None
        await eventually(lambda: len(heard) == 1)
        assert [ring(tmp_path) for _ in range(2000)] == [None] * 2000
        await eventually(lambda: len(heard) > 1)
    assert not (tmp_path / "wake.sock").exists()


async def test_the_bell_is_its_users_alone(tmp_path: Path) -> None:
    with listening(tmp_path, lambda: None):
        assert stat.S_IMODE((tmp_path / "wake.sock").stat().st_mode) == 0o600


async def test_a_home_folder_may_have_a_long_path(tmp_path: Path) -> None:
    home = tmp_path / ("x" * 120)
    home.mkdir()
    heard = asyncio.Event()
    with listening(home, heard.set):
        assert ring(home) is None
        await asyncio.wait_for(heard.wait(), 10)


async def test_the_socket_of_a_killed_process_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as left_behind:
        left_behind.bind(str(tmp_path / "wake.sock"))
    failure = ring(tmp_path)
    assert str(failure) == (
        f"{tmp_path}/wake.sock: expected a running `flow standalone` to listen, "
        "got Connection refused"
    )
    heard = asyncio.Event()
    with listening(tmp_path, heard.set):
        assert ring(tmp_path) is None
        await asyncio.wait_for(heard.wait(), 10)


def test_a_home_without_a_bell_is_told(tmp_path: Path) -> None:
    for home in (tmp_path, tmp_path / "missing"):
        assert str(ring(home)) == (
            f"{home}/wake.sock: expected a running `flow standalone` to listen, "
            "got No such file or directory"
        )


async def test_a_place_where_no_socket_can_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "wake.sock").mkdir()
    text = f"{tmp_path}/wake.sock: expected a socket to listen on, got Is a directory; "
    with pytest.raises(FlowError, match=re.escape(text)), listening(tmp_path, lambda: None):
        pass
