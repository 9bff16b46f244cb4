"""flow as its users run it without any service: real commands on one FLOW_HOME."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.acceptance.system import BIN, Daemon
from tests.waiting import until


@dataclass(slots=True)
class Home:
    """A FLOW_HOME, and what runs on it."""

    root: Path
    settings: dict[str, str] = field(default_factory=dict)
    daemons: list[Daemon] = field(default_factory=list)
    commands: list[subprocess.Popen[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.dags.mkdir(parents=True)

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def dags(self) -> Path:
        return self.home / "dags"

    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.root),
            "LANG": "C.UTF-8",
            "FLOW_HOME": str(self.home),
            "FLOW_CONFIG": "",
            # Nobody listens on port 1: whoever asks a broker is found out.
            "FLOW_BROKER_URL": "amqp://guest:guest@127.0.0.1:1/",
            **self.settings,
        }

    def write_dag(self, name: str, text: str) -> None:
        (self.dags / f"{name}.py").write_text(f"from flow import DAG, BashOperator\n{text}")

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

    def ended(self, process: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
        """What it has printed on stdout and stderr, once it has exited with *code*."""
        out, err = process.communicate(timeout=60)
        assert process.returncode == code, f"{process.args!r}: {process.returncode}\n{out}\n{err}"
        return out, err

    def flow(self, *arguments: str, code: int = 0) -> str:
        """The standard output of ``flow ARGUMENTS``, which must exit with *code*."""
        return self.ended(self.start_command(*arguments), code)[0]

    def listing(self, *arguments: str) -> list[dict[str, Any]]:
        """``flow ARGUMENTS --output json``."""
        rows: list[dict[str, Any]] = json.loads(self.flow(*arguments, "--output", "json"))
        return rows

    # -- standalone ----------------------------------------------------------------------------

    def start(self, *arguments: str, ready: bool = True) -> Daemon:
        """``flow standalone ARGUMENTS``."""
        output = self.root / f"standalone.{len(self.daemons)}.log"
        with output.open("wb") as file:
            process = subprocess.Popen(
                [BIN / "flow", "standalone", *arguments],
                env=self.environment(),
                cwd=self.root,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        daemon = Daemon(process, output)
        self.daemons.append(daemon)
        if ready:
            until(lambda: daemon.says("leads: epoch") or self._alive(daemon))
        return daemon

    def known(self, dag_id: str) -> None:
        """Wait until the running standalone has the DAG."""
        daemon = self.daemons[-1]
        until(lambda: daemon.says(f"DAG {dag_id}: version") or self._alive(daemon))

    def _alive(self, daemon: Daemon) -> bool:
        assert daemon.process.poll() is None, daemon.output.read_text()
        return False

    def close(self) -> None:
        """End everything, and show what was said, for the report of a failed test."""
        for daemon in self.daemons:
            if daemon.process.poll() is None:
                daemon.stop(signal.SIGKILL)
        for command in self.commands:
            command.kill()
            command.communicate(timeout=20)
        for daemon in self.daemons:
            print(f"--- {daemon.output.name}\n{daemon.output.read_text()}", file=sys.stderr)
