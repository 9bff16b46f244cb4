"""A dispatcher whose clock on the wall is wrong, and is set while it runs.

``python -m tests.chaos.falseclock FILE ARGUMENTS...`` is ``flow ARGUMENTS...`` in a process in
which the clock of :mod:`dispatcher.clock` is ahead of the machine's by what FILE says; the product
knows nothing of it. CLOCK_BOOTTIME, by which leases are counted, stays true.
"""

from __future__ import annotations

import mmap
import struct
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta, tzinfo
from pathlib import Path

import dispatcher.clock
from flow.cli.main import main as flow

_SECONDS = struct.Struct("d")


class FalseClock:
    """The clock of dispatchers that are started with :attr:`bin_folder`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._file = folder / "ahead"
        self.bin_folder = folder / "bin"
        self.bin_folder.mkdir()
        self._ahead = timedelta(0)
        self._write()
        command = self.bin_folder / "flow"
        root = Path(__file__).resolve().parents[2]
        command.write_text(
            f"#!/bin/sh\nPYTHONPATH={root} exec {sys.executable} -m tests.chaos.falseclock "
            f'{self._file} "$@"\n',
            encoding="utf-8",
        )
        command.chmod(0o755)

    def now(self, zone: tzinfo) -> datetime:
        """What it shows."""
        return datetime.now(zone) + self._ahead

    def set(self, moment: datetime) -> None:
        """Set it, forward or back."""
        self._ahead = moment - datetime.now(moment.tzinfo)
        self._write()

    def step(self, by: timedelta) -> None:
        """Put it forward, or back."""
        self._ahead += by
        self._write()

    def _write(self) -> None:
        data = _SECONDS.pack(self._ahead.total_seconds())
        # In place: those who read it have it mapped.
        with self._file.open("r+b" if self._file.exists() else "wb") as file:
            file.write(data)


class _Clock:
    """In the place of ``datetime`` in :mod:`dispatcher.clock`."""

    def __init__(self, file: Path) -> None:
        with file.open("rb") as opened:
            self._ahead = mmap.mmap(opened.fileno(), _SECONDS.size, access=mmap.ACCESS_READ)

    def now(self, zone: tzinfo) -> datetime:
        """As ``datetime.now``."""
        (ahead,) = _SECONDS.unpack_from(self._ahead)
        return datetime.now(zone) + timedelta(seconds=ahead)


def main(arguments: Sequence[str]) -> int:
    """The command line; see the module's docstring."""
    file, *command = arguments
    vars(dispatcher.clock)["datetime"] = _Clock(Path(file))
    return flow(command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
