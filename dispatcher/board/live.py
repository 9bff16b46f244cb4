"""The board on a terminal, until its user has seen enough.

A thread reads the database, which may take its time or be away; the frames go on meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from datetime import datetime

from dispatcher.board.render import render
from dispatcher.board.terminal import Quit, Terminal
from dispatcher.store.boardreader import BoardReader
from dispatcher.store.views import BoardView
from flow.errors import StoreError

#: Seconds between two frames.
FRAME = 0.25
#: The database gets at least this many times the time to rest that one look takes.
_REST = 4
#: What is left to a look at the database when the board ends.
_PATIENCE = 0.5


@dataclass(frozen=True, slots=True)
class Sight:
    """What was last seen of the database, and why not more."""

    view: BoardView | None = None
    trouble: str = ""


class Watcher:
    """Keeps looking at the database, on a thread of its own."""

    def __init__(self, reader: BoardReader, wall: Callable[[], datetime]) -> None:
        self._reader = reader
        self._wall = wall
        self._pulse: Hashable = None
        self._sight = Sight()
        self._bug: BaseException | None = None
        self._stopped = threading.Event()
        # It may be waiting for a database that never answers, which must not keep the board open.
        self._thread = threading.Thread(target=self._run, name="flow-board", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopped.set()
        self._thread.join(_PATIENCE)

    def sight(self) -> Sight:
        """The latest one. Raises whatever ended the looking."""
        if self._bug is not None:
            raise self._bug
        return self._sight

    def look(self) -> None:
        """Look once: read everything if anything has changed."""
        now = self._wall()
        try:
            pulse = self._reader.pulse()
            view = self._sight.view
            if view is None or pulse != self._pulse:
                view = self._reader.board(now)
            self._sight = Sight(replace(view, at=now))
            self._pulse = pulse
        except StoreError as error:
            self._sight = replace(self._sight, trouble=str(error))

    def _run(self) -> None:
        pause = 0.0
        try:
            while not self._stopped.wait(pause):
                began = time.monotonic()
                self.look()
                pause = max(FRAME, _REST * (time.monotonic() - began))
            self._reader.close()
        except BaseException as error:  # noqa: BLE001  sight() raises it where it is seen
            self._bug = error


def show(terminal: Terminal, watcher: Watcher, wall: Callable[[], datetime]) -> int:
    """Show the board until ``q`` or a signal; the number of that signal, 0 for the key."""
    watcher.start()
    try:
        with terminal:
            while True:
                sight = watcher.sight()
                width, height = terminal.size
                frame = render(
                    sight.view, width, height, wall(), trouble=sight.trouble, hint="q quits"
                )
                terminal.draw(frame)
                terminal.wait(FRAME)
    except Quit as end:
        return end.signum
    finally:
        watcher.stop()
