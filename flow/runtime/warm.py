"""A zygote: an interpreter that has run a DAG file and forks, for each of its tasks, a process
that differs from a fresh one in nothing but how soon it begins.

It is started by the keeper, with its end of a socket as stdin and nothing of any task. At each
request it makes a *standby*: a grandchild, so that its parent is the keeper, in a session of its
own, which waits for a task at a socket of its own. Who a process belongs to is read from its
environment as it was at exec (``agent.processes``): a fork has that in its memory as well, so a
standby writes its task's token there before it does anything of the task's.

Standard library only. The zygote must stay single-threaded: it forks.
"""

from __future__ import annotations

import gc
import json
import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from flow.authoring.runfile import Request
from flow.runtime.forkable import Watch, moved
from flow.runtime.job import TaskFailed, run
from flow.runtime.leaving import leave
from flow.runtime.python import load

if TYPE_CHECKING:
    from flow.authoring.dag import DAG

#: What a file may print while it is read, which each of its tasks prints again.
MAX_OUTPUT = 64 * 1024
#: Larger than any packet of the keeper's.
_PACKET = 256 * 1024
_TOKEN = "FLOW_TOKEN"  # noqa: S105  the name of a variable
_MARK = "FLOW_AGENT_MARK"
_ENV_START = 47
"""Field 50 of /proc/self/stat (proc(5)), counted from the one behind the name."""


class Unfit(Exception):
    """Forks of this process would differ from fresh ones."""


@dataclass(frozen=True)
class _Loaded:
    """What the DAG file came to."""

    request: Request
    dags: Sequence[DAG]
    output: bytes
    """What it printed."""
    place: int
    """The address of the token in the environment of this process and its forks."""


def serve(about: str) -> NoReturn:
    """Be a zygote for the file that *about*, JSON, names in ``folder``, ``file`` and ``setting``;
    ``own`` are the variables that differ by task."""
    control = _take_control()
    try:
        loaded = _load(json.loads(about))
    except Unfit as unfit:
        control.send(json.dumps({"unfit": str(unfit)[:1000]}).encode())
        os._exit(0)
    gc.collect()
    gc.freeze()  # a collection in a fork would write to, and so copy, all of it
    control.send(b'{"ready": true}')
    while control.recv(1):
        _make_standby(control, loaded)
    os._exit(0)


def _take_control() -> socket.socket:
    """The keeper's socket, which came as stdin; nothing that the file starts may have it."""
    control = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return control


def _load(about: Mapping[str, Any]) -> _Loaded:
    """Run the file. Raises :class:`Unfit`."""
    request = Request(folder=about["folder"], file=about["file"], setting=about["setting"])
    place = _place_of_token()
    watch = Watch(about["own"], request.folder)
    found: Sequence[DAG] = ()
    failed = ""
    try:
        found = load(request)
    except TaskFailed as error:
        failed = str(error)
    problem = watch.end() or failed
    if not problem and os.listdir() and about["empty"]:  # noqa: PTH208
        problem = "it writes files into the working directory, which each task has of its own"
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    output = os.pread(1, MAX_OUTPUT + 1, 0)
    if not problem and len(output) > MAX_OUTPUT:
        problem = f"it prints more than {MAX_OUTPUT} bytes"
    if not problem and place != _place_of_token():
        problem = "it changes its environment in /proc"
    if problem:
        raise Unfit(problem)
    return _Loaded(request, found, output, place)


def _place_of_token() -> int:
    """Where the environment that /proc shows of this process has its token. Raises Unfit when it
    cannot be written there, or there is no mark."""
    environ = Path("/proc/self/environ").read_bytes()
    variables = environ.split(b"\0")
    token = next((text for text in variables if text.startswith(f"{_TOKEN}=".encode())), b"")
    if not token or not any(text.startswith(f"{_MARK}=".encode()) for text in variables):
        raise Unfit("it has hidden its environment")
    start = int(Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()[_ENV_START])
    place = start + (b"\0" + environ).index(b"\0" + token) + len(_TOKEN) + 1
    try:
        _overwrite(place, token.partition(b"=")[2])
    except OSError as error:
        raise Unfit(f"/proc/self/mem: {error.strerror}") from None
    return place


def _overwrite(place: int, text: bytes) -> None:
    """Write *text* into this process's memory. Raises OSError."""
    memory = os.open("/proc/self/mem", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.pwrite(memory, text, place)
    finally:
        os.close(memory)


# -- forks -------------------------------------------------------------------------------------


def _make_standby(control: socket.socket, loaded: _Loaded) -> None:
    """Twice forked: whoever loses its parent becomes a child of the keeper, a subreaper."""
    between = os.fork()
    if between:
        os.waitpid(between, 0)
        return
    own = os.getpid()
    if os.fork():
        os._exit(0)
    os.setsid()
    while os.getppid() == own:
        time.sleep(0.0001)
    _stand_by(control, loaded)


def _stand_by(control: socket.socket, loaded: _Loaded) -> NoReturn:
    """Wait for a task, be it, and end."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with control, theirs:
        socket.send_fds(control, [json.dumps({"pid": os.getpid()}).encode()], [theirs.fileno()])
    with ours:
        packet, descriptors, _, _ = socket.recv_fds(ours, _PACKET, 1)
    if not packet:
        os._exit(1)  # the keeper does not want it any more, or is dead
    job = json.loads(packet)
    # The same number of bytes as the zygote's: all tokens of a keeper are written with 19 digits.
    _overwrite(loaded.place, job["token"].encode())
    os.environ.update(job["env"])
    for target in (1, 2):
        os.dup2(descriptors[0], target)
    os.close(descriptors[0])
    os.chdir(job["cwd"])
    moved()
    _write(loaded.output)
    leave(run(job["job"], loaded.dags), loaded.request.folder)


def _write(text: bytes) -> None:
    view = memoryview(text)
    while view:
        view = view[os.write(1, view) :]
