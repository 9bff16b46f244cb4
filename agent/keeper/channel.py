"""Messages between agent and keeper: JSON behind a length, with at most one descriptor each.

A stream, not SOCK_SEQPACKET: a command line and its environment may be larger than the socket's
buffer, which one packet may not. Descriptors travel with the first byte of their message; the
kernel never lets one read run past them (unix(7)), so they arrive in the order of the messages.
"""

from __future__ import annotations

import array
import errno
import json
import os
import socket
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

_HEADER = 4
_READ = 1 << 16
#: Too many descriptors in flight, or the kernel is short of memory: passes by itself.
_BUSY = frozenset({errno.EAGAIN, errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM})
#: The other end is gone: its reader will say so, or its process's end.
_GONE = frozenset({errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN})


class Channel:
    """One end of a socket pair. Never blocks: what does not fit is queued."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)  # noqa: FBT003 -- its name says what is false
        self._socket = end
        self._incoming = bytearray()
        self._incoming_fds: deque[int | None] = deque()
        self._outgoing: deque[tuple[memoryview, int | None]] = deque()

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def unsent(self) -> bool:
        return bool(self._outgoing)

    def send(self, message: dict[str, Any], fd: int | None = None) -> None:
        """Queue *message* and send what the socket takes. *fd* is closed once it is sent."""
        body = json.dumps(message if fd is None else {**message, "fd": True}).encode()
        self._outgoing.append((memoryview(len(body).to_bytes(_HEADER) + body), fd))
        if len(self._outgoing) == 1:
            self.flush()

    def flush(self) -> None:
        """Send what is queued as far as the socket takes it; drop it when the other end is gone."""
        while self._outgoing:
            data, fd = self._outgoing[0]
            ancillary = (
                []
                if fd is None
                else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
            )
            try:
                sent = self._socket.sendmsg([data], ancillary)
            except OSError as error:
                if error.errno in _GONE:
                    self._drop_outgoing()
                elif error.errno not in _BUSY:
                    raise
                return
            if fd is not None:
                os.close(fd)
            if sent == len(data):
                self._outgoing.popleft()
            else:
                self._outgoing[0] = (data[sent:], None)

    def receive(self) -> list[tuple[dict[str, Any], int | None]]:
        """One read: the messages it completed, each with the descriptor it brought.

        Raises BlockingIOError when nothing is there, and EOFError once the other end is closed and
        everything from it has been returned. A descriptor that was sent but that this process had
        no room for (RLIMIT_NOFILE) is None.
        """
        space = socket.CMSG_LEN(array.array("i").itemsize)
        try:
            data, ancillary, flags, _ = self._socket.recvmsg(_READ, space, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError as error:  # it closed with messages of ours unread
            raise EOFError from error
        if not data:
            raise EOFError
        fds = array.array("i")
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
        self._incoming_fds.extend(fds)
        if flags & socket.MSG_CTRUNC and not fds:
            self._incoming_fds.append(None)
        self._incoming += data
        return self._messages()

    def close(self) -> None:
        """Close this end and every descriptor that is still on its way. Safe to call twice."""
        self._drop_outgoing()
        while self._incoming_fds:
            fd = self._incoming_fds.popleft()
            if fd is not None:
                os.close(fd)
        self._socket.close()

    def _messages(self) -> list[tuple[dict[str, Any], int | None]]:
        messages = []
        buffer = self._incoming
        while len(buffer) >= _HEADER:
            end = _HEADER + int.from_bytes(buffer[:_HEADER])
            if len(buffer) < end:
                break
            message = json.loads(buffer[_HEADER:end])
            del buffer[:end]
            messages.append((message, self._incoming_fds.popleft() if "fd" in message else None))
        return messages

    def _drop_outgoing(self) -> None:
        while self._outgoing:
            _, fd = self._outgoing.popleft()
            if fd is not None:
                os.close(fd)
