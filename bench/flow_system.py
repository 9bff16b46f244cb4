"""flow's own processes for a turn: the commands that its users run, on the turn's services."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg2

from bench import processes
from bench.contender import ContenderFailed, Site

ROOT = Path(__file__).resolve().parents[1]
_BIN = Path(sysconfig.get_path("scripts"))
#: Seconds in which a process must have come up.
_PATIENCE = 30.0
_TAIL = 2000


@dataclass(slots=True)
class Daemon:
    """A process with its output in a file."""

    process: subprocess.Popen[bytes]
    output: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def memory_mb(self) -> float:
        """Of its process tree, as :func:`bench.processes.memory_mb` counts."""
        return processes.memory_mb({"": [self.pid]})[""]

    def says(self, text: str) -> bool:
        """Whether *text* is in its output so far."""
        return text in self.output.read_text(errors="replace")


@dataclass(slots=True)
class FlowSystem:
    """A dispatcher's FLOW_HOME and nodes, on *site*. *tree* is the checkout whose code runs."""

    site: Site
    tree: Path = ROOT
    settings: dict[str, str] = field(default_factory=dict)
    daemons: list[Daemon] = field(default_factory=list)
    _connection: Any = None

    def __post_init__(self) -> None:
        self.dags.mkdir(parents=True, exist_ok=True)

    @property
    def home(self) -> Path:
        """The control machine's FLOW_HOME."""
        return self.site.folder / "control"

    @property
    def dags(self) -> Path:
        """The DAG folder."""
        return self.home / "dags"

    def environment(self, home: str = "control", **more: str) -> dict[str, str]:
        """Of a process whose FLOW_HOME is *home*: nothing of the caller's, so that a setting like
        PYTHONDONTWRITEBYTECODE falsifies nothing."""
        return {
            "PATH": f"{_BIN}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(self.site.folder),
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(self.tree),
            "FLOW_CONFIG": "",
            "FLOW_HOME": str(self.site.folder / home),
            "FLOW_BROKER_URL": self.site.broker_url,
            **({"FLOW_DATABASE_URL": self.site.database_url} if home == "control" else {}),
            **self.settings,
            **more,
        }

    # -- processes -----------------------------------------------------------------------------

    def flow(self, *arguments: str) -> str:
        """The output of ``flow ARGUMENTS``. Raises :class:`ContenderFailed`."""
        done = subprocess.run(
            [_BIN / "flow", *arguments],
            env=self.environment(),
            cwd=self.site.folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode:
            raise ContenderFailed(f"flow {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout

    def start_dispatcher(self) -> Daemon:
        """``flow dispatcher``, once it leads."""
        daemon = self.spawn("dispatcher", [str(_BIN / "flow"), "dispatcher"], self.environment())
        self.wait(lambda: daemon.says("leads: epoch"), "a dispatcher that leads")
        return daemon

    def start_agent(self, name: str, slots: int, *queues: str) -> Daemon:
        """``flow-agent`` on a node of its own, once it serves."""
        options = [part for queue in queues for part in ("--queue", queue)]
        command = [str(_BIN / "flow-agent"), *options, "--name", name, "--slots", str(slots)]
        daemon = self.spawn(name, command, self.environment(name))
        self.wait(lambda: daemon.says("connected; serving"), f"agent {name} to serve")
        return daemon

    def start_mocks(self, prefix: str, *options: str) -> Daemon:
        """``python -m bench.mock_agent``, once all its sessions are there."""
        command = [sys.executable, "-m", "bench.mock_agent", "--broker", self.site.broker_url]
        command += ["--prefix", prefix, *options]
        path = f"{self.tree}{os.pathsep}{ROOT}"
        environment = self.environment(prefix, PYTHONPATH=path)
        daemon = self.spawn(prefix, command, environment)
        self.wait(lambda: daemon.says("ready"), "mock agents to connect", within=120)
        return daemon

    def spawn(self, name: str, command: Sequence[str], environment: dict[str, str]) -> Daemon:
        """Start *command* in the background, with its output in ``<name>.log``."""
        output = self.site.folder / f"{name}.{len(self.daemons)}.log"
        with output.open("wb") as file:
            process = subprocess.Popen(
                # If this process is killed, they must not go on as somebody else's noise.
                ["setpriv", "--pdeathsig=KILL", "--", *command],
                env=environment,
                cwd=self.site.folder,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        daemon = Daemon(process, output)
        self.daemons.append(daemon)
        return daemon

    def wait(
        self,
        condition: Callable[[], bool],
        what: str,
        *,
        within: float = _PATIENCE,
        every: float = 0.01,
    ) -> None:
        """Until *condition* holds. Raises :class:`ContenderFailed` with what the processes said
        when it does not in time, or one of them has ended."""
        end = time.monotonic() + within
        while not condition():
            dead = [d for d in self.daemons if d.process.poll() is not None]
            if dead or time.monotonic() > end:
                raise ContenderFailed(f"expected {what} within {within:g} s\n{self.told()}")
            time.sleep(every)

    def told(self) -> str:
        """The last that each process said."""
        return "\n".join(
            f"--- {daemon.output.name} ({daemon.process.poll()})\n"
            f"{daemon.output.read_text(errors='replace')[-_TAIL:]}"
            for daemon in self.daemons
        )

    def end(self, daemon: Daemon) -> None:
        """Ask one process to stop, and wait."""
        daemon.process.terminate()
        daemon.process.wait(_PATIENCE)
        self.daemons.remove(daemon)

    def close(self) -> None:
        """End every process. Safe twice."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        for daemon in self.daemons:
            if daemon.process.poll() is None:
                daemon.process.kill()
            daemon.process.wait(20)
        self.daemons.clear()

    # -- database and DAGs ---------------------------------------------------------------------

    def query(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """The rows of one statement in the system's database."""
        if self._connection is None:
            self._connection = psycopg2.connect(self.site.database_url, application_name="bench")
            self._connection.autocommit = True
        with self._connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            return list(cursor.fetchall()) if cursor.description else []

    def write_dag(self, name: str, text: str) -> None:
        """Put a DAG file into the folder, at once as a whole."""
        part = self.dags / f".{name}.part"
        part.write_text(text)
        part.rename(self.dags / f"{name}.py")

    def wait_known(self, dag_ids: Sequence[str], within: float = 120.0) -> None:
        """Until the dispatcher uses all of *dag_ids*."""
        # The line follows when the DAG is not only in the database but in use.
        wanted = {f"DAG {dag_id}: version" for dag_id in dag_ids}

        def known() -> bool:
            told = "".join(daemon.output.read_text(errors="replace") for daemon in self.daemons)
            return all(line in told for line in wanted)

        try:
            self.wait(known, f"{len(wanted)} DAGs to be known", within=within, every=0.05)
        except ContenderFailed as error:
            wrong = self.query("SELECT file, message FROM import_error LIMIT 3")
            raise ContenderFailed(f"{error}\nimport errors: {json.dumps(wrong)}") from None
