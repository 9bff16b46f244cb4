"""When the keeper makes, uses and ends zygotes; processes are played."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.keeper.births import Command
from agent.keeper.spawn import SpawnError
from agent.keeper.standby import Standby, StandbyGone, fits
from agent.keeper.task import Task
from agent.keeper.zygote import Kind, Start, Zygote
from agent.keeper.zygotes import (
    FIRST_TOKEN,
    FORK_WITHIN,
    IDLE,
    MOST,
    SETTLED,
    Zygotes,
)


class PlayedZygote:
    """Says what a test puts into ``says``."""

    def __init__(self, kind: Kind, token: int, now: float) -> None:
        self.kind = kind
        self.task = Task(token, 1, keep=False, timeout=60.0, grace=0.0, now=now)
        self.ready = False
        self.used_at = now
        self.standbys: deque[Any] = deque()
        self.waiting: deque[Start] = deque()
        self.says: deque[Any] = deque()
        self.asked = 0
        self.closed = False

    def hear(self) -> Any:
        if not self.says:
            raise BlockingIOError
        said = self.says.popleft()
        if isinstance(said, BaseException):
            raise said
        return said

    def ask(self) -> None:
        self.asked += 1

    def close(self) -> None:
        self.closed = True


class PlayedStandby:
    closed = False

    def close(self) -> None:
        self.closed = True


class World:
    """Zygotes, and what they do to trees, tasks and agent."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[PlayedZygote] = []
        self.launched: list[tuple[int, Any]] = []
        self.killed: list[int] = []
        self.told: list[dict[str, Any]] = []
        self.orphans = False
        self.gone: set[Any] = set()
        self.begins = True
        self.zygotes = Zygotes(self, self._launch, self.told.append)  # type: ignore[arg-type]
        self._tokens = iter(range(1, 1000))
        monkeypatch.setattr(Zygote, "begin", self._begin)

    def _begin(self, kind: Kind, *_: Any, token: int, session: int, now: float) -> PlayedZygote:
        assert session == 3
        if not self.begins:
            raise SpawnError("no")
        self.made.append(PlayedZygote(kind, token, now))
        return self.made[-1]

    def _launch(self, start: Start, standby: Any) -> None:
        if standby in self.gone:
            raise StandbyGone
        self.launched.append((start.token, standby))

    def kill_at_once(self, tasks: list[Task], _: str, __: float) -> None:
        self.killed += [task.token for task in tasks]

    def leaves_orphans(self, _: Task) -> bool:
        return self.orphans

    def start(self, now: float, file: str = "x.py", **more: Any) -> tuple[int, bool]:
        """The token, and whether a zygote was to start it."""
        token = next(self._tokens)
        message = {
            "token": token,
            "argv": ["python", "start.py", f"{token}/job"],
            "env": {"PATH": "/bin", "FLOW_TOKEN": str(token)},
            "cwd": f"/work/{token}",
            "limits": {},
            "warm": {"about": file, "own": ["FLOW_TOKEN"], "cwd": "/warm"},
            **more,
        }
        return token, self.zygotes.take(Start(message, 9, now), 3, now)

    def heat(self, now: float = 0.0, file: str = "x.py") -> PlayedZygote:
        """A zygote that is ready."""
        assert not self.start(now, file)[1]
        assert not self.start(now, file)[1]
        self.say(self.made[-1], ({"ready": True}, None), now=now)
        assert self.made[-1].ready
        return self.made[-1]

    def say(self, zygote: PlayedZygote, *said: Any, now: float = 0.0) -> None:
        zygote.says.extend(said)
        self.zygotes.hear(zygote, now)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.zygotes)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def test_what_is_started_once_in_a_while_gets_no_zygote(world: World) -> None:
    for number in range(5):
        assert not world.start(number * IDLE)[1]
    assert not world.made
    world.start(4 * IDLE + 1)
    assert [zygote.task.token for zygote in world.made] == [FIRST_TOKEN]
    assert world.zygotes.has(FIRST_TOKEN)


def test_a_task_does_not_wait_for_a_zygote_to_be_ready(world: World) -> None:
    world.start(0.0)
    world.start(0.0)
    assert not world.start(0.1)[1]
    assert len(world.made) == 1
    world.say(world.made[0], ({"ready": True}, None))
    assert world.made[0].task.timeout is None
    token, taken = world.start(0.2)
    assert taken
    assert world.zygotes.waits(token)
    standby = PlayedStandby()
    world.say(world.made[0], ({"pid": 5}, standby))
    assert world.launched == [(token, standby)]
    assert not world.zygotes.waits(token)


