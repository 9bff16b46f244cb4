"""When a daemon says what to its service manager."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from flow.sdnotify import Notifier
from flow.supervision import Announcer, Standing, Supervision, supervised
from tests.waiting import eventually

AT_WORK = Standing(status="0/4 slots busy, queue gpu", ready=True)
STARTING = Standing(status="starting", ready=False)


def test_ready_is_said_once_and_with_the_status() -> None:
    announcer = Announcer(None)
    assert announcer.next(STARTING, 0.0) == ["STATUS=starting", "EXTEND_TIMEOUT_USEC=30000000"]
    assert announcer.next(AT_WORK, 0.1) == ["READY=1", "STATUS=0/4 slots busy, queue gpu"]
    assert announcer.next(AT_WORK, 10.0) == []


def test_a_status_is_said_when_it_changes_and_at_most_about_once_a_second() -> None:
    announcer = Announcer(None)
    announcer.next(AT_WORK, 0.0)
    said = [
        announcer.next(Standing(status=f"{step} busy", ready=True), step / 10) for step in range(30)
    ]
    assert [lines for lines in said if lines] == [
        ["STATUS=9 busy"],
        ["STATUS=18 busy"],
        ["STATUS=27 busy"],
    ]


def test_the_watchdog_hears_of_a_daemon_three_times_in_its_time() -> None:
    announcer = Announcer(15.0)
    alive = [at for at in range(31) if "WATCHDOG=1" in announcer.next(AT_WORK, float(at))]
    assert alive == [0, 5, 10, 15, 20, 25, 30]


def test_the_watchdog_hears_nothing_of_one_that_makes_no_progress() -> None:
    announcer = Announcer(15.0)
    stuck = Standing(status="x", ready=True, stuck="the keeper has not answered for 6 s")
    assert announcer.next(stuck, 0.0) == ["READY=1", "STATUS=x"]
    assert announcer.next(stuck, 100.0) == []
    assert announcer.next(Standing(status="x", ready=True), 101.0) == ["WATCHDOG=1"]


def test_a_stop_asks_for_more_time_as_long_as_it_may_take_some() -> None:
    announcer = Announcer(None)
    announcer.next(AT_WORK, 0.0)
    draining = Standing(status="draining, 2 tasks left", ready=True, stopping=True)
    assert announcer.next(draining, 0.2) == [
        "STOPPING=1",
        "STATUS=draining, 2 tasks left",
        "EXTEND_TIMEOUT_USEC=30000000",
    ]
    assert announcer.next(draining, 1.2) == []
    assert announcer.next(draining, 5.2) == ["EXTEND_TIMEOUT_USEC=30000000"]
    over = Standing(status="draining, 2 tasks left", ready=True, stopping=True, takes_time=False)
    assert announcer.next(over, 100.0) == []


def test_neither_a_start_nor_a_stop_without_progress_gets_more_time() -> None:
    stuck = Standing(status="x", ready=False, stopping=True, stuck="its rules are not called")
    assert Announcer(None).next(stuck, 0.0) == ["STOPPING=1", "STATUS=x"]


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(tmp_path / "notify"))
        end.setblocking(False)
        yield end


def received(manager: socket.socket) -> list[str]:
    lines: list[str] = []
    while True:
        try:
            lines += manager.recv(4096).decode().splitlines()
        except BlockingIOError:
            return lines


async def test_signs_of_life_come_from_the_event_loop_and_end_with_it(
    manager: socket.socket,
) -> None:
    notifier = Notifier(str(manager.getsockname()), watchdog=0.06)
    lines: list[str] = []

    def heard(times: int) -> bool:
        lines.extend(received(manager))
        return lines.count("WATCHDOG=1") >= times

    async with supervised(notifier, lambda: AT_WORK):
        await eventually(lambda: heard(5))
    received(manager)
    await asyncio.sleep(0)
    assert received(manager) == []


def test_what_could_not_be_said_is_said_again(manager: socket.socket) -> None:
    notifier = Notifier("/nonexistent/notify")
    supervision = Supervision(notifier, lambda: AT_WORK)
    supervision.look()
    notifier.address = str(manager.getsockname())
    supervision.look()
    assert received(manager) == ["READY=1", "STATUS=0/4 slots busy, queue gpu"]


def test_a_reload_begins_and_ends_also_when_it_fails(manager: socket.socket) -> None:
    supervision = Supervision(Notifier(str(manager.getsockname())), lambda: AT_WORK)
    supervision.look()
    received(manager)
    with pytest.raises(ValueError, match="broken"), supervision.reload():
        raise ValueError("broken")
    lines = received(manager)
    assert lines[0] == "RELOADING=1"
    assert lines[1].startswith("MONOTONIC_USEC=")
    assert lines[2:] == ["READY=1"]


def test_a_reload_during_the_start_does_not_end_the_start(manager: socket.socket) -> None:
    supervision = Supervision(Notifier(str(manager.getsockname())), lambda: STARTING)
    supervision.look()
    received(manager)
    with supervision.reload():
        assert received(manager) == []
    assert received(manager) == []


async def test_a_bug_in_a_daemons_own_view_is_logged_and_raised(
    manager: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> Standing:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        async with supervised(Notifier(str(manager.getsockname())), broken):
            await eventually(lambda: bool(caplog.records))
    assert "a bug in flow" in caplog.text


async def test_without_a_service_manager_nothing_is_looked_at() -> None:
    def unwanted() -> Standing:
        raise AssertionError("nobody asked")

    async with supervised(None, unwanted) as supervision:
        supervision.look()
        with supervision.reload():
            pass
