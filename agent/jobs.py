"""What a task's process of flow's own runtime is told in a file, and what it says in another.

The folder of a token's job lies beside its working directory, so that a task that cleans up behind
itself does not take it along.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import msgspec

import flow
from agent.core.events import Outcome
from flow.dagspec import MAX_XCOM_BYTES
from flow.wire import Grant, Task

#: Run by its path under the interpreter of the task.
START = Path(flow.__file__).parent / "runtime" / "start.py"
#: A rendered bash command needs nothing of the user's Python: flow's own starts it, without site.
OWN_PYTHON = (sys.executable, "-I", "-S")
#: Of a reason that is kept.
LONGEST_REASON = 2000


@dataclass(frozen=True, slots=True)
class JobFolder:
    """The folder of one token's job."""

    path: Path

    @property
    def job(self) -> Path:
        """What the process is told."""
        return self.path / "job.json"

    @property
    def outcome(self) -> Path:
        """What it says."""
        return self.path / "outcome.json"

    @property
    def socket(self) -> Path:
        """Where it asks."""
        return self.path / "socket"

    @property
    def files(self) -> tuple[Path, ...]:
        """All that flow itself puts there."""
        return self.job, self.outcome, self.socket


def write_job(folder: JobFolder, task: Task, grant: Grant, more: Mapping[str, Any]) -> None:
    """Make the folder and the job file; see :class:`flow.runtime.job.Job` for *more*. Raises
    OSError."""
    folder.path.mkdir(mode=0o700, exist_ok=True)
    about = {
        "operator": task.operator,
        "arguments": task.arguments,
        "dag_id": task.dag_id,
        "run_id": task.run_id,
        "task_id": task.task_id,
        "map_index": task.map_index,
        "try_number": task.try_number,
        "dag_file": task.dag_file,
        "line": task.line,
        "logical_date": task.logical_date,
        "data_interval_start": task.data_interval_start,
        "data_interval_end": task.data_interval_end,
        "conf": grant.inputs.get("conf", "{}"),
        "params": grant.inputs.get("params", "{}"),
        "outcome": str(folder.outcome),
        "socket": str(folder.socket),
        "libraries": libraries(),
        **more,
    }
    try:
        with open(folder.job, "wb", opener=_private) as file:
            file.write(json.dumps(about).encode("ascii"))
    except OSError as error:  # write(2) does not know the name of what it writes to
        raise OSError(error.errno, error.strerror, str(folder.job)) from error


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


@cache
def libraries() -> Mapping[str, str]:
    """The folders that hold flow's own jinja2 and what it needs."""
    found = {name: importlib.util.find_spec(name) for name in ("jinja2", "markupsafe")}
    return {
        name: str(Path(spec.origin).parents[1])
        for name, spec in found.items()
        if spec is not None and spec.origin is not None
    }


class _Told(msgspec.Struct, frozen=True):
    state: Literal["success", "failed", "skipped"]
    reason: str = ""
    xcom: dict[str, str] = {}
    follow: tuple[str, ...] | None = None
    stop: bool = False
    final: bool = False


_told = msgspec.json.Decoder(_Told)
_any_json = msgspec.json.Decoder(msgspec.Raw)


def read_outcome(folder: JobFolder) -> Outcome | None:
    """What the process said; ``None`` if nothing. Blocks.

    The file is the user's as much as flow's: what is no outcome is a failure that says so.
    """
    try:
        if folder.outcome.stat().st_size > 6 * MAX_XCOM_BYTES:
            raise msgspec.ValidationError("it is too large")
        told = _told.decode(folder.outcome.read_bytes())
        if sum(map(len, (*told.xcom, *told.xcom.values()))) > MAX_XCOM_BYTES:
            raise msgspec.ValidationError("its results are too large")
        xcom = {key: _raw(text) for key, text in told.xcom.items()}
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, UnicodeError, RecursionError) as error:
        return Outcome("failed", f"expected a result that can be read, got {error}")
    reason = told.reason.replace("\0", "\N{REPLACEMENT CHARACTER}")
    if len(reason) > LONGEST_REASON:
        reason = f"{reason[: LONGEST_REASON - 3]}..."
    return Outcome(told.state, reason, xcom, told.follow, told.stop, told.final)


def _raw(text: str) -> msgspec.Raw:
    """JSON text as a message embeds it, if it is JSON."""
    body = text.encode()
    _any_json.decode(body)
    return msgspec.Raw(body)
