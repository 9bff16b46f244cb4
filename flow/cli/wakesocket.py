"""The bell of a flow that runs in one process: a datagram socket in its home folder."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from flow.errors import FlowError, TransportError

_NAME = "wake.sock"
#: More rings than this before the first is heard are one ring.
_RINGS = 64


def ring(home: Path) -> TransportError | None:
    """Wake the process that listens in *home*; what went wrong, if anything."""
    try:
        with _address(home) as address, _socket() as bell:
            bell.sendto(b"", address)
    except BlockingIOError:
        return None  # it has been rung so often that one more changes nothing
    except OSError as error:
        return TransportError(
            f"{home / _NAME}: expected a running `flow standalone` to listen, got {error.strerror}"
        )
    return None


@contextlib.contextmanager
def listening(home: Path, on_ring: Callable[[], None]) -> Iterator[None]:
    """Call *on_ring* in this event loop whenever the bell rings. Only who holds the lock on *home*
    may listen, since the socket that a killed process left behind is replaced.

    Raises :class:`~flow.errors.FlowError`.
    """
    from asyncio import get_running_loop  # commands, which only ring, start faster without

    loop = get_running_loop()
    with _socket() as bell:
        # Before it has a name: nobody else may ring it for a moment either (Linux keeps the mode).
        os.fchmod(bell.fileno(), 0o600)
        try:
            (home / _NAME).unlink(missing_ok=True)
            with _address(home) as address:
                bell.bind(address)
        except OSError as error:
            raise FlowError(
                f"{home / _NAME}: expected a socket to listen on, got {error.strerror}; "
                "set FLOW_HOME to a folder on a local disk"
            ) from error

        def heard() -> None:
            with contextlib.suppress(BlockingIOError):
                for _ in range(_RINGS):
                    bell.recv(1)
            on_ring()

        loop.add_reader(bell.fileno(), heard)
        try:
            yield
        finally:
            loop.remove_reader(bell.fileno())
            (home / _NAME).unlink(missing_ok=True)


def _socket() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)


@contextlib.contextmanager
def _address(home: Path) -> Iterator[str]:
    """The socket's path, by way of its folder's descriptor: a path of more than 107 bytes is no
    address (unix(7))."""
    folder = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{_NAME}"
    finally:
        os.close(folder)
