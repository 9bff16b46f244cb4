"""A terminal lent to the board: its other screen, single keys, and everything back at the end."""

from __future__ import annotations

import contextlib
import io
import os
import select
import signal
import termios
import tty
from collections.abc import Iterator
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console, RenderableType

from dispatcher.board.palette import ASCII

#: To the other screen without a cursor, and back.
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l\x1b[H", "\x1b[?25h\x1b[?1049l"
_HOME, _CLEAR_LINE, _CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGWINCH, signal.SIGTSTP)
_QUITTING = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


class Quit(Exception):
    """The user has seen enough. ``signum`` is the signal that said so, 0 for a key."""

    def __init__(self, signum: int = 0) -> None:
        super().__init__(signum)
        self.signum = signum


class Terminal:
    """*out* and the keys of *keys*, a file descriptor, or ``None`` where there are none.

    Signals are read from a pipe between two frames, never in the middle of one: whatever ends the
    board, the terminal is given back by the same few lines.
    """

    def __init__(self, out: TextIO, keys: int | None) -> None:
        self._out = out
        self._keys = keys if keys is not None and os.isatty(keys) else None
        self._shown = ""
        self._before: list[int | list[bytes | int]] | None = None
        self._borrowed = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._signals = stack.enter_context(_signal_pipe())
            stack.callback(self._give_back)
            self._borrow()
            self._borrowed = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._borrowed.__exit__(kind, error, traceback)

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines, as they are now."""
        with _hang_up_quits():
            size = os.get_terminal_size(self._out.fileno())
        # A terminal that does not know its size says 0.
        return size.columns or 80, size.lines or 24

    def draw(self, frame: RenderableType) -> None:
        """Show *frame*, whose lines are no longer than the terminal is wide."""
        width, height = self.size
        lines = printed(self._out, frame, width).splitlines()
        text = "\n".join(_CLEAR_LINE + line for line in lines[:height])
        # Behind a full last line the cursor still stands on it, and would clear its end.
        text += f"\n{_CLEAR_BELOW}" if len(lines) < height else ""
        if text != self._shown:
            with _hang_up_quits():
                self._write(_HOME + text)
            self._shown = text

    def wait(self, seconds: float) -> None:
        """Return after *seconds*, or earlier when the terminal has another size.

        Raises :class:`Quit` for ``q`` and for signals that end a process.
        """
        sources = [self._signals] if self._keys is None else [self._signals, self._keys]
        ready, _, _ = select.select(sources, [], [], seconds)
        if self._signals in ready:
            for signum in os.read(self._signals, 64):
                self._obey(signum)
        if self._keys in ready:
            self._read_keys()

    def _write(self, text: str) -> None:
        # Past the file's buffer: what a terminal that is gone does not take must not stay there.
        left = text.encode(self._out.encoding or "ascii", "replace")
        while left:
            left = left[os.write(self._out.fileno(), left) :]

    def _obey(self, signum: int) -> None:
        if signum in _QUITTING:
            raise Quit(signum)
        if signum == signal.SIGTSTP:
            self._give_back()
            os.kill(os.getpid(), signal.SIGSTOP)
            self._borrow()
        self._shown = ""

    def _read_keys(self) -> None:
        assert self._keys is not None
        with _hang_up_quits():
            pressed = os.read(self._keys, 64)
        if not pressed:
            raise Quit(signal.SIGHUP)
        if b"q" in pressed or b"Q" in pressed:
            raise Quit

    def _borrow(self) -> None:
        if self._keys is not None:
            self._before = termios.tcgetattr(self._keys)
            tty.setcbreak(self._keys)
        self._write(_ENTER)

    def _give_back(self) -> None:
        # A terminal that is gone needs nothing back.
        with contextlib.suppress(OSError):
            self._write(_LEAVE)
        if self._keys is not None and self._before is not None:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self._keys, termios.TCSAFLUSH, self._before)


def printed(out: TextIO, frame: RenderableType, width: int) -> str:
    """*frame* as text for *out*: coloured only for terminals, ``NO_COLOR`` honoured, and without
    characters that its encoding does not have."""
    buffer = io.StringIO()
    terminal = out.isatty()
    console = Console(
        file=buffer,
        width=width,
        force_terminal=terminal,
        color_system="auto" if terminal else None,
        highlight=False,
        emoji=False,
        markup=False,
        soft_wrap=False,
    )
    console.print(frame)
    text = buffer.getvalue()
    if "utf" not in (out.encoding or "").lower():
        encoding = out.encoding or "ascii"
        text = text.translate(ASCII).encode(encoding, "replace").decode(encoding)
    return text


@contextlib.contextmanager
def _hang_up_quits() -> Iterator[None]:
    """A terminal that is gone is a reason to end, not a bug."""
    try:
        yield
    except OSError:
        raise Quit(signal.SIGHUP) from None


@contextlib.contextmanager
def _signal_pipe() -> Iterator[int]:
    """A file descriptor from which the numbers of signals can be read."""
    receive, send = os.pipe()
    os.set_blocking(send, False)
    before = {signum: signal.signal(signum, _noted) for signum in _SIGNALS}
    wakeup = signal.set_wakeup_fd(send, warn_on_full_buffer=False)
    try:
        yield receive
    finally:
        signal.set_wakeup_fd(wakeup)
        for signum, handler in before.items():
            signal.signal(signum, handler)
        os.close(receive)
        os.close(send)


def _noted(_signum: int, _frame: object) -> None:
    """Python has written the number into the pipe by now."""
