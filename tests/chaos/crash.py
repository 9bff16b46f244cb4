"""A dispatcher that kills itself at a named moment.

``python -m tests.chaos.crash FILE ARGUMENTS...`` is ``flow ARGUMENTS...`` in a process whose
functions are wrapped: the product knows nothing of it. Whenever FILE names one of the points of
:mod:`tests.chaos.crashpoints`, the process removes FILE and sends itself SIGKILL there. So it can
be armed at any time, and a file that is gone says that the point was reached.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flow.cli.main import main as flow
from tests.chaos.crashpoints import POINTS, Point

#: Constants of the product that would make a point wait for long, in seconds.
_HASTE = {"dispatcher.bundling:PRUNE_INTERVAL": 0.5, "dispatcher.reign:TOUCH_INTERVAL": 0.5}


def arm(file: Path, point: Point) -> None:
    """Make the dispatcher that watches *file* die at the next call of *point*."""
    waiting = file.with_name(f"{file.name}.new")
    waiting.write_text(point.name, encoding="utf-8")
    waiting.rename(file)


class Trap:
    """Kills this process at the point that *file* names."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def pass_by(self, point: Point, arguments: Sequence[Any], result: Any = None) -> None:
        """*point* was reached by a call; die here if it is the armed one, and such a call."""
        try:
            armed = self._file.read_text(encoding="utf-8")
        except FileNotFoundError:
            return
        if armed == point.name and point.chooses(arguments, result):
            self._file.unlink()
            os.kill(os.getpid(), signal.SIGKILL)

    def set_up(self, points: Sequence[Point]) -> None:
        """Wrap what *points* name. Raises AttributeError for what does not exist."""
        for target in dict.fromkeys(point.target for point in points):
            owner, name = locate(target)
            here = [point for point in points if point.target == target]
            setattr(owner, name, self._wrapped(getattr(owner, name), here))

    def _wrapped(self, call: Callable[..., Any], points: Sequence[Point]) -> Callable[..., Any]:
        before = [point for point in points if point.when == "before"]
        after = [point for point in points if point.when == "after"]
        confirmed = [point for point in points if point.when == "confirmed"]

        def enter(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
            for point in before:
                self.pass_by(point, arguments)
            return self._when_confirmed(arguments, confirmed) if confirmed else arguments

        def leave(arguments: tuple[Any, ...], result: Any) -> None:
            for point in after:
                self.pass_by(point, arguments, result)

        @functools.wraps(call)
        def plain(*arguments: Any, **named: Any) -> Any:
            result = call(*enter(arguments), **named)
            leave(arguments, result)
            return result

        @functools.wraps(call)
        async def coroutine(*arguments: Any, **named: Any) -> Any:
            result = await call(*enter(arguments), **named)
            leave(arguments, result)
            return result

        return coroutine if inspect.iscoroutinefunction(call) else plain

    def _when_confirmed(
        self, arguments: tuple[Any, ...], points: Sequence[Point]
    ) -> tuple[Any, ...]:
        """The arguments of ``Publisher._send``, whose last one is told of the confirmation."""
        *others, done = arguments

        def told(future: Any) -> None:
            for point in points:
                self.pass_by(point, arguments)
            done(future)

        return (*others, told)


def locate(target: str) -> tuple[Any, str]:
    """The owner of *target* and its name there."""
    module, _, path = target.partition(":")
    *classes, name = path.split(".")
    owner = functools.reduce(getattr, classes, importlib.import_module(module))
    getattr(owner, name)
    return owner, name


def main(arguments: Sequence[str]) -> int:
    """The command line; see the module's docstring."""
    file, *command = arguments
    for target, seconds in _HASTE.items():
        owner, name = locate(target)
        setattr(owner, name, seconds)
    Trap(Path(file)).set_up(POINTS)
    return flow(command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
