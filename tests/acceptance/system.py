"""flow as its users run it: the real commands as processes, over a real broker and database."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import sysconfig
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

    def node_environment(self, name: str, **more: str) -> dict[str, str]:
        """A node's: no DAG folder, no database."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.root),
            "LANG": "C.UTF-8",
            "FLOW_HOME": str(self.root / name),
            "FLOW_BROKER_URL": self.broker_url,
            **self.settings,
            **more,
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

    def start_dispatcher(
        self, *, bin_folder: Path = BIN, ready: bool = True, **environment: str
    ) -> Daemon:
        """``flow dispatcher``."""
        command: list[Path | str] = [bin_folder / "flow", "dispatcher"]
        daemon = self._start(command, self.environment(**environment), "dispatcher")
        if ready:
            until(lambda: daemon.says("leads: epoch") or self._ended(daemon))
        return daemon

    def start_agent(
        self,
        name: str,
        *queues: str,
        slots: int = 2,
        bin_folder: Path = BIN,
        ready: bool = True,
        **environment: str,
    ) -> Daemon:
        """``flow-agent --name NAME --queue ...`` on a node of that name."""
        options = [part for queue in queues for part in ("--queue", queue)]
        options += ["--name", name, "--slots", str(slots)]
        command: list[Path | str] = [bin_folder / "flow-agent", *options]
        daemon = self._start(command, self.node_environment(name, **environment), name)
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
