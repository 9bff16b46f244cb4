"""Looks at the DAG folder: which Python files are there, and whether they have changed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from flow.authoring.opened import stamp

_SKIPPED = "__pycache__"


@dataclass(frozen=True, slots=True)
class Listing:
    """The Python files of the folder, in order of their names."""

    files: Mapping[str, tuple[int, ...]]
    """Name relative to the folder, to what changes when the file does."""
    unreadable: tuple[str, ...] = ()
    """Subfolders (with a final slash) that could not be read: nobody knows what is in them."""

    def lacks(self, name: str) -> bool:
        """Whether *name* is known to be gone."""
        return name not in self.files and not name.startswith(self.unreadable)


def list_folder(folder: Path) -> Listing:
    """All ``*.py`` below *folder*, links followed, without hidden ones. Blocks.

    Raises :class:`OSError` when the folder itself cannot be read.
    """
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
            with os.scandir(folder / below) as entries:
                inside = [(entry.name, _kind(entry)) for entry in entries]
        except OSError:
            if not below:
                raise
            unreadable.append(below)
            continue
        for name, kind in inside:
            if name.startswith(".") or name == _SKIPPED:
                continue
            if kind == "folder":
                pending.append(f"{below}{name}/")
            elif kind == "file" and name.endswith(".py"):
                at = stamp(str(folder / below / name))
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


def _kind(entry: os.DirEntry[str]) -> str:
    try:
        return "folder" if entry.is_dir() else "file" if entry.is_file() else ""
    except OSError:  # a link that leads to itself
        return ""
