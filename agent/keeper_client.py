"""The agent's end of its keeper: the small process that starts, times and kills tasks.

:class:`Keeper` is asyncio and belongs to one event loop; no method blocks. What happens to tasks
arrives as :data:`KeeperEvent` through ``on_event``, in the order in which the keeper saw it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.keeper.channel import Channel
from agent.processes import KEEPER, MARK, mark
from flow.errors import FlowError

_MAIN = Path(__file__).with_name("keeper") / "__main__.py"
_READS = 64
"""Reads per turn of the event loop, so that a flood of events does not hold it up."""
READY_WITHIN = 20.0
"""Seconds a new keeper has to say that it is ready; it takes about 0.05 on an idle machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Warm:
    """How a task may come from an interpreter that has its DAG file loaded already, when others
    that have the same in common were started before (``agent.keeper.zygotes``)."""

    about: str
    """What that interpreter is told, JSON: see :func:`flow.runtime.warm.serve`."""
    own: Sequence[str]
    """The variables that are not the same for all tasks."""
    cwd: str
    """Where it runs the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StartTask:
    """What to start. stdin is /dev/null; stdout and stderr are ``output_fd``.

    The process gets a session (setsid) of its own, default signal handlers and exactly ``env``,
    plus ``FLOW_TOKEN`` and ``FLOW_AGENT_MARK``, which the keeper sets because its proofs use them.
    """

    token: int
    argv: Sequence[str]
    """The program is looked up in ``env``'s PATH unless it has a slash (then relative to cwd)."""
    env: Mapping[str, str]
    cwd: str
    output_fd: int
    """Handed over: :meth:`Keeper.start` closes it in the agent, whatever happens."""
    keep: bool = False
    """``on_agent_lost="wait"``: survives a lapse of the lease, but not the agent's death."""
    timeout: float | None = None
    """Seconds until the keeper ends it as with :meth:`Keeper.kill`."""
    grace: float = 5.0
    """Seconds between SIGTERM and SIGKILL when ``timeout`` is reached."""
    held_fds: Sequence[int] = ()
    """Handed over likewise: the keeper keeps them open until nothing of the task is left, and with
    them the locks that they hold."""
    limits: Mapping[str, str] = field(default_factory=dict)
    """What its cgroup is held to: values by the names of its files. Only with ``cgroups``."""
    warm: Warm | None = None
    """None: it gets a fresh process in any case."""


@dataclass(frozen=True, slots=True)
class TaskStarted:
    """The program runs: exec succeeded."""

    token: int
    pid: int
    started_at: float
    """Unix time in seconds."""


@dataclass(frozen=True, slots=True)
class StartFailed:
    """Nothing runs and nothing ran under this token."""

    token: int
    reason: str


@dataclass(frozen=True, slots=True)
class TaskExited:
    """The main process has ended *and* every process of its tree is dead.

    Exactly one of ``exit_code`` and ``signal`` is set. ``reason`` is empty when it ended by itself,
    else it says why it was being killed when it ended (whatever its exit code is then).
    """

    token: int
    exit_code: int | None
    signal: int | None
    reason: str
    ended_at: float
    """Unix time in seconds at which the main process ended."""
    duration: float
    """Seconds of CLOCK_BOOTTIME from start to end of the main process."""
    cpu: float
    """Seconds of user and system time of the main process and the children it waited for."""
    memory_peak: int | None = None
    """The most that its cgroup held, in bytes; None where there is none, or no such figure."""
    cpu_seconds: float | None = None
    """Seconds of user and system time of everything that was in its cgroup, likewise."""
    out_of_memory: str = ""
    """The kernel killed in it for want of memory: ``limit``, its own is reached; ``node``, that of
    something above it is, or of the machine."""


@dataclass(frozen=True, slots=True)
class Lapsed:
    """The deadline passed: ``tokens`` are being killed, no TaskExited will follow for them.

    Starts are refused until :meth:`Keeper.begin_session`. :class:`ProvenDead` follows.
    """

    session: int
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ProvenDead:
    """No process of ``session`` is left, except those of tasks with ``keep``."""

    session: int