def test_a_standby_is_used_once_and_another_one_is_asked_for(world: World) -> None:
    zygote = world.heat()
    standby = PlayedStandby()
    world.say(zygote, ({"pid": 5}, standby))
    asked = zygote.asked
    first, _ = world.start(1.0)
    second, _ = world.start(1.0)
    assert world.launched == [(first, standby)]
    assert world.zygotes.waits(second)
    assert zygote.asked > asked


def test_a_standby_that_is_gone_leaves_the_task_to_the_next(world: World) -> None:
    zygote = world.heat()
    gone, alive = PlayedStandby(), PlayedStandby()
    world.gone.add(gone)
    world.say(zygote, ({"pid": 5}, gone))
    token, _ = world.start(1.0)
    assert gone.closed
    assert world.launched == []
    world.say(zygote, ({"pid": 6}, alive))
    assert world.launched == [(token, alive)]


def test_an_unfit_file_is_told_once_and_never_tried_again(world: World) -> None:
    world.start(0.0)
    world.start(0.0)
    world.say(world.made[0], ({"unfit": "it starts threads"}, None))
    assert world.told == [{"is": "unfit", "about": "x.py", "reason": "it starts threads"}]
    assert world.killed == [FIRST_TOKEN]
    for _ in range(5):
        assert not world.start(1.0)[1]
    assert len(world.made) == 1


def test_a_file_that_has_detached_something_is_unfit(world: World) -> None:
    world.orphans = True
    world.start(0.0)
    world.start(0.0)
    world.say(world.made[0], ({"ready": True}, None))
    assert world.told[0]["reason"] == "it starts processes"
    assert list(world) == []


def test_a_zygote_without_tasks_ends(world: World) -> None:
    zygote = world.heat(10.0)
    standby = PlayedStandby()
    world.say(zygote, ({"pid": 5}, standby), now=10.0)
    assert world.zygotes.next_event() == 10.0 + IDLE
    world.start(20.0)
    world.zygotes.tidy(10.0 + IDLE)
    assert list(world) == [zygote]
    assert world.zygotes.next_event() == 20.0 + IDLE
    world.zygotes.tidy(20.0 + IDLE)
    assert list(world) == []
    assert (world.killed, zygote.closed) == ([FIRST_TOKEN], True)
    assert world.zygotes.next_event() is None
    assert world.zygotes.has(FIRST_TOKEN), "its token is known until it is proven dead"
    world.zygotes.proven_dead(FIRST_TOKEN)
    assert not world.zygotes.has(FIRST_TOKEN)


def test_one_that_does_not_fork_ends_although_tasks_come(world: World) -> None:
    zygote = world.heat(0.0)
    tokens = [world.start(at)[0] for at in (1.0, 2.0, 2.9)]
    assert world.zygotes.next_event() == 1.0 + FORK_WITHIN
    world.zygotes.tidy(0.9 + FORK_WITHIN)
    assert world.launched == []
    world.zygotes.tidy(1.0 + FORK_WITHIN)
    assert world.launched == [(token, None) for token in tokens]
    assert world.killed == [zygote.task.token]


@pytest.mark.parametrize("heard", [True, False])
def test_what_waits_when_a_zygote_dies_is_started_anew_once(world: World, heard: bool) -> None:
    zygote = world.heat()
    token, _ = world.start(1.0)
    if heard:
        world.say(zygote, EOFError())
    world.zygotes.proven_dead(zygote.task.token)
    assert world.launched == [(token, None)]
    assert list(world) == []


def test_after_three_deaths_there_is_no_other(world: World) -> None:
    for _ in range(6):
        world.start(0.0)
        if list(world):
            world.say(world.made[-1], EOFError())
    assert len(world.made) == 3


def test_an_interpreter_that_cannot_be_started_is_no_error_here(world: World) -> None:
    world.begins = False
    for _ in range(6):
        assert not world.start(0.0)[1]
    assert list(world) == []


def test_there_are_at_most_so_many_and_the_longest_unused_makes_room(world: World) -> None:
    made = [world.heat(float(number), f"{number}.py") for number in range(MOST)]
    world.start(MOST + 0.1, "0.py")
    late = 1.0 + SETTLED
    world.start(late - 0.1, "new.py")
    world.start(late - 0.1, "new.py")
    assert len(world.made) == MOST
    world.start(late, "new.py")
    assert len(world.made) == MOST + 1
    assert world.killed == [made[1].task.token]
    assert len(list(world)) == MOST


