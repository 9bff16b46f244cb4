"""flow as its users run it: the real commands as processes, over a real broker and database."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.waiting import until

BIN = Path(sysconfig.get_path("scripts"))
#: Leases of the default proportions, scaled down so that a takeover takes seconds.
SHORT_LEASES = {
    "FLOW_LEASE_HEARTBEAT_INTERVAL": "0.25",
    "FLOW_LEASE_DURATION": "3",
    "FLOW_LEASE_MARGIN": "0.5",
    "FLOW_LEASE_GRACE": "0.75",
    "FLOW_AGENT_KILL_GRACE": "0.3",
    "FLOW_AGENT_CLAIM_RESEND_INTERVAL": "0.5",
}


@dataclass(slots=True)
class Daemon:
    """A dispatcher or an agent, with its output in a file."""

    process: subprocess.Popen[bytes]
    output: Path

    def kill(self) -> None:
        """``kill -9``."""
        self.process.kill()
        self.process.wait(20)

    def stop(self, signum: int = signal.SIGTERM) -> int:
        """Ask it to stop; its exit code."""
        self.process.send_signal(signum)
        return self.process.wait(30)

    def says(self, text: str) -> bool:
        """Whether *text* is in its output so far."""
        return text in self.output.read_text()


@dataclass(slots=True)
class System:
    """A control machine's FLOW_HOME, and nodes."""

    root: Path
    broker_url: str
    database_url: str
    settings: dict[str, str] = field(default_factory=dict)
    daemons: list[Daemon] = field(default_factory=list)
    commands: list[subprocess.Popen[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.dags.mkdir(parents=True, exist_ok=True)

    @property
    def dags(self) -> Path:
        """The DAG folder."""
        return self.root / "control" / "dags"

    def environment(self, **more: str) -> dict[str, str]:
        """The control machine's."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.root),
            "LANG": "C.UTF-8",
            "FLOW_HOME": str(self.root / "control"),
            "FLOW_BROKER_URL": self.broker_url,
            "FLOW_DATABASE_URL": self.database_url,
            **self.settings,
            **more,
        }

    def node_environment(self, name: str) -> dict[str, str]:
        """A node's: no DAG folder, no database."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.root),
            "LANG": "C.UTF-8",
            "FLOW_HOME": str(self.root / name),
            "FLOW_BROKER_URL": self.broker_url,
            **self.settings,
        }

    # -- commands ------------------------------------------------------------------------------

    def start_command(self, *arguments: str) -> subprocess.Popen[str]:
        """``flow ARGUMENTS`` in the background."""
        process = subprocess.Popen(
            [BIN / "flow", *arguments],
            env=self.environment(),
            cwd=self.root,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.commands.append(process)
        return process

    def flow(self, *arguments: str, code: int = 0) -> str:
        """The standard output of ``flow ARGUMENTS``, which must exit with *code*."""
        process = self.start_command(*arguments)
        out, err = process.communicate(timeout=90)
        assert process.returncode == code, f"flow {arguments}: {process.returncode}\n{out}\n{err}"
        return out

    def listing(self, *arguments: str) -> list[dict[str, Any]]:
        """``flow ARGUMENTS --output json``."""
        rows: list[dict[str, Any]] = json.loads(self.flow(*arguments, "--output", "json"))
        return rows

    def tasks(self, run_id: str) -> dict[str, dict[str, Any]]:
        """A run's task instances by task_id."""
        return {row["task_id"]: row for row in self.listing("tasks", "list", run_id)}

    # -- daemons -------------------------------------------------------------------------------

    def start_dispatcher(self, *, ready: bool = True) -> Daemon:
        """``flow dispatcher``."""
        daemon = self._start([BIN / "flow", "dispatcher"], self.environment(), "dispatcher")
        if ready:
            until(lambda: daemon.says("leads: epoch") or self._ended(daemon))
        return daemon

    def start_agent(
        self, name: str, *queues: str, slots: int = 2, bin_folder: Path = BIN, ready: bool = True
    ) -> Daemon:
        """``flow-agent --name NAME --queue ...`` on a node of that name."""
        options = [part for queue in queues for part in ("--queue", queue)]
        options += ["--name", name, "--slots", str(slots)]
        command: list[Path | str] = [bin_folder / "flow-agent", *options]
        daemon = self._start(command, self.node_environment(name), name)
        if ready:
            until(lambda: daemon.says("connected; serving") or self._ended(daemon))
        return daemon

    def _start(self, command: Sequence[Path | str], env: dict[str, str], name: str) -> Daemon:
        output = self.root / f"{name}.{len(self.daemons)}.log"
        with output.open("wb") as file:
            process = subprocess.Popen(
                command,
                env=env,
                cwd=self.root,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        daemon = Daemon(process, output)
        self.daemons.append(daemon)
        return daemon

    def _ended(self, daemon: Daemon) -> bool:
        assert daemon.process.poll() is None, daemon.output.read_text()
        return False

    def close(self) -> None:
        """End everything, and show what the daemons said, for the report of a failed test."""
        for daemon in self.daemons:
            daemon.process.kill()
            daemon.process.wait(20)
        for command in self.commands:
            command.kill()
            command.wait(20)
            for pipe in (command.stdout, command.stderr):
                if pipe is not None:
                    pipe.close()
        for daemon in self.daemons:
            print(f"--- {daemon.output.name}\n{daemon.output.read_text()}", file=sys.stderr)

    # -- DAGs ----------------------------------------------------------------------------------

    def write_dag(self, name: str, text: str) -> None:
        """Put a DAG file into the folder."""
        (self.dags / f"{name}.py").write_text(text)

    def known(self, dag_id: str) -> None:
        """Wait until the dispatcher has the DAG."""
        until(lambda: any(row["dag_id"] == dag_id for row in self.listing("dags", "list")))


LEDGER_TASK = Path(__file__).with_name("ledger_task.py")


def ledger_chain(ledger: Path, seconds: float, *, length: int = 4) -> str:
    """A DAG file: a chain alternating between q1 and q2 whose tasks keep the ledger."""
    command = f"{sys.executable} -I -S {LEDGER_TASK} {ledger} {seconds}"
    return f"""
from flow import DAG, BashOperator, chain

with DAG("ledger", max_active_runs=16):
    chain(*[
        BashOperator(task_id=f"t{{n}}", bash_command={command!r}, queue=f"q{{n % 2 + 1}}")
        for n in range({length})
    ])
"""


@dataclass(frozen=True, slots=True)
class Life:
    """One copy of a task instance, as it wrote it down itself, in CLOCK_BOOTTIME seconds."""

    task: str
    token: int
    agent: str
    first: float
    last: float
    finished: bool


def read_ledger(path: Path) -> list[Life]:
    """All lives, oldest first."""
    if not path.exists():
        return []
    lives: dict[tuple[str, int], list[tuple[str, float, str]]] = {}
    for line in path.read_text().splitlines():
        kind, moment, task, token, agent = line.split(" ")
        lives.setdefault((task, int(token)), []).append((kind, float(moment), agent))
    found = [
        Life(
            task=task,
            token=token,
            agent=lines[0][2],
            first=min(moment for _, moment, _ in lines),
            last=max(moment for _, moment, _ in lines),
            finished=any(kind == "end" for kind, _, _ in lines),
        )
        for (task, token), lines in lives.items()
    ]
    return sorted(found, key=lambda life: life.first)


def overlaps(lives: Sequence[Life]) -> list[tuple[Life, Life]]:
    """Pairs of copies of one task instance that were alive at the same time."""
    by_task: dict[str, list[Life]] = {}
    for life in lives:
        by_task.setdefault(life.task, []).append(life)
    return [
        (first, second)
        for copies in by_task.values()
        for position, first in enumerate(copies)
        for second in copies[position + 1 :]
        if second.first <= first.last
    ]


def now() -> float:
    """The ledger's clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
