"""A process that waits to be a task: forked from a zygote, a child of the keeper all the same."""

from __future__ import annotations

import errno
import json
import os
import socket
from typing import TYPE_CHECKING

from agent import processes
from agent.keeper.spawn import SpawnError, look_at

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from agent.keeper.births import Command

_DIGITS = 19
"""Of the token in a zygote's environment, which its forks write over (``flow.runtime.warm``)."""
#: Of a job that is handed over in one packet: less than any socket's buffer.
_MAX_JOB = 64 * 1024


class StandbyGone(Exception):
    """It has ended, or is no child of the keeper's: nothing of the task has begun."""


class Standby:
    """The process *pid*, which listens at *end* and has the environment variables *has*."""

    def __init__(self, pid: int, end: socket.socket, has: Collection[str]) -> None:
        end.setblocking(False)  # noqa: FBT003 -- its name says what is false
        self.pid = pid
        self._end = end
        self._has = has

    def check(self) -> None:
        """Raises StandbyGone. Since it tells its pid itself, what it says is looked up: a child of
        this process that is not reaped keeps its id."""
        process = processes.read_process(self.pid)
        if (
            process is None
            or process.parent != os.getpid()
            or process.session != self.pid
            or process.threads != 1
            or not processes.alive(process)
        ):
            raise StandbyGone

    def begin(self, token: int, command: Command) -> None:
        """Be the task *token*; the last of the command's arguments names its job. Raises SpawnError
        and StandbyGone."""
        look_at(command.cwd)
        job = {
            "job": command.argv[-1],
            "token": f"{token:0{_DIGITS}}",
            "env": {name: text for name, text in command.env.items() if name not in self._has},
            "cwd": command.cwd,
        }
        try:
            socket.send_fds(self._end, [json.dumps(job).encode()], [command.output_fd])
        except OSError as error:
            if error.errno in {errno.EPIPE, errno.ECONNRESET}:
                raise StandbyGone from error
            raise SpawnError(f"this node could not hand the task over: {error.strerror}") from error
        self.close()

    def close(self) -> None:
        """It ends unless it has a task. Safe twice."""
        self._end.close()


def fits(argv: Sequence[str], variables: Mapping[str, str], cwd: str) -> bool:
    """Whether a task can be handed over: it is not too large, and could be started as well."""
    size = sum(6 * (len(name) + len(value)) for name, value in variables.items())
    text = [*argv, *variables, *variables.values(), cwd]
    return size + 6 * len(cwd) < _MAX_JOB and not any("\0" in part for part in text)
