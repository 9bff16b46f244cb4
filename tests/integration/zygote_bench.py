"""Python tasks on a real keeper, as an agent starts them: from a zygote, or each by itself."""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent import processes
from agent.gpus import Gpus
from agent.keeper.zygotes import FIRST_TOKEN
from agent.keeper_client import TaskExited, TaskStarted
from agent.operators import Preparer
from flow import wire
from tests.integration.test_keeper import Bench
from tests.waiting import eventually

HEAD = "from flow import DAG, task\n"
TAIL = '\nwith DAG("dag"):\n    t()\n'


@dataclass
class ZygoteBench(Bench):
    """``x.py`` is the DAG file; its task is ``t``."""

    root: Path = Path()
    warm: bool = True
    tokens: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def dags(self) -> Path:
        return self.root / "dags"

    def write(self, text: str, top: str = "") -> None:
        """*text* is the body of the callable, *top* stands above it."""
        self.dags.mkdir(exist_ok=True)
        (self.root / "work").mkdir(exist_ok=True)
        body = "".join(f"    {line}\n" for line in text.strip().splitlines())
        (self.dags / "x.py").write_text(f"{HEAD}{top}\n@task\ndef t():\n{body}{TAIL}")

    def begin(
        self, *, env: Mapping[str, str] | None = None, cwd: str | None = None, **more: Any
    ) -> int:
        """Start the task as an agent would; its token."""
        token = next(self.tokens)
        preparer = Preparer(
            agent="a",
            environment={"PATH": os.defpath},
            work=self.root / "work",
            pass_env=(),
            bash=None,
            gpus=Gpus(),
            warm=self.warm,
        )
        task = wire.Task(
            task_instance_id=token,
            dag_id="dag",
            run_id="run",
            task_id="t",
            try_number=1,
            queue="q",
            operator="python",
            dag_file="x.py",
            arguments={
                "args": [],
                "kwargs": {},
                "meaning": "value",
                "push": True,
                "multiple_outputs": False,
                "env": dict(env or {}),
                "cwd": cwd,
                "python": sys.executable,
            },
        )
        grant = wire.Grant(session=1, task_instance_id=token, try_number=1, token=token)
        command = preparer.prepare(task, grant, self.dags)
        self.start(
            token,
            command.argv,
            env=command.env,
            cwd=command.cwd,
            output=self.output(token),
            **{"warm": command.warm, **more},
        )
        return token

    def output(self, token: int) -> Path:
        return self.root / f"{token}.out"

    def result(self, token: int) -> Any:
        """What it returned."""
        told = json.loads((self.root / "work" / f"{token}.job" / "outcome.json").read_text())
        assert told["state"] == "success", told
        return json.loads(told["xcom"]["return_value"])

    async def run(self, **more: Any) -> int:
        token = self.begin(**more)
        await self.get(TaskExited, token)
        return token

    async def heat(self, **more: Any) -> None:
        """Until there is a standby."""
        for _ in range(2):
            await self.run(**more)
        await eventually(lambda: bool(self.standbys()))

    def zygotes(self) -> list[processes.Process]:
        return [family[0] for family in self._families()]

    def standbys(self) -> list[processes.Process]:
        """Those that wait for a task."""
        return [one for family in self._families() for one in family[1:]]

    def _families(self) -> list[list[processes.Process]]:
        """The keeper's children that have a token of a zygote, the oldest first."""
        by_token: dict[int, list[processes.Process]] = {}
        for found in processes.marked(self.state_id):
            variables = processes.environment(found.process) or {}
            token = int(variables.get(processes.TOKEN, 0))
            if token >= FIRST_TOKEN and found.process.parent == self.keeper.pid:
                by_token.setdefault(token, []).append(found.process)
        return [sorted(family, key=lambda one: one.started) for family in by_token.values()]

    def pid(self, token: int) -> int:
        (started,) = self.of(TaskStarted, token)
        return int(started.pid)

    def is_warm(self, token: int) -> bool:
        """Of a running task."""
        return b"--warm" in _arguments(self.pid(token))


def _arguments(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except FileNotFoundError:
        return []
