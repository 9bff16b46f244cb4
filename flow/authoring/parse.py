"""The parser: a small process under the user's interpreter that runs DAG files for the dispatcher.

It is started by its path, and speaks JSON lines: requests on stdin, one answer each on stdout.
Every file runs in a fork of its own with a time and a memory limit, so that whatever it does to
its process ends with it, and a file costs a fork instead of an interpreter start. The parser ends
when stdin does, also when the dispatcher has been killed.

Only flow itself is made importable, by its location: the directory that holds it may hold the
dispatcher too, and anything else that is not the user's.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import sys
import time
import traceback
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[2]
#: Of a file's output, which nobody reads unless it dies.
_TAIL_BYTES = 2000
#: Seconds for what a file has detached from itself to be gone.
_ORPHANS_WITHIN = 5.0
MAX_ANSWER_BYTES = 64 * 1024 * 1024
READY = b'{"ready": true}\n'


class FlowFinder:
    """Finds ``flow`` beside this file, and hides flow's other packages from the same place."""

    @staticmethod
    def find_spec(name: str, *_: object) -> ModuleSpec | None:
        """Asked by the import system (PEP 451)."""
        if name == "flow":
            return PathFinder.find_spec(name, [str(_ROOT)])
        if name in ("dispatcher", "agent"):  # a helper of the user's may be called that, too
            others = [entry for entry in sys.path if Path(entry).resolve() != _ROOT]
            found = PathFinder.find_spec(name, others)
            if found is None:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            return found
        return None


def serve() -> None:
    """Answer requests until stdin ends."""
    from flow.authoring import chain, operators, orphans, runfile, times  # noqa: F401, PLC0415  findable only now; warm for the forks

    orphans.adopt()

    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, _wake_up)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    # The dispatcher skips what a sitecustomize may have printed before this line.
    _write(1, READY)
    # Python's own reading would hide from select() what it has buffered.
    while line := _read_line(0):
        request = json.loads(line)
        time_limit, memory_limit = request.pop("time_limit"), request.pop("memory_limit")
        child = Child(runfile.request_from(request), memory_limit)
        answer = child.attend(time.monotonic() + time_limit, wake_read)
        if answer is None:
            return
        _write(1, json.dumps(answer).encode() + b"\n")


class Child:
    """The fork that runs one file."""

    def __init__(self, request: Any, memory_limit: int | None) -> None:
        self._answer_read, answer_write = os.pipe()
        self._output_read, output_write = os.pipe()
        self._answer = bytearray()
        self._output = bytearray()
        parser = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            _become_child(request, memory_limit, answer_write, output_write, parser)
        os.close(answer_write)
        os.close(output_write)

    def attend(self, deadline: float, wake: int) -> dict[str, Any] | None:
        """Wait for the end of the child. ``None``: the dispatcher has gone.

        The answer is the child's, or ``died`` with how it ended and its last ``output``.
        """
        open_ends = {self._answer_read, self._output_read}
        died = ""
        try:
            while not died and not self._answer.endswith(b"\n"):
                ended = self._has_ended()
                left = 0 if ended else deadline - time.monotonic()
                ready, _, _ = select.select([0, wake, *open_ends], [], [], max(left, 0))
                if 0 in ready:
                    return None
                if wake in ready:
                    os.read(wake, 4096)
                readable = open_ends.intersection(ready)
                open_ends -= {end for end in readable if not self._take(end)}
                if len(self._answer) > MAX_ANSWER_BYTES:
                    died = "large"
                elif time.monotonic() >= deadline:
                    died = "time"
                elif ended and not readable:
                    died = "early"
        finally:
            status = self._end()
        if not died:
            answer: dict[str, Any] = json.loads(self._answer)
            return answer
        text = self._output[-_TAIL_BYTES:].decode("utf-8", "replace")
        return {"died": died, "status": status, "output": text}

    def _take(self, descriptor: int) -> bool:
        data = os.read(descriptor, 65536)
        if descriptor == self._answer_read:
            self._answer += data
        else:
            self._output += data
            del self._output[: -2 * _TAIL_BYTES]
        return bool(data)

    def _has_ended(self) -> bool:
        found = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return found is not None

    def _end(self) -> int:
        """Kill what is left of the child's process group, then reap it: in this order its number
        cannot have been given to another process; then what has left the group. Returns as
        ``os.waitstatus_to_exitcode``."""
        from flow.authoring.orphans import end_descendants  # noqa: PLC0415  findable only by now

        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:  # not yet its own group: killed before it got that far
            os.kill(self.pid, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        end_descendants(_ORPHANS_WITHIN)
        os.close(self._answer_read)
        os.close(self._output_read)
        return os.waitstatus_to_exitcode(status)


def _become_child(
    request: Any, memory_limit: int | None, answer_to: int, output_to: int, parser: int
) -> None:
    """Run the file and end the process; nothing of the parser's remains reachable."""
    from flow.authoring.orphans import end_with  # noqa: PLC0415  findable only by now
    from flow.authoring.runfile import run_file  # noqa: PLC0415  findable only by now

    code, own_pid = 1, os.getpid()
    try:
        end_with(parser)
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((nothing, 0), (output_to, 1), (output_to, 2)):
            os.dup2(source, target)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        if memory_limit is not None:
            # Private writable memory (Linux 4.7): RLIMIT_AS would count what libraries such as
            # torch merely reserve. Soft only, so that the answer can be written beyond it.
            resource.setrlimit(resource.RLIMIT_DATA, (memory_limit, hard))
        answer = run_file(request)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
        # ASCII: a lone surrogate in the source or an error could not be encoded otherwise.
        if os.getpid() == own_pid:  # not a fork that the file made and let run on
            _write(answer_to, json.dumps(answer).encode("ascii") + b"\n")
        code = 0
    except BaseException:  # noqa: BLE001  the last one to hear of it, and the parser shows it
        _write(2, traceback.format_exc().encode("utf-8", "replace"))
    finally:
        # No exit handlers, no waiting for threads of the user's: the answer is given.
        os._exit(code)


def _wake_up(*_: object) -> None:
    """SIGCHLD is handled, so that it wakes select() up through the wakeup descriptor."""


def _read_line(descriptor: int) -> bytes:
    line = bytearray()
    while not line.endswith(b"\n"):
        data = os.read(descriptor, 65536)
        if not data:
            return b""
        line += data
    return bytes(line)


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def main() -> None:
    """``parse.py FOLDER``: the folder's files can import each other."""
    if sys.version_info < (3, 10):  # noqa: UP036  the user's Python is not flow's
        sys.exit(f"expected Python 3.10 or later for DAG files, got {sys.version.split()[0]}")
    # The script's own directory comes first on sys.path: its modules are not the user's.
    # At the end, as in Airflow: a file `json.py` among the DAGs must not hide Python's.
    sys.path[:] = [*sys.path[1:], sys.argv[1]]
    sys.meta_path.insert(0, FlowFinder)
    serve()


if __name__ == "__main__":
    main()
