"""The processes of a peer: daemons with a log each, and a client that answers lines of JSON.

All carry a mark in their environment, so that the end of a turn finds those, too, that left their
parents' session or outlived them.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from bench.contender import ContenderFailed

REPOSITORY = Path(__file__).resolve().parent.parent.parent
_MARK = "FLOW_BENCH_PEER"
_TAIL = 30
_GRACE = 10.0


class Programs:
    """Everything that one contender has running."""

    def __init__(self, name: str, folder: Path, environment: Mapping[str, str]) -> None:
        self._name = name
        self._folder = folder
        self._mark = secrets.token_hex(8)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._answers = b""
        # Nothing of the user's own settings, and the bytecode that setup made.
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(REPOSITORY),
            _MARK: self._mark,
            **environment,
        }

    def start(self, role: str, command: Sequence[str | Path], *, pipes: bool = False) -> None:
        """Start *command* as *role*; what it says goes to ``<role>.log``. It dies with the thread
        that started it, even if that is killed."""
        with self._log(role).open("ab") as log:
            self._processes[role] = subprocess.Popen(
                ["setpriv", "--pdeathsig=KILL", "--", *command],
                cwd=self._folder,
                env=self.environment,
                stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
                stdout=subprocess.PIPE if pipes else log,
                stderr=log,
                start_new_session=True,
            )

    def run(self, command: Sequence[str | Path], within: float) -> None:
        """Run *command* to its end; raises :class:`ContenderFailed` unless it succeeds in time."""
        role = "setup"
        self.start(role, command)
        process = self._processes.pop(role)
        try:
            code = process.wait(within)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            code = None
        if code != 0:
            self._fail(f"expected {command[0]} to succeed within {within:.0f} s, got {code}", role)

    def roots(self) -> dict[str, list[int]]:
        """Their process ids by role."""
        return {role: [process.pid] for role, process in self._processes.items()}

    def check(self) -> None:
        """Raises :class:`ContenderFailed` when one of them has ended."""
        for role, process in self._processes.items():
            if process.poll() is not None:
                self._fail(f"expected its {role} to run, got exit {process.returncode}", role)

    def ask(
        self, request: Mapping[str, Any], within: float, role: str = "client"
    ) -> dict[str, Any]:
        """What the program *role*, started with pipes, answers; an empty *request* only listens.

        Raises :class:`ContenderFailed` when it answers with an error, ends, or takes too long."""
        process = self._processes[role]
        assert process.stdin is not None, "it was started with pipes"
        if request:
            with contextlib.suppress(BrokenPipeError):  # it has ended: said below, with its log
                process.stdin.write(json.dumps(request).encode() + b"\n")
                process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._line(process, role, within))
        if "error" in answer:
            self.check()
            self._fail(str(answer["error"]), role)
        return answer

    def _line(self, process: subprocess.Popen[bytes], role: str, within: float) -> bytes:
        assert process.stdout is not None, "it was started with pipes"
        until = time.monotonic() + within
        while b"\n" not in self._answers:
            left = max(0.0, until - time.monotonic())
            if not select.select([process.stdout], [], [], left)[0]:
                self._fail(f"expected an answer within {within:.0f} s, got none", role)
            chunk = os.read(process.stdout.fileno(), 1 << 20)
            if not chunk:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_GRACE)
                self._fail(f"expected an answer, got exit {process.returncode}", role)
            self._answers += chunk
        line, _, self._answers = self._answers.partition(b"\n")
        return line

    def stop(self) -> None:
        """End everything: politely, then by force, then whatever carries the mark."""
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        until = time.monotonic() + _GRACE
        for process in self._processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, until - time.monotonic()))
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()
        self._processes.clear()
        # Again and again: what is killed last may have forked meanwhile.
        while left := self._marked():
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)

    def _marked(self) -> list[int]:
        mark = f"{_MARK}={self._mark}".encode()
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            # A zombie's environment is empty, so what was killed is not found again.
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
        return found

    def _log(self, role: str) -> Path:
        return self._folder / f"{role}.log"

    def _fail(self, message: str, role: str) -> NoReturn:
        lines = self._log(role).read_text(errors="replace").splitlines()[-_TAIL:]
        raise ContenderFailed(f"{self._name}: {message}\n" + "\n".join(lines))
