"""The keeper's loop: obeys the agent, the deadline and the end of children; never blocks.

Single-threaded, around one poll(2) on the agent's channel, the agent's pidfd and a wake-up pipe
for SIGCHLD. All times but those for people are CLOCK_BOOTTIME, which goes on while the machine
sleeps; poll's clock does not, hence no wait is longer than NAP while a deadline is set.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from typing import TYPE_CHECKING

from agent import processes
from agent.keeper.births import Command
from agent.keeper.channel import Channel
from agent.keeper.spawn import SpawnError
from agent.keeper.trees import Trees
from agent.keeper.zygote import Start
from agent.keeper.zygotes import Zygotes

if TYPE_CHECKING:
    from collections.abc import Callable, Container
    from typing import Any

    from agent.keeper.standby import Standby
    from agent.keeper.task import Task

#: Longest wait, in seconds, while a deadline is set: the overrun after a suspend.
NAP = 1.0
#: Reads per turn, so that a flood of starts cannot keep children and deadline waiting.
_READS = 32
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36


class Loop:
    """One session after the other, from the first command to the last proof."""

    def __init__(
        self,
        channel: Channel,
        state_id: str,
        session: int,
        *,
        boottime: Callable[[], float],
        wall: Callable[[], float],
        cgroups: str = "",
    ) -> None:
        self._channel = channel
        self._trees = Trees(state_id, wall, cgroups)
        self._zygotes = Zygotes(self._trees, self._launch, self._tell)
        self._held: dict[int, list[int]] = {}  # by token: open while anything of it lives
        self._session = session
        self._boottime = boottime
        self._wall = wall
        self._deadline: float | None = None
        self._lapsed = False  # the latch: only a new session opens it
        self._unproven: int | None = None  # a lapsed session with processes left
        self._closing = False  # shutdown, or the agent is gone: everything dies, then so do we
        self._agent_gone = False

    def run(self, agent_pidfd: int, wakeup_fd: int) -> None:
        """Serve until told to stop or until the agent is gone, and everything is dead."""
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        poll.register(agent_pidfd, select.POLLIN)
        poll.register(wakeup_fd, select.POLLIN)
        self._tell({"is": "ready"})
        listening: set[int] = set()
        while True:
            listening = self._listen(poll, listening)
            ready = dict(poll.poll(self._wait_ms()))
            if wakeup_fd in ready:
                os.read(wakeup_fd, 4096)
            if agent_pidfd in ready:
                self._lose_agent()
            elif self._channel.fileno() in ready or self._overdue:
                # Overdue, though poll saw nothing: interrupted by a signal (PEP 475) after its time
                # was up, as in a keeper that was stopped, it returns without another look, and a
                # newer deadline may be waiting.
                self._obey()
            self._hear_zygotes(ready)
            if self._agent_gone and self._channel.fileno() >= 0:
                poll.unregister(self._channel)
                poll.unregister(agent_pidfd)
                self._channel.close()
            self._turn()
            told = self._agent_gone or not self._channel.unsent
            if self._closing and told and not self._trees.tasks and not processes.own_children():
                break
            if not self._agent_gone:
                self._channel.flush()
                events = select.POLLIN | (select.POLLOUT if self._channel.unsent else 0)
                poll.modify(self._channel, events)

    def _listen(self, poll: select.poll, listening: set[int]) -> set[int]:
        """Have *poll* look at the zygotes that there are now; return their descriptors."""
        wanted = {zygote.fileno() for zygote in self._zygotes}
        for fd in listening - wanted:
            # Closed by now; what has got its number since is none of poll's business.
            poll.unregister(fd)
        for fd in wanted:
            poll.register(fd, select.POLLIN)
        return wanted

    def _hear_zygotes(self, ready: Container[int]) -> None:
        now = self._boottime()
        for zygote in self._zygotes:
            if zygote.fileno() in ready:
                self._zygotes.hear(zygote, now)
        self._zygotes.tidy(now)

    # -- time and children ---------------------------------------------------------------------

    def _turn(self) -> None:
        self._trees.reap(self._boottime())
        self._check_deadline()
        self._trees.enforce_timeouts(self._boottime())
        for task in self._trees.sweep(self._boottime()):
            self._let_go(task.token)
            if self._zygotes.has(task.token):
                self._zygotes.proven_dead(task.token)
            elif not task.lapsed:
                self._report_exit(task)
        if self._unproven is not None and not any(
            task.lapsed for task in self._trees.tasks.values()
        ):
            self._tell({"is": "dead", "session": self._unproven})
            self._unproven = None
        tokens, left = self._trees.unkillable(self._boottime())
        if tokens:
            self._tell({"is": "unkillable", "tokens": tokens, "processes": left})

    def _wait_ms(self) -> float | None:
        """How long poll may sleep; None is for ever."""
        now = self._boottime()
        moments = [self._deadline, self._trees.next_event(now), self._zygotes.next_event()]
        if self._deadline is not None:
            moments.append(now + NAP)
        if self._closing and not self._trees.tasks:
            moments.append(now + 0.005)
        first = min((moment for moment in moments if moment is not None), default=None)
        return None if first is None else max(0.0, first - now) * 1000

    @property
    def _overdue(self) -> bool:
        return self._deadline is not None and self._boottime() >= self._deadline

    def _check_deadline(self) -> None:
        if not self._overdue:
            return
        self._deadline = None
        self._lapsed = True
        self._unproven = self._session
        doomed = [task for task in self._trees.tasks.values() if not task.keep and not task.lapsed]
        for task in doomed:
            task.lapsed = True
        self._trees.kill_at_once(doomed, "lease lapsed", self._boottime())
        waiting = self._zygotes.abandon()
        tokens = [task.token for task in doomed if not self._zygotes.has(task.token)]
        tokens += [start.token for start in waiting if not start.message["keep"]]
        self._tell({"is": "lapsed", "session": self._session, "tokens": tokens})
        for start in waiting:
            self._refuse(start, "the lease lapsed", tell=start.message["keep"])

    def _report_exit(self, task: Task) -> None:
        status = 0 if task.status is None else task.status
        ended = os.waitstatus_to_exitcode(status)
        self._tell(
            {
                "is": "exited",
                "token": task.token,
                "exit_code": ended if ended >= 0 else None,
                "signal": -ended if ended < 0 else None,
                "reason": task.reason,
                "ended_at": task.ended_at,
                "duration": task.duration,
                "cpu": task.cpu,
                **task.usage,
            }
        )

    # -- commands ------------------------------------------------------------------------------

    def _obey(self) -> None:
        for _ in range(_READS):
            try:
                messages = self._channel.receive()
            except BlockingIOError:
                return
            except EOFError:
                self._lose_agent()
                return
            for message, fd in messages:
                self._execute(message, fd)

    def _execute(self, message: dict[str, Any], fd: int | None) -> None:
        match message["do"]:
            case "start":
                # What follows may take a while for each of many: the lease is looked at each time.
                self._check_deadline()
                self._start(message, fd)
            case "hold":
                if fd is not None:
                    self._held.setdefault(message["token"], []).append(fd)
            case "kill":
                waiting = self._zygotes.withdraw(message["token"])
                if waiting is not None:  # there is nothing to kill yet, and no end to be told of
                    self._launch(waiting, None)
                task = self._trees.tasks.get(message["token"])
                if task is not None:
                    now = self._boottime()
                    self._trees.reap(now)  # it may have ended well just before
                    self._trees.kill(task, message["grace"], message["reason"], now)
            case _:
                self._execute_for_all(message)

    def _execute_for_all(self, message: dict[str, Any]) -> None:
        """A command that is about no task in particular."""
        match message["do"]:
            case "deadline":
                if not self._lapsed:
                    self._deadline = message["at"]
            case "session":
                self._session = message["session"]
                self._lapsed = False
                self._deadline = None
            case "ping":
                self._tell({"is": "pong"})
            case "shutdown":
                self._close("the agent stopped")
            case unknown:
                raise ValueError(f"keeper: expected a command it knows, got {unknown!r}")

    def _start(self, message: dict[str, Any], fd: int | None) -> None:
        token = message["token"]
        if fd is None:
            problem = "this node has too many open files: no room for the task's output"
            self._tell({"is": "start_failed", "token": token, "reason": problem})
            self._let_go(token)
            return
        start = Start(message, fd, self._boottime())
        if self._closing or self._lapsed:
            why = "the agent is stopping" if self._closing else "the lease lapsed"
            self._refuse(start, why)
        elif token in self._trees.tasks or self._zygotes.waits(token):
            os.close(fd)
            problem = f"token {token} has a process already"
            self._tell({"is": "start_failed", "token": token, "reason": problem})
        elif not (message["warm"] and self._zygotes.take(start, self._session, start.at)):
            self._launch(start, None)

    def _launch(self, start: Start, standby: Standby | None) -> None:
        """Start it, as *standby* or anew. Raises StandbyGone, and then nothing is done yet."""
        message, token = start.message, start.token
        try:
            task = self._trees.start(
                token,
                Command(message["argv"], message["env"], message["cwd"], start.fd, standby=standby),
                session=self._session,
                keep=message["keep"],
                timeout=message["timeout"],
                grace=message["grace"],
                now=self._boottime(),
                limits=message["limits"],
            )
        except SpawnError as error:
            self._let_go(token)
            self._tell({"is": "start_failed", "token": token, "reason": str(error)})
        else:
            self._tell(
                {"is": "started", "token": token, "pid": task.pid, "started_at": self._wall()}
            )
        os.close(start.fd)

    def _refuse(self, start: Start, why: str, *, tell: bool = True) -> None:
        """Nothing starts any more; unless *tell*, the agent has been told already."""
        os.close(start.fd)
        self._let_go(start.token)
        if tell:
            reason = f"{why}: nothing starts in session {self._session} any more"
            self._tell({"is": "start_failed", "token": start.token, "reason": reason})

    def _let_go(self, token: int) -> None:
        """Nothing of the task is left: give back what is held open for it."""
        for fd in self._held.pop(token, ()):
            os.close(fd)

    def _tell(self, event: dict[str, Any]) -> None:
        if not self._agent_gone:
            self._channel.send(event)

    def _lose_agent(self) -> None:
        self._agent_gone = True
        self._close("the agent died")

    def _close(self, reason: str) -> None:
        if not self._closing:
            self._closing = True
            for start in self._zygotes.abandon():
                self._refuse(start, reason)
            self._trees.kill_at_once(self._trees.tasks.values(), reason, self._boottime())


def main(arguments: list[str]) -> None:
    """Run a keeper: ``descriptor, agent's pid, state id, session, cgroups`` are the arguments."""
    descriptor, agent_pid, state_id, session, cgroups = arguments
    _become_subreaper()
    wakeup_fd = _listen_to_signals()
    os.set_inheritable(int(descriptor), False)  # noqa: FBT003 -- tasks must not hold it open
    channel = Channel(socket.socket(fileno=int(descriptor)))
    agent_pidfd = os.pidfd_open(os.getppid())
    if os.getppid() != int(agent_pid):
        return  # the agent has died already; nothing has been started yet
    os.chdir("/")
    Loop(
        channel,
        state_id,
        int(session),
        boottime=lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
        wall=time.time,
        cgroups=cgroups,
    ).run(agent_pidfd, wakeup_fd)


def _become_subreaper() -> None:
    import ctypes  # noqa: PLC0415 -- used once, and the only way to prctl(2)

    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NAME, b"flow-keeper", 0, 0, 0)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"PR_SET_CHILD_SUBREAPER: {os.strerror(number)}")


def _listen_to_signals() -> int:
    """Make SIGCHLD wake the loop and the usual endings do nothing: the agent decides.

    A handler that does nothing, not SIG_IGN: a signal's being ignored would pass through exec.
    """
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in (
        signal.SIGCHLD,
        signal.SIGINT,
        signal.SIGTERM,
        signal.SIGHUP,
        signal.SIGQUIT,
        signal.SIGUSR1,
        signal.SIGUSR2,
    ):
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    return reading
