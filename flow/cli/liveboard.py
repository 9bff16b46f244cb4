"""The board above the prompt while one run lasts: redrawn in place, and its last frame stays."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TextIO

from dispatcher.board.live import Watcher
from dispatcher.board.render import render
from dispatcher.board.terminal import printed
from dispatcher.store import open_database
from dispatcher.store.boardreader import BoardReader

#: Seconds between two frames: runs may be short.
_FRAME = 0.1
#: Seconds that a terminal which takes nothing may hold up the end.
_PATIENCE = 2.0
_CLEAR_LINE, _CLEAR_BELOW = "\x1b[K", "\x1b[J"


def has_room(out: TextIO) -> bool:
    """Whether *out* is a terminal on which something can be redrawn."""
    return out.isatty() and os.environ.get("TERM", "dumb") != "dumb"


@contextmanager
def live_board(url: str) -> Iterator[None]:
    """Draw the board of the database at *url* on stdout until the block ends."""
    reader = BoardReader(open_database(url))
    watcher = Watcher(reader, _now)
    over = threading.Event()
    # It may wait for a terminal that stands still, which must hold up nothing else.
    drawing = threading.Thread(target=_draw, args=(watcher, over), name="flow-draw", daemon=True)
    watcher.start()
    drawing.start()
    try:
        yield
    finally:
        watcher.stop()
        watcher.look()  # how it ended
        reader.close()
        over.set()
        drawing.join(_PATIENCE)


def _draw(watcher: Watcher, over: threading.Event) -> None:
    with suppress(OSError):  # the terminal is gone: nobody looks any more
        _draw_until(over, watcher, sys.stdout)


def _draw_until(over: threading.Event, watcher: Watcher, out: TextIO) -> None:
    shown, last = 0, False
    while not last:
        last = over.wait(_FRAME)
        sight = watcher.sight()
        size = os.get_terminal_size(out.fileno())
        width, height = size.columns or 80, size.lines or 24
        # A line less than there is room for: a terminal that scrolls cannot be gone back on.
        frame = render(sight.view, width, height - 1, _now(), trouble=sight.trouble)
        lines = printed(out, frame, width).splitlines()
        back = f"\x1b[{shown}A" if shown else ""
        out.write(f"{back}\r" + "".join(f"{line}{_CLEAR_LINE}\n" for line in lines) + _CLEAR_BELOW)
        out.flush()
        shown = len(lines)


def _now() -> datetime:
    return datetime.now(UTC)
