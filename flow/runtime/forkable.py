"""Whether forks of this process are as good as fresh ones: what running a DAG file has done to it.

A file that has opened, started or looked at something that two tasks must not share, or do not have
in common, gets a fresh interpreter for each task. When in doubt, the answer is no.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
#: ``os.environ`` and what it is made of: not who looks at it.
_BETWEEN = ("os", "collections.abc")


class Watch:
    """Made before the file runs, asked after it. Meanwhile it hears who looks at what differs from
    task to task: *own* are the names of such variables. *folder* is that of the DAG files."""

    def __init__(self, own: Collection[str], folder: str) -> None:
        # It seeds itself when it is imported; a fork seeds it anew, but not what came of it.
        import random  # noqa: PLC0415  flow's own runtime needs none

        self._random = random
        self._random_state = random.getstate()
        self._cwd = os.getcwd()  # noqa: PTH109  watched below
        self._files = _open_files()
        self._shared = _shared_memory()
        self._problem = ""
        self._getcwd, self._getcwdb = os.getcwd, os.getcwdb
        os.getcwd = self._noticing(self._getcwd)
        os.getcwdb = self._noticing(self._getcwdb)
        self._variables = _Variables(
            os.environ._data,  # type: ignore[attr-defined]  # noqa: SLF001  there is no other way to hear of it
            frozenset(map(os.fsencode, own)),
            os.fspath(folder) + os.sep,
            self._notice,
        )
        _put_into_environ(self._variables)

    def end(self) -> str:
        """Why forks of this process would differ from fresh ones; empty when they would not."""
        os.getcwd, os.getcwdb = self._getcwd, self._getcwdb
        _put_into_environ(self._variables.unwatched())
        return self._problem or self._found()

    def _notice(self, what: str) -> None:
        self._problem = self._problem or what

    def _noticing(self, function: Callable[[], Any]) -> Callable[[], Any]:
        def getcwd() -> Any:
            # It remembers where it was imported, for processes that it spawns: see `moved`.
            if sys._getframe(1).f_globals.get("__name__") != "multiprocessing.process":  # noqa: SLF001
                self._notice("it looks at the working directory, which each task has of its own")
            return function()

        return getcwd

    def _found(self) -> str:
        if len(os.listdir("/proc/self/task")) > 1:  # noqa: PTH208  names are enough
            return "it starts threads"
        if _has_children():
            return "it starts processes"
        if new := _open_files() - self._files:
            return f"it leaves open: {', '.join(sorted(target for _, target in new))}"
        if _shared_memory() - self._shared:
            return "it has memory that forks would share"
        if any(signal.getitimer(timer)[0] for timer in _TIMERS):
            return "it sets a timer"
        if self._getcwd() != self._cwd:
            return "it changes the working directory"
        if self._random.getstate() != self._random_state or _numpy_is_used():
            return "it uses or seeds random numbers"
        return ""


class _Variables(dict[bytes, bytes]):
    """The environment variables of :data:`os.environ`, without those in *own*."""

    def __init__(
        self,
        variables: dict[bytes, bytes],
        own: frozenset[bytes],
        folder: str,
        notice: Callable[[str], None],
    ) -> None:
        super().__init__({name: variables[name] for name in variables.keys() - own})
        self._own = own
        self._folder = folder
        self._notice = notice

    def unwatched(self) -> dict[bytes, bytes]:
        """As they are now."""
        return {name: dict.__getitem__(self, name) for name in dict.__iter__(self)}

    def _look(self, name: bytes) -> None:
        if name in self._own:
            self._notice(f"it looks at the variable {os.fsdecode(name)}, which differs by task")

    def __getitem__(self, name: bytes) -> bytes:
        self._look(name)
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        if isinstance(name, bytes):
            self._look(name)
        return super().__contains__(name)

    def __setitem__(self, name: bytes, value: bytes) -> None:
        self._look(name)
        super().__setitem__(name, value)

    def __delitem__(self, name: bytes) -> None:
        self._look(name)
        super().__delitem__(name)

    def __iter__(self) -> Iterator[bytes]:
        # Libraries do that, for names that are theirs; a file of the user's may mean any.
        frame: FrameType | None = sys._getframe(1)  # noqa: SLF001
        while frame is not None and frame.f_globals.get("__name__") in _BETWEEN:
            frame = frame.f_back
        if frame is not None and frame.f_code.co_filename.startswith(self._folder):
            self._notice("it goes through all environment variables, some of which differ by task")
        return super().__iter__()


def _put_into_environ(variables: dict[bytes, bytes]) -> None:
    environ: Any
    for environ in (os.environ, os.environb):
        environ._data = variables  # noqa: SLF001


def _open_files() -> frozenset[tuple[int, str]]:
    """Descriptors, and what they are."""
    found = set()
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        try:
            target = os.readlink(f"/proc/self/fd/{name}")  # noqa: PTH115
        except FileNotFoundError:  # that of the listing
            continue
        found.add((int(name), target))
    return frozenset(found)


def _shared_memory() -> frozenset[str]:
    """Writable mappings that a fork shares, such as semaphores."""
    with Path("/proc/self/maps").open() as maps:
        return frozenset(line for line in maps if line.split()[1].startswith("rw-s"))


def _has_children() -> bool:
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return False
    return True


def _numpy_is_used() -> bool:
    """Whether NumPy's global generator was seeded or drawn from, as far as can be told."""
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is None:
        return False
    state: Any = numpy_random.get_state(legacy=False)
    if state["bit_generator"] != "MT19937" or state["has_gauss"]:
        return True
    generator: Any = numpy_random.mtrand._rand._bit_generator  # noqa: SLF001
    seeded = getattr(generator, "seed_seq", None) or getattr(generator, "_seed_seq", None)
    # It seeds itself from a sequence, and stands there then.
    return seeded is None or int(state["state"]["pos"]) != 623  # noqa: PLR2004


def moved() -> None:
    """In a fork that has gone to its task's working directory: what a fresh process has of its own
    without being told."""
    process = sys.modules.get("multiprocessing.process")
    if process is not None:
        process.ORIGINAL_DIR = os.getcwd()  # type: ignore[attr-defined]  # noqa: PTH109
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()
