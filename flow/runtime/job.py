"""One task as the agent describes it, and how it came out as the agent is told."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flow.authoring.outcomes import FailTask, SkipTask
from flow.errors import FlowError

if TYPE_CHECKING:
    from flow.authoring.dag import DAG


class TaskFailed(FlowError):
    """The task has failed, for a reason that says everything."""


@dataclass(frozen=True)
class Job:
    """What the agent wrote into the job file. Unknown keys are ignored."""

    operator: str
    arguments: Mapping[str, Any]
    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    try_number: int
    outcome: str
    """The file to write."""
    socket: str
    """Where the agent answers."""
    max_bytes: int
    """Of all results of this try, as JSON."""
    folder: str | None = None
    """The DAG folder, absolute."""
    dag_file: str | None = None
    """Relative to it."""
    line: int = 0
    """Where the task is in that file."""
    logical_date: str | None = None
    data_interval_start: str | None = None
    data_interval_end: str | None = None
    conf: str = "{}"
    params: str = "{}"
    """The DAG's, as JSON, like conf."""
    libraries: Mapping[str, str] = field(default_factory=dict)
    """Where flow's own jinja2 and markupsafe are: module to the folder that holds it."""
    bash: str = "bash"
    setting: str = "[agent] python"
    """Where the interpreter of this process was chosen."""

    @property
    def where(self) -> str:
        """``file:line: DAG 'x', task 'y'``, the beginning of messages."""
        place = f"{self.dag_file}:{self.line}: " if self.dag_file else ""
        return f"{place}DAG {self.dag_id!r}, task {self.task_id!r}"


@dataclass
class Outcome:
    """How a task came out. Pushed values are JSON texts by key."""

    state: str = "success"
    reason: str = ""
    xcom: dict[str, str] = field(default_factory=dict)
    follow: list[str] | None = None
    stop: bool = False
    final: bool = False

    def fit(self, job: Job) -> None:
        """Fail, without results, where they are too large to be sent."""
        sizes = {key: len(key.encode()) + len(text.encode()) for key, text in self.xcom.items()}
        if sum(sizes.values()) <= job.max_bytes:
            return
        self.xcom, self.follow, self.stop = {}, None, False
        if self.state == "failed":
            return
        largest = max(sizes, key=lambda key: sizes[key])
        self.state = "failed"
        self.reason = (
            f"{job.where}: expected results of at most {job.max_bytes} bytes of JSON in all, got "
            f"{sum(sizes.values())} ({sizes[largest]} of {largest!r}); write them to a file and "
            "return its path, or raise [xcom] max_bytes"
        )
        print(self.reason, file=sys.stderr)  # noqa: T201  the task's log

    def write(self, path: str) -> None:
        """Put it where the agent looks, in one step."""
        new = Path(f"{path}.new")
        new.write_text(json.dumps(vars(self)), encoding="ascii")
        new.replace(path)


def run(path: str, dags: Sequence[DAG] | None = None) -> int:
    """Run the job of the file *path*; the exit code. A bash command takes this process's place
    instead of returning. *dags* are those of the DAG file, where this process has run it."""
    described = json.loads(Path(path).read_bytes())
    names = Job.__dataclass_fields__
    job = Job(**{name: value for name, value in described.items() if name in names})
    outcome = Outcome()
    # Of this process only: what the user's code forks and lets run on tells nothing.
    own_pid = os.getpid()
    try:
        if job.operator == "python":
            from flow.runtime.python import call  # noqa: PLC0415  a bash command needs none of it

            call(job, outcome, dags)
        else:
            from flow.runtime.bash import become  # noqa: PLC0415  a Python task needs none of it

            become(job)
    except TaskFailed as error:
        outcome.state, outcome.reason = "failed", str(error)
        print(error, file=sys.stderr)  # noqa: T201  the task's log
    except SkipTask as error:
        outcome.state, outcome.reason = "skipped", str(error)
    except FailTask as error:
        outcome.state, outcome.reason, outcome.final = "failed", str(error), True
        traceback.print_exception(error)
    finally:
        if os.getpid() != own_pid:
            os._exit(1)
    outcome.fit(job)
    sys.stdout.flush()
    outcome.write(job.outcome)
    return 0 if outcome.state != "failed" else 1
