"""A real terminal for programs that draw on one: tmux on a private server."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tests.waiting import until


@dataclass(frozen=True, slots=True)
class Terminal:
    """One window. Screens are lists of lines, without blanks at their ends."""

    socket: str
    environment: Mapping[str, str]

    def tmux(self, *arguments: str) -> str:
        """What ``tmux ARGUMENTS`` prints."""
        done = subprocess.run(
            ["tmux", "-S", self.socket, "-f", os.devnull, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"tmux {arguments}: {done.stderr}"
        return done.stdout

    def screen(self) -> list[str]:
        """What is on the screen."""
        return [line.rstrip() for line in self.tmux("capture-pane", "-p").splitlines()]

    def escapes(self) -> str:
        """The same, with its colours."""
        return self.tmux("capture-pane", "-p", "-e")

    def state(self, *names: str) -> list[str]:
        """Variables of tmux's, such as ``alternate_on``."""
        formats = " ".join(f"#{{{name}}}" for name in names)
        return self.tmux("display-message", "-p", formats).split()

    def type(self, text: str) -> None:
        """Press the keys of *text*, and Enter."""
        self.tmux("send-keys", "-l", text)
        self.tmux("send-keys", "Enter")

    def press(self, key: str) -> None:
        """Press one key, by tmux's name for it."""
        self.tmux("send-keys", key)

    def resize(self, width: int, height: int) -> None:
        """Give the window another size."""
        self.tmux("resize-window", "-x", str(width), "-y", str(height))

    def until(self, condition: Callable[[list[str]], bool], within: float = 20.0) -> list[str]:
        """The first screen on which *condition* holds."""
        screens: list[list[str]] = []

        def holds() -> bool:
            screens.append(self.screen())
            return condition(screens[-1])

        try:
            until(holds, within)
        except AssertionError:
            print("\n".join(screens[-1]), file=sys.stderr)
            raise
        return screens[-1]


@contextmanager
def terminal(
    environment: Mapping[str, str], width: int, height: int, command: Sequence[str] = ("sh",)
) -> Iterator[Terminal]:
    """A terminal of this size in which *command*, a shell, waits for input."""
    # Not pytest's folder: the path of a socket must be short.
    with tempfile.TemporaryDirectory(prefix="flow-tmux-") as folder:
        found = Terminal(
            f"{folder}/socket", {**environment, "LANG": "C.UTF-8", "TMUX_TMPDIR": folder}
        )
        size = ("-x", str(width), "-y", str(height))
        found.tmux("-u", "new-session", "-d", *size, *command)
        try:
            found.until(any)  # its prompt
            yield found
        finally:
            found.tmux("kill-server")
