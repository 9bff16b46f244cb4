"""A parser process (``flow/authoring/parse.py``) as the dispatcher sees it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import flow
from flow.authoring.parse import MAX_ANSWER_BYTES, READY
from flow.dagspec import DagSpec
from flow.errors import DagError, FlowError

#: What a DAG file may see of the dispatcher's environment: no settings, no credentials, and no
#: PYTHONPATH, which may lead to the dispatcher's own packages.
_PASSED = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR"),
    *("LD_LIBRARY_PATH", "VIRTUAL_ENV", "CONDA_PREFIX", "CONDA_DEFAULT_ENV"),
)
#: For the interpreter to start, and for the parser to notice a limit by itself.
_START_SECONDS = 60.0
_MARGIN_SECONDS = 10.0
_STOP_SECONDS = 2.0
_TAIL_LINES = 20


class ParserFailed(FlowError):
    """The parser process itself did not start, or ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """For one DAG file: seconds, and bytes of private memory (``None``: no limit)."""

    seconds: float
    memory: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What running one DAG file came to."""

    source: str = ""
    dags: tuple[DagSpec, ...] = ()
    error: str | None = None
    depends_on: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Files of the DAG folder that it read, with their stamps from before."""
    died: bool = False
    """Its process was killed or ended without an answer: the next try may cost as much."""


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What of *environment* a DAG file may see."""
    passed = {
        name: value
        for name, value in environment.items()
        if name in _PASSED or name.startswith("LC_")
    }
    # A fixed seed: DAGs built from sets come out the same each time, and keep their version.
    return {**passed, "PYTHONHASHSEED": "0", "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1"}


@dataclass(frozen=True, slots=True)
class _Process:
    handle: asyncio.subprocess.Process
    stdin: asyncio.StreamWriter
    stdout: asyncio.StreamReader

    @classmethod
    def of(cls, handle: asyncio.subprocess.Process) -> _Process:
        if handle.stdin is None or handle.stdout is None:
            raise AssertionError("a parser is started with both pipes")
        return cls(handle, handle.stdin, handle.stdout)

    async def ended(self) -> str:
        """How it ended, in words; waits for the end."""
        return _ended(await self.handle.wait())

    async def end(self) -> None:
        """Ask it to end, by the end of its stdin, and see to it."""
        self.stdin.close()
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await self.handle.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.handle.pid, signal.SIGKILL)
            await self.handle.wait()


class Parser:
    """One parser process, started at the first use and again after it failed.

    One file at a time. ``interpreter`` is the user's Python.
    """

    def __init__(self, interpreter: str, folder: Path, environment: Mapping[str, str]) -> None:
        self._interpreter = interpreter
        self._folder = folder
        self._environment = clean_environment(environment)
        self._process: _Process | None = None

    async def parse(self, file: str, defaults: Mapping[str, Any], limits: Limits) -> Answer:
        """Run *file*. Every way it can fail is an :class:`Answer` with an error."""
        request = {
            **defaults,
            "folder": str(self._folder),
            "file": file,
            "time_limit": limits.seconds,
            "memory_limit": limits.memory,
        }
        done = False
        try:
            process = self._process or await self._start()
            line = await _ask(process, json.dumps(request).encode() + b"\n", limits.seconds)
            # A DAG of thousands of tasks takes a while to read; heartbeats should not wait for it.
            answer = await asyncio.to_thread(_read_answer, file, line, limits)
            done = True
        except ParserFailed as error:
            return Answer(error=f"{file}: {error}", died=True)
        finally:
            if not done:
                await self.close()
        return answer

    async def close(self) -> None:
        """End the process, and the file it is running. Safe twice."""
        if self._process is not None:
            await self._process.end()
            self._process = None  # only now: whoever is cancelled in between closes once more

    async def _start(self) -> _Process:
        script = Path(flow.__file__).parent / "authoring" / "parse.py"
        command = (self._interpreter, "-B", "-X", "faulthandler", str(script), str(self._folder))
        try:
            started = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                cwd=self._folder,
                env=self._environment,
                start_new_session=True,
                limit=MAX_ANSWER_BYTES + 1024 * 1024,
            )
        except OSError as error:
            raise ParserFailed(
                f"expected an interpreter that starts, got {error.strerror} for "
                f"{self._interpreter}; set [dags] python to a Python 3.10 or later"
            ) from None
        self._process = process = _Process.of(started)
        heard: list[str] = []
        try:
            async with asyncio.timeout(_START_SECONDS):
                while (line := await process.stdout.readline()) != READY:
                    if not line:
                        raise ParserFailed(
                            f"expected {self._interpreter} to run flow's parser, "
                            f"got {_last(''.join(heard[-_TAIL_LINES:]))}; "
                            "set [dags] python to a Python 3.10 or later"
                        )
                    heard.append(line.decode("utf-8", "replace"))
        except TimeoutError:
            raise ParserFailed(
                f"expected {self._interpreter} to start within {_START_SECONDS:g} s, got no sign "
                "of it; check [dags] python"
            ) from None
        return process


async def _ask(process: _Process, request: bytes, seconds: float) -> bytes:
    try:
        async with asyncio.timeout(seconds + _MARGIN_SECONDS):
            process.stdin.write(request)
            await process.stdin.drain()
            line = await process.stdout.readline()
    except TimeoutError:
        raise ParserFailed("expected an answer of the parser in time, got none") from None
    except (ConnectionError, ValueError) as error:  # ValueError: a line beyond the stream's limit
        raise ParserFailed(f"expected an answer of the parser, got {error!r}") from None
    if not line:
        raise ParserFailed(f"expected an answer of the parser, got {await process.ended()}")
    return line


def _read_answer(file: str, line: bytes, limits: Limits) -> Answer:
    try:
        data = json.loads(line)
        if "died" in data:
            return Answer(error=_obituary(file, data, limits), died=True)
        return Answer(
            source=data["source"],
            dags=tuple(DagSpec.from_json(text) for text in data["dags"]),
            error=data["error"],
            depends_on={path: tuple(at) for path, at in data["depends_on"].items()},
        )
    except (ValueError, LookupError, TypeError, AttributeError, DagError):
        raise ParserFailed(f"expected an answer of the parser, got {line[:80]!r}") from None


def _obituary(file: str, data: Mapping[str, Any], limits: Limits) -> str:
    """Why a file's process gave no answer."""
    if data["died"] == "time":
        return (
            f"{file}: expected a file that runs within {limits.seconds:g} s, got no end; "
            "move slow work into tasks"
        )
    if data["died"] == "large":
        return (
            f"{file}: expected DAGs of at most {MAX_ANSWER_BYTES >> 20} MiB, got more; "
            "put large data into files that the tasks read"
        )
    how = _ended(int(data["status"]))
    return f"{file}: expected a file that runs to its end, got {how}{_words(data['output'])}"


def _ended(status: int) -> str:
    if status >= 0:
        return f"its process ended with exit code {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:  # a real-time signal has no name
        name = f"signal {-status}"
    return f"its process killed by {name}"


def _words(output: str) -> str:
    text = output.strip()
    return f"; its last output:\n{text}" if text else ""


def _last(output: str) -> str:
    text = output.strip()
    return f"\n{text}\n" if text else "its end"
