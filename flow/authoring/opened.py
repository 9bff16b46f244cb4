"""Which files of the DAG folder a DAG file depends on: those it opened, or imported."""

from __future__ import annotations

import os
import sys

_WRITING = os.O_WRONLY | os.O_RDWR


class OpenedFiles:
    """Watches this process, from :meth:`watch` on, for files below *folder* that are read.

    A file that the process also writes is left out: it would ask for another parse each time.
    """

    def __init__(self, folder: str) -> None:
        # Files may also be opened by the name that a link to the folder leads to.
        self._below = tuple({f"{root}{os.sep}" for root in (folder, os.path.realpath(folder))})
        self._read: dict[str, list[int]] = {}
        self._written: set[str] = set()

    def watch(self) -> None:
        """Begin. An audit hook cannot be taken back (sys.addaudithook)."""
        sys.addaudithook(self._hear)

    def stamps(self, *, besides: str) -> dict[str, list[int]]:
        """Path to :func:`stamp`, taken before the file was read; without the file *besides*."""
        for module in list(sys.modules.values()):
            path = getattr(module, "__file__", None)
            if isinstance(path, str):
                self._note(path)
        left_out = {*self._written, besides}
        return {path: at for path, at in self._read.items() if path not in left_out}

    def _hear(self, event: str, arguments: tuple[object, ...]) -> None:
        if event == "open":
            path, _mode, flags = arguments
            if isinstance(path, (str, bytes, os.PathLike)):
                name = _absolute(path)
                if isinstance(flags, int) and flags & _WRITING:
                    self._written.add(name)
                else:
                    self._note(name)
        elif event == "os.rename" and isinstance(arguments[1], (str, bytes, os.PathLike)):
            self._written.add(_absolute(arguments[1]))

    def _note(self, path: str) -> None:
        if path.startswith(self._below) and "__pycache__" not in path and path not in self._read:
            at = stamp(path)
            if at:
                self._read[path] = at


def stamp(path: str) -> list[int]:
    """What changes when a file does: inode, size and times; empty when there is no such file."""
    try:
        found = os.stat(path)  # noqa: PTH116  for every file, every second: a Path costs more
    except OSError:
        return []
    return [found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _absolute(path: str | bytes | os.PathLike[str] | os.PathLike[bytes]) -> str:
    # Without the links resolved: the folder's name is the one that modules were found under.
    return os.path.abspath(os.fsdecode(path))  # noqa: PTH100  pathlib has only absolute(), with ".."