@dataclass(frozen=True, slots=True)
class Unkillable:
    """These tasks have resisted SIGKILL for 10 s (uninterruptible sleep, another user's process).

    The keeper goes on trying; their end is reported when it comes.
    """

    tokens: tuple[int, ...]
    processes: tuple[str, ...]
    """``"pid 4711 (dd) state D"``"""


@dataclass(frozen=True, slots=True)
class Unfit:
    """Tasks of this kind get fresh processes: forks of one would have too much in common."""

    about: str
    """As in :class:`Warm`."""
    reason: str


KeeperEvent = TaskStarted | StartFailed | TaskExited | Lapsed | ProvenDead | Unkillable | Unfit

_EVENTS: dict[str, Callable[..., KeeperEvent]] = {
    "started": TaskStarted,
    "start_failed": StartFailed,
    "exited": TaskExited,
    "lapsed": lambda session, tokens: Lapsed(session, tuple(tokens)),
    "dead": ProvenDead,
    "unfit": Unfit,
    "unkillable": lambda tokens, processes: Unkillable(tuple(tokens), tuple(processes)),
}


class Keeper:
    """A running keeper process. Make one with :meth:`launch`.

    When it dies unasked, :attr:`lost` is done and the fate of every task is unknown: the session is
    over, and :func:`agent.processes.prove_dead` with the next one finds and kills what is left.
    Commands given after that do nothing.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        channel: Channel,
        on_event: Callable[[KeeperEvent], None],
    ) -> None:
        """For :meth:`launch`: watch *process*, whose other end of *channel* is its own."""
        self._process = process
        self._channel = channel
        self._on_event = on_event
        self._loop = asyncio.get_running_loop()
        self._pidfd = os.pidfd_open(process.pid)
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._stopping = False
        self._writing = False
        self._asked_at: float | None = None
        self.lost: asyncio.Future[None] = self._loop.create_future()
        """Done when the keeper process has died without having been told to stop."""
        self._loop.add_reader(self._pidfd, self._on_death)
        self._loop.add_reader(self._channel.fileno(), self._on_readable)

    @classmethod
    async def launch(
        cls,
        *,
        state_id: str,
        session: int,
        on_event: Callable[[KeeperEvent], None],
        cgroups: Path | None = None,
    ) -> Keeper:
        """Start a keeper for *session* of the agent whose state directory has *state_id*. Its tasks
        get cgroups of their own in *cgroups*, where this process is in ``agent``.

        There is no deadline until :meth:`set_deadline`. ``on_event`` is called in this event loop.
        Raises :class:`FlowError` when the process does not come up within READY_WITHIN.
        """
        process, end = _spawn(state_id, session, cgroups)
        keeper = cls(process, Channel(end), on_event)
        try:
            await asyncio.wait(
                {keeper._ready, keeper._ended},
                timeout=READY_WITHIN,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            if not keeper._ready.done():
                keeper._stopping = True
                process.kill()
        if keeper._ready.done():
            return keeper
        await keeper._ended
        raise FlowError(
            f"keeper: expected it to be ready within {READY_WITHIN:g} s, got exit status "
            f"{process.returncode}; what it wrote to stderr says why"
        )

    @property
    def pid(self) -> int:
        """The keeper's process id."""
        return self._process.pid

    def start(self, task: StartTask) -> None:
        """Start *task*; TaskStarted or StartFailed follows. ``output_fd`` is closed here."""
        warm = task.warm
        for held in task.held_fds:
            self._send({"do": "hold", "token": task.token}, held)
        self._send(
            {
                "do": "start",
                "token": task.token,
                "argv": list(task.argv),
                "env": dict(task.env),
                "cwd": task.cwd,
                "keep": task.keep,
                "timeout": task.timeout,
                "grace": task.grace,
                "limits": dict(task.limits),
                "warm": warm and {"about": warm.about, "own": warm.own, "cwd": warm.cwd},
            },
            task.output_fd,
        )

    def kill(self, token: int, grace: float, reason: str) -> None:
        """SIGTERM to the task's whole tree, SIGKILL after *grace* seconds; TaskExited follows.

        Nothing happens when its main process has ended already: a success before the kill stays
        one. A second kill can only shorten the grace; the first reason stays.
        """
        self._send({"do": "kill", "token": token, "grace": grace, "reason": reason})

    def set_deadline(self, boottime: float | None) -> None:
        """At this CLOCK_BOOTTIME second the lease lapses; a time in the past lapses it now.

        Ignored once lapsed: only a new session starts again.
        """
        self._send({"do": "deadline", "at": boottime})

    def begin_session(self, session: int) -> None:
        """After a lapse and its ProvenDead: accept starts again, marked with *session*.

        There is no deadline then until the next :meth:`set_deadline`.
        """
        self._send({"do": "session", "session": session})

    def ping(self) -> None:
        """Ask for a sign of life, unless one is waited for."""
        if self._asked_at is None and not self._ended.done():
            self._asked_at = self._loop.time()
            self._send({"do": "ping"})

    @property
    def silence(self) -> float:
        """For how many seconds a :meth:`ping` has had no answer; 0.0 while none is waited for."""
        waiting = self._asked_at is not None and not self._ended.done()
        return self._loop.time() - (self._asked_at or 0.0) if waiting else 0.0

    def destroy(self) -> None:
        """SIGKILL to the keeper itself, which does not do its work: ``lost`` follows."""
        if not self._ended.done():
            self._process.kill()

    async def stop(self) -> None:
        """Kill what runs (``keep`` or not), at once, and wait until tasks and keeper are gone.

        Lasts as long as a process cannot be killed; when cancelled, the keeper goes on alone. Safe
        to call twice, and after ``lost``.
        """
        self._stopping = True
        self._send({"do": "shutdown"})
        try:
            await asyncio.shield(self._ended)
        finally:
            self._close_channel()

    # -- plumbing ------------------------------------------------------------------------------

    def _send(self, message: dict[str, Any], fd: int | None = None) -> None:
        if self._channel.fileno() < 0:
            if fd is not None:
                os.close(fd)
            return
        self._channel.send(message, fd)
        self._watch_writable()

    def _watch_writable(self) -> None:
        if self._channel.unsent and not self._writing:
            self._loop.add_writer(self._channel.fileno(), self._on_writable)
        elif self._writing and not self._channel.unsent:
            self._loop.remove_writer(self._channel.fileno())
        self._writing = self._channel.unsent

    def _on_writable(self) -> None:
        self._channel.flush()
        self._watch_writable()

    def _on_readable(self) -> None:
        """Pass on what is there. That the keeper ended is taken from its pidfd, not from here."""
        try:
            for _ in range(_READS):
                for message, _fd in self._channel.receive():
                    self._dispatch(message)
        except BlockingIOError:
            return
        except EOFError:
            self._loop.remove_reader(self._channel.fileno())

    def _dispatch(self, message: dict[str, Any]) -> None:
        kind = message.pop("is")
        if kind == "pong":
            self._asked_at = None
        elif kind != "ready":
            # Not called from here: an exception in one event must not lose those read with it.
            self._loop.call_soon(self._on_event, _EVENTS[kind](**message))
        elif not self._ready.done():
            self._ready.set_result(None)

    def _on_death(self) -> None:
        """The process has ended: deliver what it still said, then say so."""
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._process.wait()
        with contextlib.suppress(BlockingIOError, EOFError):
            while self._channel.fileno() >= 0:
                for message, _fd in self._channel.receive():
                    self._dispatch(message)
        self._close_channel()
        self._ended.set_result(None)
        if not self._stopping:
            self.lost.set_result(None)

    def _close_channel(self) -> None:
        if self._channel.fileno() >= 0:
            self._loop.remove_reader(self._channel.fileno())
            self._loop.remove_writer(self._channel.fileno())
            self._channel.close()


def _spawn(
    state_id: str, session: int, cgroups: Path | None
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start a keeper process, with nothing of the agent's environment but its marks."""
    ours, theirs = socket.socketpair()
    try:
        process = subprocess.Popen(
            [
                *(sys.executable, "-I", "-S", "-X", "utf8", str(_MAIN)),
                *(str(theirs.fileno()), str(os.getpid()), state_id, str(session)),
                str(cgroups or ""),
            ],
            env={MARK: mark(state_id, session), KEEPER: "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,  # a Ctrl-C at the agent's terminal is the agent's to answer
        )
    except OSError as error:
        ours.close()
        raise FlowError(f"keeper: expected {sys.executable} to start, got {error}") from error
    finally:
        theirs.close()
    return process, ours
