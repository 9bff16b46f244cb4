"""A disk that is soon full: a small tmpfs. Mounting takes root (mount(8))."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

_BLOCK = 64 * 1024


class SmallDisk:
    """Mounted at *path*, with room for *megabytes*."""

    def __init__(self, path: Path, megabytes: int) -> None:
        self.path = path
        self._filler = path / "filler"
        path.mkdir(parents=True, exist_ok=True)
        _run("mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "flow-chaos", str(path))

    def fill(self) -> None:
        """Leave no room for a single byte more."""
        with contextlib.suppress(OSError), self._filler.open("ab", buffering=0) as file:
            while file.write(bytes(_BLOCK)):
                pass  # until there is no space left

    def empty(self) -> None:
        """What filled it is removed."""
        self._filler.unlink()

    def grow(self, megabytes: int) -> None:
        """Somebody makes it larger."""
        _run("mount", "-o", f"remount,size={megabytes}m", str(self.path))

    def close(self) -> None:
        """Take it off the tree; it ends with the last process that has a file of it open."""
        _run("umount", "--lazy", str(self.path))


@contextlib.contextmanager
def small_disk(path: Path, megabytes: int) -> Iterator[SmallDisk]:
    """A small disk for as long as the block lasts."""
    disk = SmallDisk(path, megabytes)
    try:
        yield disk
    finally:
        disk.close()


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)} as user {os.geteuid()}: {done.stderr}"
