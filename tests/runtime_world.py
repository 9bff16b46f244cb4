"""One task in flow's own runtime, started as the agent does, with answers from a dict."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
import venv
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from agent.jobs import OWN_PYTHON, START, JobFolder, libraries, read_outcome
from flow.dagspec import DagSpec, TaskSpec

IMPORTS = "from flow import *\n"


@dataclass(frozen=True)
class Ended:
    """What became of the process."""

    exit_code: int
    output: str
    told: dict[str, Any] | None

    @property
    def state(self) -> str:
        return str(self.told["state"]) if self.told else ""

    @property
    def reason(self) -> str:
        return str(self.told["reason"]) if self.told else ""

    @property
    def xcom(self) -> dict[str, Any]:
        return {key: json.loads(text) for key, text in (self.told or {})["xcom"].items()}


@dataclass
class RuntimeWorld:
    """A DAG folder, a folder for jobs, and what other tasks have pushed."""

    root: Path
    xcoms: dict[tuple[str, str], Any] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    asked: list[dict[str, Any]] = field(default_factory=list)

    @property
    def dags(self) -> Path:
        return self.root / "dags"

    @property
    def job(self) -> JobFolder:
        return JobFolder(self.root / "job")

    def __enter__(self) -> Self:
        self.dags.mkdir()
        self.job.path.mkdir()
        self._listening = socket.socket(socket.AF_UNIX)
        # pytest's folders are deeper than a socket's path may be long.
        with contextlib.chdir(self.job.path):
            self._listening.bind("socket")
        self._listening.listen()
        self._answering = threading.Thread(target=self._answer_all, daemon=True)
        self._answering.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._answering.join(10)

    def write(self, text: str, name: str = "x.py") -> None:
        """Put a file into the DAG folder; a DAG file's second line is the first of *text*."""
        (self.dags / name).write_text(IMPORTS + text if name == "x.py" else text)

    def spec(self) -> DagSpec:
        """The one DAG of ``x.py``, as the parser has it."""
        code = (
            "import json, sys; from flow.authoring.runfile import Request, run_file\n"
            f"print(json.dumps(run_file(Request(folder={str(self.dags)!r}, file='x.py'))))"
        )
        done = subprocess.run(
            [
                sys.executable,
                "-B",
                "-c",
                f"import sys; sys.path.append({str(self.dags)!r})\n{code}",
            ],
            capture_output=True,
            text=True,
            check=True,
            cwd=START.parents[2],
        )
        answer = json.loads(done.stdout.splitlines()[-1])
        assert answer["error"] is None, answer["error"]
        (text,) = answer["dags"]
        return DagSpec.from_json(text)

    def run(self, task_id: str = "t", *, python: str = sys.executable, **job: Any) -> Ended:
        """Run one task of ``x.py`` to its end."""
        spec = self.spec()
        (task,) = [task for task in spec.tasks if task.task_id == task_id]
        return self.run_spec(task, spec, python=python, **job)

    def run_spec(
        self,
        task: TaskSpec,
        spec: DagSpec,
        *,
        python: str = sys.executable,
        env: dict[str, str] | None = None,
        **job: Any,
    ) -> Ended:
        about: dict[str, Any] = {
            "operator": task.operator,
            "arguments": dict(task.arguments),
            "dag_id": spec.dag_id,
            "run_id": "manual__1",
            "task_id": task.task_id,
            "map_index": -1,
            "try_number": 1,
            "outcome": str(self.job.outcome),
            "socket": str(self.job.socket),
            "max_bytes": 256 * 1024,
            "folder": str(self.dags),
            "dag_file": "x.py",
            "line": task.line,
            "logical_date": "2025-03-01T06:00:00+00:00",
            "data_interval_start": "2025-02-28T06:00:00+00:00",
            "data_interval_end": "2025-03-01T06:00:00+00:00",
            "params": json.dumps(dict(spec.params)),
            "libraries": dict(libraries()),
            "bash": "/bin/bash",
        }
        self.job.job.write_text(json.dumps(about | job))
        self.job.outcome.unlink(missing_ok=True)
        start = (python, "-u") if task.operator == "python" else OWN_PYTHON
        done = subprocess.run(
            [*start, str(START), str(self.job.job)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            cwd=self.root,
            env={
                "PATH": "/usr/bin:/bin",
                "HOME": str(self.root),
                "FLOW_TASK_SOCKET": str(self.job.socket),
                **(env or {}),
            },
            timeout=60,
        )
        told = json.loads(self.job.outcome.read_text()) if self.job.outcome.exists() else None
        read_outcome(self.job)  # what the runtime writes, the agent reads
        return Ended(done.returncode, done.stdout, told)

    def _answer_all(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            with connection, connection.makefile("rwb") as stream:
                wanted = json.loads(stream.readline())["wanted"]
                self.asked += wanted
                # One value per answer: whoever asks for more has to ask again.
                found = self._find(wanted[0])
                stream.write(json.dumps({"values": [found]}).encode() + b"\n")

    def _find(self, wanted: dict[str, str]) -> list[Any]:
        if wanted["kind"] == "variable":
            name = wanted["name"]
            return [self.variables[name]] if name in self.variables else []
        key = (wanted["name"], wanted["key"])
        return [self.xcoms[key]] if key in self.xcoms else []


def make_other_python(folder: Path, **packages: str) -> Path:
    """Another virtual environment, without pip, that has *packages* (name to text)."""
    venv.create(folder, with_pip=False, symlinks=True)
    site = folder / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    for name, text in packages.items():
        (site / f"{name}.py").write_text(text)
    return folder / "bin" / "python"
