"""The agent's state directory: its lock, its session counter, who and where it is.

``<home>/agents/<name>/`` holds ``lock``, ``session.json``, ``spool/``, ``work/`` and ``parked/``.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from flow.errors import ConfigError, FlowError

MACHINE_ID = Path("/etc/machine-id")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class NameTaken(FlowError):
    """Another agent process of this name holds the state directory."""


@dataclass(slots=True)
class StateDirectory:
    """An agent's directory, locked for as long as the process lives or until :meth:`close`."""

    path: Path
    state_id: str
    """Random, made with the directory: what marks this agent's processes."""
    session: int
    """The last session begun; 0 before the first."""
    _lock: int = field(repr=False)

    @classmethod
    def open(cls, home: Path, name: str) -> StateDirectory:
        """Make and lock the directory of agent *name*.

        Raises :class:`NameTaken` at once when an agent of this name runs on this FLOW_HOME, and
        :class:`ConfigError` when the directory cannot be made or its session file is damaged.
        """
        path = home / "agents" / name
        try:
            for folder in (path, path / "spool", path / "work", path / "parked"):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(
                f"agent {name!r}: expected a writable directory {path}, got: {error.strerror}; "
                f"set FLOW_HOME to a folder of the agent's user"
            ) from error
        try:
            _take_lock(lock, name, path)
            session, state_id = _read_session(path / "session.json")
        except FlowError:
            os.close(lock)
            raise
        return cls(path, state_id, session, lock)

    @property
    def spool(self) -> Path:
        """Where results wait for their answer."""
        return self.path / "spool"

    @property
    def work(self) -> Path:
        """Where tasks without a ``cwd`` get a folder of their own."""
        return self.path / "work"

    @property
    def parked(self) -> Path:
        """Where unreadable messages are put."""
        return self.path / "parked"

    def next_session(self, above: int = 0) -> int:
        """Begin a session higher than all before it and than *above*; it is on disk on return.
        Raises OSError, and then none has begun."""
        session = max(self.session, above) + 1
        content = {"session": session, "state_id": self.state_id}
        write_durably(self.path / "session.json", json.dumps(content).encode())
        self.session = session
        return session

    def close(self) -> None:
        """Let another agent have the directory."""
        os.close(self._lock)


def write_durably(path: Path, content: bytes) -> None:
    """Replace *path* in one step: afterwards the new content is on disk, whatever happens.

    Raises OSError, and then what was written of it takes up no room on a disk that has none.
    """
    for error in write_all_durably({path: content}).values():
        raise error


def write_all_durably(contents: Mapping[Path, bytes]) -> dict[Path, OSError]:
    """:func:`write_durably` for files of one folder, for little more than one costs: the first
    fsync brings most of the others' to disk as well. Returns what could not be written."""
    opened: dict[Path, int] = {}
    failed: dict[Path, OSError] = {}

    def attempt(path: Path, step: Callable[[], object]) -> None:
        try:
            step()
        except OSError as error:
            _new(path).unlink(missing_ok=True)
            # write(2) does not know the name of what it writes to.
            failed[path] = OSError(error.errno, error.strerror, str(path))

    def replace(path: Path, descriptor: int) -> None:
        os.fsync(descriptor)
        _new(path).replace(path)

    try:
        for path, content in contents.items():
            attempt(path, partial(_write_new, path, content, opened))
        for path in contents.keys() - failed.keys():
            attempt(path, partial(replace, path, opened[path]))
    finally:
        for descriptor in opened.values():
            os.close(descriptor)
    for folder in {path.parent for path in contents.keys() - failed.keys()}:
        try:
            sync_directory(folder)
        except OSError as error:
            failed |= {path: error for path in contents if path.parent == folder}
    return failed


def _new(path: Path) -> Path:
    return path.with_name(path.name + ".new")


def _write_new(path: Path, content: bytes, opened: dict[Path, int]) -> None:
    """Write what is to take the place of *path*; its descriptor goes into *opened*."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    descriptor = opened[path] = os.open(_new(path), flags, 0o600)
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def sync_directory(path: Path) -> None:
    """Make renames and removals in *path* last (fsync(2): the directory needs its own)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def home_id(state: StateDirectory) -> str:
    """Which machine and which state directory on it."""
    return f"{_machine_id()}:{state.state_id}"


def boot_id() -> str:
    """New at every boot of the kernel."""
    return BOOT_ID.read_text().strip()


def _machine_id() -> str:
    try:
        known = MACHINE_ID.read_text().strip()
    except FileNotFoundError:  # containers often have none
        known = ""
    return known or socket.gethostname()


def _take_lock(lock: int, name: str, path: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(lock, 20, 0).decode(errors="replace").strip()
        raise NameTaken(
            f"agent {name!r}: expected to be the only one of this name, got the running process "
            f"{holder or 'of another user'} with {path}; stop it or choose another --name"
        ) from None
    # Only for that message: a disk without room for it does not keep an agent from starting.
    with contextlib.suppress(OSError):
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)


def _read_session(path: Path) -> tuple[int, str]:
    try:
        content = json.loads(path.read_bytes())
        return int(content["session"]), str(content["state_id"])
    except FileNotFoundError:
        return 0, uuid.uuid4().hex
    except (ValueError, KeyError, TypeError) as error:
        # Guessing a lower number would have every message refused; a new state id would hide
        # what an earlier agent may have left running.
        raise ConfigError(
            f"{path}: expected JSON with session and state_id, got {error}; once no process of "
            f"this agent is left, remove the file"
        ) from error
