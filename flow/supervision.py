"""A daemon under a service manager: when it is ready, what it is at, and whether it still goes on.

A daemon gives a function that says how it stands (:class:`Standing`); that is looked at every
second, and at once when the daemon says so. What follows from it is decided by :class:`Announcer`,
without I/O.

**What the watchdog proves.** ``WATCHDOG=1`` is sent by the event loop itself, in a turn of its own,
and only if ``Standing.stuck`` is empty. So what is proven is that the loop turns, and whatever
the daemon's own function looks at: see there (``agent.health``, ``dispatcher.health``). No thread
sends it: that would go on while the loop hangs.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass

from flow import sdnotify
from flow.sdnotify import Notifier

log = logging.getLogger(__name__)

#: Seconds between two looks.
LOOK_INTERVAL = 1.0
#: Least seconds between two changes of the status line, unless other news goes with it.
STATUS_INTERVAL = 0.9
#: Seconds between two requests for more time, and the seconds that each asks for.
EXTEND_INTERVAL = 5.0
EXTENSION = 30.0
#: Of the watchdog's time between two signs of life: one may be lost.
WATCHDOG_SHARE = 3


@dataclass(frozen=True, slots=True)
class Standing:
    """How a daemon stands now."""

    status: str
    """One line for ``systemctl status``."""
    ready: bool
    """Whether its start is over. Once it was, this no longer matters."""
    stuck: str = ""
    """Why it makes no progress, if so: then the watchdog hears nothing."""
    stopping: bool = False
    takes_time: bool = True
    """Whether a start or a stop that is under way may go on past the unit's timeout."""


@dataclass(slots=True)
class Announcer:
    """What to tell the service manager. *watchdog* is its time in seconds, or None."""

    watchdog: float | None
    status: str | None = None
    status_at: float = float("-inf")
    ready: bool = False
    stopping: bool = False
    extended_at: float = float("-inf")
    alive_at: float = float("-inf")
    stuck: str = ""

    def next(self, standing: Standing, now: float) -> list[str]:
        """The lines of the next message, none if there is nothing to say. *now* in seconds."""
        lines = []
        if standing.ready and not self.ready:
            self.ready = True
            lines.append(sdnotify.READY)
        if standing.stopping and not self.stopping:
            self.stopping = True
            lines.append(sdnotify.STOPPING)
        # What comes with news of that kind is said with it.
        if standing.status != self.status and (lines or now >= self.status_at + STATUS_INTERVAL):
            self.status, self.status_at = standing.status, now
            lines.append(sdnotify.status(standing.status))
        self.stuck = standing.stuck
        if self.stuck:
            return lines
        under_way = self.stopping or not self.ready
        if under_way and standing.takes_time and now >= self.extended_at + EXTEND_INTERVAL:
            self.extended_at = now
            lines.append(sdnotify.extend(EXTENSION))
        if self.watchdog is not None and now >= self.alive_at + self.watchdog / WATCHDOG_SHARE:
            self.alive_at = now
            lines.append(sdnotify.WATCHDOG)
        return lines


class Supervision:
    """Keeps *notifier* told of what *look* says. Without a notifier it does nothing."""

    def __init__(self, notifier: Notifier | None, look: Callable[[], Standing]) -> None:
        self._notifier = notifier
        self._look = look
        self._announcer = Announcer(notifier.watchdog if notifier else None)

    def look(self) -> None:
        """Say what is to be said, now."""
        if self._notifier is None:
            return
        before = self._announcer.stuck
        lines = self._announcer.next(self._look(), time.monotonic())
        stuck = self._announcer.stuck
        if stuck and not before:
            log.error("no progress: %s; unless that ends, the watchdog will", stuck)
        if lines and not self._notifier.tell(*lines):
            # Whatever it was: said again with the next look.
            self._announcer = Announcer(self._notifier.watchdog, stuck=stuck)

    async def run(self) -> None:
        """Look every second, until cancelled."""
        if self._notifier is None:
            return
        interval = LOOK_INTERVAL
        if self._notifier.watchdog is not None:
            # The watchdog ends the process by SIGABRT: where it was stuck is then in the journal.
            faulthandler.enable()
            interval = min(interval, self._notifier.watchdog / (2 * WATCHDOG_SHARE))
        while True:
            self.look()
            await asyncio.sleep(interval)

    @contextlib.contextmanager
    def reload(self) -> Iterator[None]:
        """Around the reading of settings at SIGHUP."""
        notifier = self._notifier if self._announcer.ready else None
        if notifier is not None:
            notifier.reloading()
        try:
            yield
        finally:
            if notifier is not None:
                notifier.tell(sdnotify.READY)


@contextlib.asynccontextmanager
async def supervised(
    notifier: Notifier | None, look: Callable[[], Standing]
) -> AsyncIterator[Supervision]:
    """Supervision for as long as the block lasts. Its own failure, a bug, is raised at the end;
    the watchdog may come before that."""
    supervision = Supervision(notifier, look)
    running = asyncio.ensure_future(supervision.run())
    running.add_done_callback(_report)
    try:
        yield supervision
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


def _report(running: asyncio.Future[None]) -> None:
    if not running.cancelled() and (error := running.exception()) is not None:
        log.error("a bug in flow: the service manager is told nothing more", exc_info=error)