def test_one_for_which_tasks_wait_makes_no_room(world: World) -> None:
    for number in range(MOST):
        world.heat(0.0, f"{number}.py")
        world.start(0.0, f"{number}.py")
    world.start(SETTLED, "new.py")
    world.start(SETTLED, "new.py")
    assert len(world.made) == MOST


def test_what_is_withdrawn_is_not_started(world: World) -> None:
    zygote = world.heat()
    token, _ = world.start(1.0)
    start = world.zygotes.withdraw(token)
    assert start is not None
    assert start.token == token
    assert world.zygotes.withdraw(token) is None
    world.say(zygote, ({"pid": 5}, PlayedStandby()))
    assert world.launched == []


def test_when_all_are_abandoned_nothing_is_started(world: World) -> None:
    zygote = world.heat()
    token, _ = world.start(1.0)
    assert [start.token for start in world.zygotes.abandon()] == [token]
    world.zygotes.proven_dead(zygote.task.token)
    assert (list(world), world.launched) == ([], [])


@pytest.mark.parametrize(
    "more",
    [
        {"argv": ["python3", "start.py", "job"]},
        {"env": {"PATH": "/usr/bin", "FLOW_TOKEN": "1"}},
        {"warm": {"about": "x.py", "own": ["FLOW_TOKEN"], "cwd": "/elsewhere"}},
        {"warm": {"about": "y.py", "own": ["FLOW_TOKEN"], "cwd": "/warm"}},
    ],
)
def test_tasks_that_differ_in_more_than_their_own_have_no_zygote_in_common(
    world: World, more: dict[str, Any]
) -> None:
    world.heat()
    assert not world.start(1.0, **more)[1]
    assert world.start(1.0)[1]


def test_what_cannot_be_handed_over_in_one_packet_is_started_anew(world: World) -> None:
    world.heat()
    large = {"PATH": "/bin", "FLOW_TOKEN": "1", "FLOW_RUN_ID": "x" * 20_000}
    warm = {"about": "x.py", "own": ["FLOW_TOKEN", "FLOW_RUN_ID"], "cwd": "/warm"}
    assert not world.start(1.0, env=large, warm=warm)[1]
    assert not fits(["python", "a\0b"], {}, "/")
    assert fits(["python", "job"], {"NAME": "\N{BLACK STAR}" * 1000}, "/")


# -- standbys ----------------------------------------------------------------------------------


def test_a_standby_is_told_its_job_with_what_it_lacks() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    standby = Standby(os.getpid(), ours, frozenset({"PATH"}))
    env = {"PATH": "/bin", "FLOW_TOKEN": "7", "NAME": "grüße"}
    with theirs, Path(os.devnull).open("wb") as output:
        standby.begin(7, Command(["python", "start.py", "/job"], env, "/", output.fileno()))
        packet, fds, _, _ = socket.recv_fds(theirs, 1 << 16, 1)
        assert json.loads(packet) == {
            "job": "/job",
            "token": "0000000000000000007",
            "env": {"FLOW_TOKEN": "7", "NAME": "grüße"},
            "cwd": "/",
        }
        (fd,) = fds
        assert str(Path(f"/proc/self/fd/{fd}").readlink()) == os.devnull
        os.close(fd)
        assert theirs.recv(1) == b"", "the keeper has let go of it"


def test_a_standby_that_has_closed_its_end_is_gone() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.close()
    standby = Standby(os.getpid(), ours, ())
    with pytest.raises(StandbyGone):
        standby.begin(7, Command(["python", "job"], {}, "/", 1))
    standby.close()


def test_a_process_that_is_no_child_is_no_standby() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    script = (
        "import subprocess; p = subprocess.Popen(['/bin/sleep', '600'], start_new_session=True); "
        "print(p.pid, flush=True); input(); p.kill(); p.wait()"
    )
    between = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    child = subprocess.Popen(["/bin/sleep", "600"], start_new_session=True)
    without_session = subprocess.Popen(["/bin/sleep", "600"])
    with ours, theirs, between, child, without_session:
        try:
            assert between.stdout is not None
            stranger = int(between.stdout.readline())
            Standby(child.pid, ours, ()).check()
            for pid in (stranger, without_session.pid):
                with pytest.raises(StandbyGone):
                    Standby(pid, ours, ()).check()
        finally:
            child.kill()
            without_session.kill()
            between.communicate("\n")
        with pytest.raises(StandbyGone):
            Standby(child.pid, ours, ()).check()
