"""A service manager of the tests' own: the end of NOTIFY_SOCKET that systemd would hold."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Self

from tests.waiting import PATIENCE, eventually

ROOT = Path(__file__).resolve().parents[2]


class Manager:
    """Runs one command of flow's and keeps what it says, in order."""

    def __init__(self, folder: Path, *, watchdog: float = 0.6) -> None:
        self.folder = folder
        self.lines: list[str] = []
        self.process: asyncio.subprocess.Process | None = None
        self._watchdog = watchdog
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(folder / "notify"))
        self._socket.setblocking(False)

    async def start(self, *command: str, **environ: str) -> Self:
        """``python -m COMMAND`` with *environ* and nothing else of flow's."""
        known = {key: value for key, value in os.environ.items() if not key.startswith("FLOW_")}
        environment = {
            **known,
            **environ,
            "NOTIFY_SOCKET": str(self.folder / "notify"),
            "WATCHDOG_USEC": str(int(self._watchdog * 1_000_000)),
        }
        asyncio.get_running_loop().add_reader(self._socket, self._read)
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", *command, cwd=ROOT, env=environment, stderr=log
            )
        return self

    @property
    def log(self) -> Path:
        """What the command logs."""
        return self.folder / "stderr"

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    async def ended(self) -> int:
        """Its exit code."""
        assert self.process is not None
        async with asyncio.timeout(PATIENCE):
            return await self.process.wait()

    async def close(self) -> None:
        """End the command, and stop listening."""
        if self.process is not None and self.process.returncode is None:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGKILL)
            await self.process.wait()
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        print(f"--- {self.log}\n{self.log.read_text()}\n{self.lines}", file=sys.stderr)

    # -- looking -------------------------------------------------------------------------------

    @property
    def news(self) -> list[str]:
        """What was said, without what is repeated."""
        repeated = ("WATCHDOG=", "EXTEND_TIMEOUT_USEC=", "MONOTONIC_USEC=")
        return [line for line in self.lines if not line.startswith(repeated)]

    @property
    def status(self) -> str:
        """The latest."""
        said = [line for line in self.lines if line.startswith("STATUS=")]
        return said[-1].removeprefix("STATUS=") if said else ""

    async def hears(self, line: str, times: int = 1) -> None:
        """Wait until *line* was said that often."""
        await eventually(lambda: self.lines.count(line) >= times or self._ended())

    async def shows(self, status: str) -> None:
        """Wait until the status begins like this."""
        await eventually(lambda: self.status.startswith(status) or self._ended())

    def _ended(self) -> bool:
        process = self.process
        assert process is None or process.returncode is None, self.log.read_text()
        return False

    def _read(self) -> None:
        while True:
            try:
                self.lines += self._socket.recv(4096).decode().splitlines()
            except BlockingIOError:
                return
