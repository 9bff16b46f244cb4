"""Start one task process by posix_spawn: no copy of this process, and exact errors."""

from __future__ import annotations

import errno
import os
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_DEFAULTS = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}


class SpawnError(Exception):
    """The process could not be started; the message says why and what to do."""


def spawn(
    argv: Sequence[str],
    env: Mapping[str, str],
    cwd: str,
    output_fd: int,
    input_fd: int | None = None,
) -> int:
    """Start *argv* in a session of its own and return its pid.

    stdin is *input_fd*, or /dev/null; stdout and stderr are *output_fd*, every other descriptor is
    closed (they are all close-on-exec here), all signals are at their defaults and unblocked.
    posix_spawn knows no directory, so this single-threaded process goes there itself for a moment.
    Raises SpawnError.
    """
    if not argv:
        raise SpawnError("command: expected a program and its arguments, got an empty list")
    _go(cwd)
    try:
        return os.posix_spawn(
            _find(argv[0], env),
            list(argv),
            env,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0)
                if input_fd is None
                else (os.POSIX_SPAWN_DUP2, input_fd, 0),
                (os.POSIX_SPAWN_DUP2, output_fd, 1),
                (os.POSIX_SPAWN_DUP2, output_fd, 2),
            ],
            setsid=True,
            setsigmask=(),
            setsigdef=_DEFAULTS,
        )
    except (OSError, ValueError) as error:
        raise SpawnError(_explain(argv[0], env, error)) from error
    finally:
        os.chdir("/")  # do not hold a file system that someone wants to unmount


def look_at(cwd: str) -> None:
    """Raises SpawnError, as :func:`spawn` would, when a task cannot be started in *cwd*."""
    _go(cwd)
    os.chdir("/")


def _go(cwd: str) -> None:
    try:
        os.chdir(cwd)
    except (OSError, ValueError) as error:
        raise SpawnError(
            f"cwd: expected a directory that exists on this node, got {cwd!r} ({_text(error)}); "
            "create it or change cwd"
        ) from error


def _find(program: str, env: Mapping[str, str]) -> str:
    """Look *program* up as execvp(3) does, in the task's PATH."""
    if "/" in program:
        return program
    for folder in env.get("PATH", os.defpath).split(os.pathsep):
        candidate = os.path.join(folder, program)  # noqa: PTH118 -- pathlib costs 2 MB
        if os.access(candidate, os.X_OK) and not os.path.isdir(candidate):  # noqa: PTH112
            return candidate
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), program)


def _explain(program: str, env: Mapping[str, str], error: OSError | ValueError) -> str:
    if isinstance(error, ValueError):
        return f"command: expected arguments and variables that exec takes, got {error}"
    if error.errno in {errno.ENOENT, errno.ENOTDIR} and "/" not in program:
        return (
            f"command: expected a program in PATH {env.get('PATH', os.defpath)!r}, got {program!r} "
            "(not found); install it on this node or give its full path"
        )
    if error.errno == errno.E2BIG:
        return (
            "command: expected arguments and variables that are together shorter than exec's "
            f"limit, got {_text(error)}"
        )
    if error.errno in {errno.EAGAIN, errno.ENOMEM}:
        return f"this node could not start another process: {_text(error)}"
    if error.errno == errno.ENOENT and os.path.exists(program):  # noqa: PTH110
        return (
            f"command: expected a program that can run, got {program!r} (the interpreter in its "
            "first line, or its loader, is not on this node)"
        )
    return (
        f"command: expected a program that can run, got {program!r} ({_text(error)}); "
        "is it on this node and executable?"
    )


def _text(error: OSError | ValueError) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
