"""Looks at the DAG folder: which Python files are there, and whether they have changed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dispatcher.flowignore import Ignored
from flow.authoring.opened import stamp
from flow.errors import DagError


@dataclass(frozen=True, slots=True)
class Listing:
    """The Python files of the folder, in order of their names."""

    files: Mapping[str, tuple[int, ...]]
    """Name relative to the folder, to what changes when the file does."""
    unreadable: tuple[str, ...] = ()
    """Subfolders (with a final slash) that could not be read, and links that lead out: nobody
    knows what is in them."""

    def lacks(self, name: str) -> bool:
        """Whether *name* is known to be gone."""
        return name not in self.files and not name.startswith(self.unreadable)


def list_folder(folder: Path) -> Listing:
    """All ``*.py`` below *folder*, without hidden and ignored ones. Blocks.

    Links are followed within the folder. What is behind others cannot be shipped (see
    dispatcher/bundler.py), so it is not looked at, nor is it taken for gone.

    Raises :class:`OSError` when the folder itself cannot be read.
    """
    ignored, root = _ignored(folder), os.path.realpath(folder)
    files: dict[str, tuple[int, ...]] = {}
    unreadable: list[str] = []
    seen: set[tuple[int, int]] = set()
    pending = [""]
    while pending:
        below = pending.pop()
        try:
            found = (folder / below).stat()
            if (found.st_dev, found.st_ino) in seen:  # a link back to a folder above
                continue
            seen.add((found.st_dev, found.st_ino))
            inside = _entries(folder, below, ignored, root)
        except OSError:
            if not below:
                raise
            unreadable.append(below)
            continue
        for entry, kind in inside:
            name = entry.name
            if kind == "outside":
                unreadable.append(below + name)
            elif kind == "folder":
                pending.append(f"{below}{name}/")
            elif kind == "file" and name.endswith(".py"):
                at = stamp(entry.path)
                if at:  # it has not vanished since
                    files[below + name] = tuple(at)
    return Listing(dict(sorted(files.items())), tuple(unreadable))


def stamps(paths: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """What changes when one of these files does; ``()`` for a missing one. Blocks."""
    return {path: tuple(stamp(path)) for path in paths}


def may_define_dags(path: Path) -> bool:
    """Whether running the file is worth it: its text names both a DAG and flow. Blocks.

    One that cannot be read counts: the parser says why.
    """
    try:
        text = path.read_bytes().lower()
    except OSError:
        return True
    return b"dag" in text and b"flow" in text


def printable(name: str) -> str:
    """*name* as text that can be stored: bytes of a file name that are no UTF-8 are escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _ignored(folder: Path) -> Ignored:
    try:
        return Ignored.of(folder)
    except DagError:
        return Ignored()  # the bundler, which reads the same rules, says why


def _entries(
    folder: Path, below: str, ignored: Ignored, root: str
) -> list[tuple[os.DirEntry[str], str]]:
    """What is in a subfolder and not left out, and of what kind. Raises :class:`OSError`."""
    with os.scandir(folder / below) as entries:
        return [
            (entry, _kind(entry, root))
            for entry in entries
            if not ignored.leaves_out(below + entry.name, folder=is_folder(entry))
        ]


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder or leads to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def leads_out(entry: os.DirEntry[str], root: str) -> str:
    """Where a link leads to that leads out of the folder *root* (a real path); otherwise ``""``."""
    if not entry.is_symlink():
        return ""
    real = os.path.realpath(entry.path)
    return "" if real == root or real.startswith(root + os.sep) else real


def _kind(entry: os.DirEntry[str], root: str) -> str:
    try:
        if leads_out(entry, root):
            return "outside"
        return "folder" if entry.is_dir() else "file" if entry.is_file() else ""
    except OSError:  # a link that leads to itself
        return ""
