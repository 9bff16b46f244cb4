"""Whether the broker holds publishers back, read from the bytes that it sends.

aiormq keeps ``connection.blocked``, ``connection.unblocked`` and heartbeats to itself. So this
looks at the same bytes before aiormq does; it relies on the framing of AMQP 0-9-1 (section 2.3.5)
and on nothing of the library.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

#: Type, channel and size of what follows; an end octet comes after that.
_HEADER = struct.Struct(">BHI")
_END = 1
_METHOD, _HEARTBEAT = 1, 8
#: Class and method, the first four octets of a method frame.
_BLOCKED, _UNBLOCKED = struct.pack(">HH", 10, 60), struct.pack(">HH", 10, 61)

#: Erlang's clock may run ahead by one percent while it is led back to the system's time that was
#: stepped (ERTS User's Guide, "Time and Time Correction"), and its timers go by that clock.
_CLOCK_TRUST = 0.99


class Holding:
    """Follows one connection's incoming bytes and tells of alarms (memory, disk).

    *tell* is called with 0.0 when the broker begins to hold this connection's publishers back,
    then, while it does, with a growing lower bound of the seconds for which it has done so, and
    with ``None`` when it ends.

    The bound: a heartbeat that comes before ``unblocked`` was sent before it, and RabbitMQ's sender
    (``rabbit_heartbeat``, read in 3.10.8 and in main of 2026) wakes up no more often than every
    half of the negotiated heartbeat, and sends at most one frame then. So the n-th frame proves
    n - 1 halves. When a frame arrives says nothing: it may have waited in a buffer.
    """

    def __init__(self, tell: Callable[[float | None], None]) -> None:
        #: The negotiated heartbeat in seconds.
        self.timeout = 0
        #: Why publishers are or were held back, in the broker's words: "low on memory".
        self.reason = ""
        self._tell = tell
        self._rest = bytearray()
        self._frames: int | None = None

    @property
    def held(self) -> bool:
        """Publishers are held back now."""
        return self._frames is not None

    def feed(self, data: bytes) -> None:
        """Take what has arrived, in whatever pieces."""
        rest = self._rest
        rest += data
        at = 0
        while len(rest) - at >= _HEADER.size:
            kind, channel, size = _HEADER.unpack_from(rest, at)
            begin, end = at + _HEADER.size, at + _HEADER.size + size + _END
            if end > len(rest):
                break
            if kind == _HEARTBEAT:
                self._heartbeat()
            elif kind == _METHOD and channel == 0:
                self._method(bytes(rest[begin : end - _END]))
            at = end
        del rest[:at]

    def _method(self, payload: bytes) -> None:
        if payload.startswith(_BLOCKED) and self._frames is None:
            self._frames = 0
            self.reason = payload[5 : 5 + payload[4]].decode(errors="replace")
            self._tell(0.0)
        elif payload.startswith(_UNBLOCKED) and self._frames is not None:
            self._frames = None
            self._tell(None)

    def _heartbeat(self) -> None:
        if self._frames is None:
            return
        self._frames += 1
        if self._frames > 1:  # the first may have been sent as soon as it began
            half = self.timeout * 1000 // 2 / 1000  # as rabbit_heartbeat rounds it
            self._tell(_CLOCK_TRUST * (self._frames - 1) * half)
