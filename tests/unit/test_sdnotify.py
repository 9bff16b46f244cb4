"""What the service manager is told, as it arrives at a socket."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from flow import sdnotify
from flow.sdnotify import Notifier


@pytest.fixture(params=["file", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        path = str(tmp_path / "notify")
        end.bind(path if request.param == "file" else f"\0flow-test-{secrets.token_hex(6)}")
        end.settimeout(5)
        yield end


def address(manager: socket.socket) -> str:
    """As systemd writes it into NOTIFY_SOCKET."""
    name = manager.getsockname()
    return name if isinstance(name, str) else f"@{name[1:].decode()}"


def test_several_lines_arrive_as_one_message(manager: socket.socket) -> None:
    notifier = Notifier.take({"NOTIFY_SOCKET": address(manager)})
    assert notifier is not None
    assert notifier.tell(sdnotify.READY, sdnotify.status("2/4 slots busy"))
    assert manager.recv(1000) == b"READY=1\nSTATUS=2/4 slots busy"


def test_the_variables_are_taken_out_so_that_no_child_has_them() -> None:
    environ = {
        "NOTIFY_SOCKET": "/run/systemd/notify",
        "WATCHDOG_USEC": "15000000",
        "WATCHDOG_PID": str(os.getpid()),
        "PATH": "/bin",
    }
    notifier = Notifier.take(environ)
    assert environ == {"PATH": "/bin"}
    assert notifier is not None
    assert notifier.watchdog == 15.0


@pytest.mark.parametrize("value", ["", "relative", "vsock:2:1234"])
def test_without_a_socket_there_is_nobody_to_tell(value: str) -> None:
    assert Notifier.take({"NOTIFY_SOCKET": value}) is None
    assert Notifier.take({}) is None


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "500000"}, 0.5),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "7"}, 0.5),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_that_of_the_process_it_is_meant_for(
    environ: dict[str, str], seconds: float | None
) -> None:
    assert sdnotify.watchdog_interval(environ, pid=7) == seconds


def test_a_status_is_one_line_whatever_it_quotes() -> None:
    assert sdnotify.status("waiting: said\nREADY=1\x1b[1m") == (
        "STATUS=waiting: said\\nREADY=1\\x1b[1m"
    )
    assert len(sdnotify.status("x" * 10_000)) == len("STATUS=") + sdnotify.LONGEST_STATUS


def test_a_reload_names_the_moment_in_microseconds() -> None:
    assert sdnotify.reloading(12.3456789) == "RELOADING=1\nMONOTONIC_USEC=12345678"
    assert sdnotify.extend(30) == "EXTEND_TIMEOUT_USEC=30000000"


def test_a_manager_that_is_gone_is_told_of_in_the_log_once_and_harms_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = Notifier(str(tmp_path / "nobody"))
    assert not notifier.tell(sdnotify.READY)
    assert not notifier.tell(sdnotify.READY)
    assert [record.getMessage() for record in caplog.records] == [
        "the service manager cannot be told how this goes: No such file or directory"
    ]


def test_a_manager_that_reads_nothing_does_not_block(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        notifier = Notifier(path)
        told = [notifier.tell(sdnotify.WATCHDOG) for _ in range(5000)]
    assert told[0]
    assert not told[-1]
