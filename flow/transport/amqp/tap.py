"""What a broker sends by the thousand, taken before aiormq sees it.

aiormq makes three reads, three queue entries and a task of each delivery, and calls the kernel for
each frame that it sends; that was most of what a message cost (docs/performance.md). So the
channels of consumers and outlets have a :class:`Tap` that takes deliveries, confirms and returned
messages from the incoming bytes. All that is rare (opening, declaring, heartbeats, closing) is
aiormq's, which gets those bytes as they are.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import SupportsIndex

from flow.transport.amqp import frames
from flow.transport.amqp.holding import Holding

#: aiormq gives a broker up from which it sees nothing; how often it is shown that frames come
#: which it does not see, in seconds. Less than any limit of its.
_SIGN_OF_LIFE = 0.5
#: What a broker of another protocol's version says instead of a frame (2.2.4).
_NO_FRAME = b"AMQP"


class Tap(ABC):
    """One channel's."""

    def __init__(self) -> None:
        self._begun: bytes | None = None
        self._header = b""
        self._parts: list[bytes] = []
        self._missing = 0

    def take(self, kind: int, payload: bytes) -> bool:
        """Look at a frame of the channel; whether it is taken, so that aiormq must not see it."""
        if self._begun is None:
            if kind != frames.METHOD:
                return False
            if not self.begins_content(payload[:4]):
                return self.method(payload[:4], payload)
            self._begun = payload
            return True
        if kind == frames.HEADER:
            self._header, self._missing = payload, frames.body_size(payload)
        else:
            self._parts.append(payload)
            self._missing -= len(payload)
        if self._missing <= 0:
            method, self._begun = self._begun, None
            body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
            self._parts.clear()
            self.content(method, self._header, body)
        return True

    @abstractmethod
    def begins_content(self, name: bytes) -> bool:
        """Whether the method of this *name* (class and method) is taken with the content that
        follows it."""

    @abstractmethod
    def method(self, name: bytes, payload: bytes, /) -> bool:
        """Any other method of the channel; whether it is taken."""

    @abstractmethod
    def content(self, method: bytes, header: bytes, body: bytes, /) -> None:
        """A message is complete. Must not raise."""


class TappedReader(asyncio.StreamReader):
    """Cuts what arrives into frames; those that no tap takes go on to aiormq, and *holding* looks
    at them too."""

    def __init__(self, holding: Holding) -> None:
        super().__init__()
        self._holding = holding
        self._taps: dict[int, Tap] = {}
        self._rest = b""
        self._now: Callable[[], float] = asyncio.get_running_loop().time
        self._shown = 0.0

    def tap(self, channel: int, tap: Tap) -> None:
        """Show *tap* all frames of *channel* from now on."""
        self._taps[channel] = tap

    def feed_data(self, data: Iterable[SupportsIndex]) -> None:
        """Take what has arrived, in whatever pieces."""
        arrived = self._rest + bytes(data)
        at, passed, size = 0, 0, len(arrived)
        unpack, head, overhead = frames.FRAME.unpack_from, frames.FRAME.size, frames.OVERHEAD
        while size - at >= overhead:
            kind, channel, length = unpack(arrived, at)
            end = at + length + overhead
            if end > size:
                break
            tap = self._taps.get(channel)
            if tap is not None and tap.take(kind, arrived[at + head : at + head + length]):
                self._pass(arrived[passed:at])
                passed = end
            at = end
        if arrived.startswith(_NO_FRAME):
            at = size
        self._pass(arrived[passed:at])
        self._rest = arrived[at:]
        if self._taps:
            self._show_life()

    def feed_eof(self) -> None:
        """The other side has closed: half a frame is aiormq's to complain of."""
        self._pass(self._rest)
        self._rest = b""
        super().feed_eof()

    def _pass(self, data: bytes) -> None:
        if data:
            self._holding.feed(data)
            super().feed_data(data)

    def _show_life(self) -> None:
        now = self._now()
        if now - self._shown >= _SIGN_OF_LIFE:
            self._shown = now
            super().feed_data(frames.HEARTBEAT)
