"""Where the story is shown: live on a terminal, or line by line where there is none."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from rich.console import Group
from rich.text import Text

from dispatcher.board.columns import crop
from dispatcher.board.live import Sight
from dispatcher.board.palette import GREEN, QUIET, RED
from dispatcher.board.render import render
from dispatcher.board.terminal import Terminal, printed
from tests.demo.story import Line, Story

#: Lines that the story takes below the board, and that the board takes for what the story has.
STORY, BOARD = 8, 14
#: Seconds between two looks at what the story waits for.
_POLL = 0.05
#: Cells of a line where no terminal limits it.
_WIDEST = 200


class Stage(Protocol):
    """Somewhere to show a story."""

    def lent(self) -> AbstractContextManager[object]:
        """While the story is played."""

    def breathe(self) -> None:
        """Show how things are, and wait a moment."""

    def close(self) -> None:
        """Show how it ended, on what is left when the program has gone."""


@dataclass(slots=True)
class Screen:
    """A terminal: the board, and the story below it."""

    story: Story
    sight: Callable[[], Sight]
    terminal: Terminal

    @classmethod
    def of(cls, story: Story, sight: Callable[[], Sight]) -> Screen:
        """On this process's own terminal."""
        keys = sys.stdin.fileno() if sys.stdin.isatty() else None
        return cls(story, sight, Terminal(sys.stdout, keys))

    def lent(self) -> AbstractContextManager[object]:
        return self.terminal

    def breathe(self) -> None:
        width, height = self.terminal.size
        self.terminal.draw(scene(self.sight(), self.story, width, height, hint="q quits"))
        self.terminal.wait(_POLL)

    def close(self) -> None:
        width, _ = self.terminal.size
        frame = scene(self.sight(), self.story, width, BOARD + STORY)
        print(printed(sys.stdout, frame, width), end="", flush=True)


@dataclass(slots=True)
class Lines:
    """No terminal: what happens, as it happens."""

    story: Story
    shown: int = 0

    @contextmanager
    def lent(self) -> Iterator[None]:
        yield
        self._print()

    def breathe(self) -> None:
        self._print()
        time.sleep(_POLL)

    def close(self) -> None:
        if self.story.verdict is not None:
            print(self.story.verdict.line(), flush=True)

    def _print(self) -> None:
        for line in self.story.lines[self.shown :]:
            print(printed(sys.stdout, _told(line), _WIDEST), end="", flush=True)
        self.shown = len(self.story.lines)


def scene(sight: Sight, story: Story, width: int, height: int, *, hint: str = "") -> Group:
    """The board, and below it what has happened, in *width* x *height* cells."""
    below = told(story)[:STORY]
    space = min(BOARD, height - STORY)
    board = render(sight.view, width, space, datetime.now(UTC), trouble=sight.trouble, hint=hint)
    lines = [*board.renderables, Text(), *(crop(line, width) for line in below)]
    for line in lines:
        assert isinstance(line, Text)
        line.no_wrap = True
    return Group(*lines)


def told(story: Story) -> list[Text]:
    """The story so far."""
    lines = [_told(line) for line in story.lines]
    if story.verdict is not None:
        style = f"bold {GREEN}" if story.verdict.holds else RED
        lines += [Text(), Text(story.verdict.line(), style)]
    return lines


def _told(line: Line) -> Text:
    return Text.assemble((f"{line.at:5.1f} s  ", QUIET), (f"{line.glyph} ", line.style), line.text)
