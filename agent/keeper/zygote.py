"""One zygote, from the keeper's side: an interpreter with a DAG file loaded, which forks standbys.

The keeper has it as a task of its own, with a token that no task can have. So whatever the file
starts when it is run belongs to that token, and ends with it; so do standbys, until one is a task.
"""

from __future__ import annotations

import json
import os
import socket
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from agent.keeper.births import Command
from agent.keeper.standby import Standby

if TYPE_CHECKING:
    from typing import Any

    from agent.keeper.task import Task
    from agent.keeper.trees import Trees

#: Standbys that wait for a task each that may come.
SPARE = 1
#: Seconds in which an interpreter must have started and run the file.
START_WITHIN = 60.0
_PACKET = 4096


class Kind(NamedTuple):
    """What tasks must have in common to come from one zygote."""

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    cwd: str

    @classmethod
    def of(cls, message: dict[str, Any]) -> Kind:
        """Of a start, as the agent sends it: see ``agent.keeper_client.Warm``."""
        warm, own = message["warm"], frozenset(message["warm"]["own"])
        return cls(
            (*message["argv"][:-1], "--warm", warm["about"]),
            tuple(pair for pair in message["env"].items() if pair[0] not in own),
            warm["cwd"],
        )


class Start(NamedTuple):
    """A task that is to be started, as the agent sent it, with the descriptor of its output."""

    message: dict[str, Any]
    fd: int
    at: float
    """When it came, in boot time."""

    @property
    def token(self) -> int:
        return int(self.message["token"])


class Zygote:
    """Made by :meth:`begin`."""

    def __init__(self, kind: Kind, task: Task, control: socket.socket, now: float) -> None:
        control.setblocking(False)  # noqa: FBT003 -- its name says what is false
        self.kind = kind
        self.task = task
        self.ready = False
        self.used_at = now
        self.standbys: deque[Standby] = deque()
        self.waiting: deque[Start] = deque()
        self._variables = frozenset(name for name, _ in kind.env)
        self._control = control
        self._asked = 0

    @classmethod
    def begin(
        cls, kind: Kind, start: Start, trees: Trees, *, token: int, session: int, now: float
    ) -> Zygote:
        """Start the process. Raises SpawnError, and OSError for want of descriptors."""
        limits = start.message["limits"]
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs, os.fdopen(os.memfd_create("flow-zygote"), "wb") as output:
                task = trees.start(
                    token,
                    Command(kind.argv, dict(kind.env), kind.cwd, output.fileno(), theirs.fileno()),
                    session=session,
                    keep=False,
                    timeout=START_WITHIN,
                    grace=0.0,
                    now=now,
                    # Its memory is not the task's; a fork bomb would be the node's.
                    limits={name: limits[name] for name in ("pids.max",) if name in limits},
                )
        except BaseException:
            ours.close()
            raise
        return cls(kind, task, ours, now)

    def fileno(self) -> int:
        return self._control.fileno()

    def hear(self) -> tuple[dict[str, Any], Standby | None]:
        """What it says next, and the standby that it has made with that.

        Raises BlockingIOError when it says nothing, and EOFError when it has ended, or when what
        says this is the user's file, which has found the socket.
        """
        try:
            packet, fds, _, _ = socket.recv_fds(self._control, _PACKET, 1, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError as error:
            raise EOFError from error
        if not packet:
            raise EOFError
        try:
            message = json.loads(packet)
            pid = message.get("pid")
        except (ValueError, AttributeError) as error:
            raise EOFError from error
        if pid is None:
            return message, None
        self._asked = max(0, self._asked - 1)
        if not fds:  # no room for it (RLIMIT_NOFILE): it ends, and is asked for again
            return message, None
        return message, Standby(pid, socket.socket(fileno=fds[0]), self._variables)

    def ask(self) -> None:
        """Have as many standbys made as are missing. That it has ended is heard."""
        while len(self.standbys) + self._asked < SPARE + len(self.waiting):
            try:
                self._control.send(b"f")
            except OSError:
                return
            self._asked += 1

    def close(self) -> None:
        """Let go of it and its standbys. Safe twice."""
        self._control.close()
        while self.standbys:
            self.standbys.popleft().close()
