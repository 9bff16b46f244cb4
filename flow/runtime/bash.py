"""A bash command with templates: rendered, then bash takes this process's place."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import NoReturn

from flow.runtime.context import build
from flow.runtime.job import Job, TaskFailed
from flow.runtime.templates import Renderer


def become(job: Job) -> NoReturn:
    """Render and exec. Raises :class:`TaskFailed` when it does not render, or is too long."""
    renderer = Renderer(job, build(job))
    command = renderer.render(job.arguments["command"], "bash_command")
    env = renderer.render(job.arguments["env"], "env")
    # Python ignores SIGPIPE and SIGXFSZ, and what is ignored stays so in what it executes.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execve(  # noqa: S606  bash is the shell
            job.bash, [job.bash, "-c", command], {**_own_environment(), **env}
        )
    except (OSError, ValueError) as error:
        # E2BIG, or a NUL in what was rendered
        raise TaskFailed(
            f"{job.where}: expected a command that can be run, got one of "
            f"{len(command.encode())} bytes: {error}"
        ) from error


def _own_environment() -> dict[str, str]:
    """What this process was started with: Python may add LC_CTYPE to it (PEP 538)."""
    names = {
        line.split(b"=", 1)[0] for line in Path("/proc/self/environ").read_bytes().split(b"\0")
    }
    return {name: value for name, value in os.environ.items() if os.fsencode(name) in names}
