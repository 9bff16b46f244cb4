"""What a scenario has in hand: flow as real processes, the servers, and ways to hurt them."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg2

from agent import processes
from tests.acceptance.ledger import Ledger, now
from tests.acceptance.system import BIN, Daemon, System
from tests.chaos.nodes import Node, Supervisor
from tests.chaos.proxies import ProxyThread
from tests.chaos.scenario import Scale, ScenarioFailed
from tests.chaos.servers import Broker, Postgres
from tests.chaos.workload import LedgerTask, dag_file

#: Marks the processes of a session of ``tests.services``, which ends them if all else fails.
SESSION = "FLOW_TEST_SESSION"
PATIENCE = 30.0
"""Seconds for what is no part of a bound; the machine may be busy."""
KEEPER_PATIENCE = 10.0
"""Seconds in which keepers without agents end their tasks."""


@dataclass(slots=True)
class Chaos:
    """One scenario's world. Everything in it ends with :meth:`close`."""

    root: Path
    scale: Scale
    broker: Broker
    postgres: Postgres
    chance: random.Random
    """Seeded: the only source of chance."""
    system: System = field(init=False)
    ledger: Ledger = field(init=False)
    nodes: dict[str, Node] = field(default_factory=dict)
    kept_dags: set[str] = field(default_factory=set)
    """Those whose tasks keep the ledger."""
    faulted_at: float | None = None
    healed_at: float | None = None
    _supervisor: Supervisor = field(default_factory=Supervisor)
    _proxies: list[ProxyThread] = field(default_factory=list)

    def __post_init__(self) -> None:
        settings = self.scale.leases.settings()
        if SESSION in os.environ:
            settings[SESSION] = os.environ[SESSION]
        self.system = System(self.root, self.broker.url, self.postgres.url, settings)
        self.ledger = Ledger(self.root / "ledger")
        self.system.flow("db", "migrate")

    # -- flow ----------------------------------------------------------------------------------

    def start_dispatcher(
        self, *, bin_folder: Path = BIN, ready: bool = True, **environment: str
    ) -> Daemon:
        """``flow dispatcher``; *environment* goes before the settings."""
        return self.system.start_dispatcher(bin_folder=bin_folder, ready=ready, **environment)

    def start_agent(
        self,
        name: str,
        *queues: str,
        slots: int = 2,
        restarted: bool = True,
        environment: Mapping[str, str] | None = None,
        bin_folder: Path = BIN,
    ) -> Node:
        """An agent that serves *queues*; *restarted*: by a supervisor, whenever it has ended."""
        node = Node(
            self.system,
            name,
            queues,
            slots=slots,
            restarted=restarted,
            environment=environment or {},
            bin_folder=bin_folder,
        )
        node.start()
        self.nodes[name] = node
        self._supervisor.watch(node)
        return node

    def proxy(self, url: str) -> ProxyThread:
        """A TCP proxy in front of the server that *url* names."""
        proxy = ProxyThread(url)
        self._proxies.append(proxy)
        return proxy

    # -- work ----------------------------------------------------------------------------------

    def write_ledger_dag(self, dag_id: str, tasks: Iterable[LedgerTask], **options: object) -> None:
        """A DAG whose tasks keep the ledger; returns once the dispatcher has it."""
        limits = {"max_active_tasks": 1000, "max_active_runs": 1000}
        text = dag_file(dag_id, self.ledger.path, tasks, **{**limits, **options})
        self.kept_dags.add(dag_id)
        self.system.write_dag(dag_id, text)
        self.until(
            lambda: bool(self.postgres.query("SELECT 1 FROM dag WHERE dag_id = %s", dag_id)),
            f"the dispatcher has DAG {dag_id}",
        )

    def trigger(self, dag_id: str) -> str:
        """Start a run; its id."""
        return self.system.flow("dags", "trigger", dag_id).strip()

    def gate(self, name: str) -> Path:
        """A file that tasks can wait for; :meth:`open` makes it."""
        return self.root / f"gate-{name}"

    def open(self, name: str) -> None:
        """Let those go on that wait for the gate."""
        self.gate(name).touch()

    # -- time ----------------------------------------------------------------------------------

    def fault(self) -> float:
        """The fault is injected now; the moment, in the ledger's seconds."""
        self.faulted_at = now()
        return self.faulted_at

    def healed(self) -> float:
        """The fault is over now."""
        self.healed_at = now()
        return self.healed_at

    def until(self, condition: Callable[[], bool], what: str, within: float = PATIENCE) -> float:
        """Wait for *condition*; the moment it was seen to hold. Raises ScenarioFailed."""
        end = time.monotonic() + within
        while not condition():
            if time.monotonic() > end:
                raise ScenarioFailed(f"expected within {within:.0f} s: {what}")
            time.sleep(0.01)
        return now()

    def lasts(self, seconds: float, while_true: Callable[[], bool], what: str) -> None:
        """The fault goes on for *seconds*, all through which *while_true* holds."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if not while_true():
                raise ScenarioFailed(f"expected for {seconds:.0f} s: {what}")
            time.sleep(0.02)

    # -- looking -------------------------------------------------------------------------------

    def alive(self, count: int, *, agent: str | None = None, within: float = PATIENCE) -> None:
        """Wait until the ledger shows *count* live copies (on *agent*)."""

        def seen() -> bool:
            lives = self.ledger.alive()
            return sum(agent in (None, life.agent) for life in lives) == count

        self.until(seen, f"{count} tasks alive on {agent or 'all nodes'}", within)

    def state_of(self, run_id: str, task_id: str) -> str:
        """The state of a task instance in the database."""
        found = self.postgres.value(
            "SELECT t.state FROM task_instance t JOIN dag_run r ON r.id = t.run_pk"
            " WHERE r.run_id = %s AND t.task_id = %s",
            run_id,
            task_id,
        )
        return str(found)

    def unfinished(self) -> int:
        """Task instances that have not ended; also those that no database can be asked about."""
        try:
            found: Any = self.postgres.value(
                "SELECT count(*) FROM task_instance"
                " WHERE state IN ('none', 'scheduled', 'queued', 'running', 'up_for_retry')"
            )
        except psycopg2.OperationalError:
            return 1
        return int(found)

    def wait_terminal(self, *run_ids: str, within: float = 60.0) -> float:
        """Wait until these runs have ended; the moment."""

        def ended() -> bool:
            try:
                found = self.postgres.value(
                    "SELECT count(*) FROM dag_run WHERE run_id = ANY(%s)"
                    " AND state IN ('success', 'failed')",
                    list(run_ids),
                )
            except psycopg2.OperationalError:  # the database is what the fault hit
                return False
            return bool(found == len(run_ids))

        return self.until(ended, f"{len(run_ids)} runs have ended", within)

    def wait_outbox(self, within: float = 10.0) -> float:
        """Wait until every queued row has a message in its queue (I8); the moment."""

        def empty() -> bool:
            rows = self.postgres.query(
                "SELECT queue, count(*) FROM task_instance WHERE state = 'queued' GROUP BY queue"
            )
            messages = self.broker.messages() if rows else {}
            return all(messages.get(f"flow.q.{queue}", 0) >= count for queue, count in rows)

        return self.until(empty, "every queued task has a message", within)

    # -- the end -------------------------------------------------------------------------------

    def task_processes(self) -> list[str]:
        """The living processes of tasks."""
        return [processes.describe(found.process) for found in self._marked() if not found.keeper]

    def close(self) -> list[str]:
        """End all processes and threads; what had to be killed one by one. Safe twice."""
        self._supervisor.close()
        for daemon in self.system.daemons:
            if daemon.process.poll() is None:
                daemon.process.kill()
            daemon.process.wait(20)
        while self.system.commands:
            command = self.system.commands.pop()
            if command.poll() is None:
                command.kill()
                command.communicate()
        while self._proxies:
            self._proxies.pop().close()
        end = time.monotonic() + KEEPER_PATIENCE
        while self._marked() and time.monotonic() < end:
            time.sleep(0.02)
        left = self._marked()
        for found in left:
            processes.send_signal(found.process, signal.SIGKILL)
        return [processes.describe(found.process) for found in left]

    def _marked(self) -> list[processes.Marked]:
        """Keepers, tasks and what these have started, of every agent below the root."""
        found: list[processes.Marked] = []
        for path in self.root.glob("*/agents/*/session.json"):
            found += processes.marked(json.loads(path.read_bytes())["state_id"])
        return found

    def logs(self, lines: int = 60) -> str:
        """The last lines of what each process has said."""
        parts = []
        for daemon in self.system.daemons:
            said = daemon.output.read_text(errors="replace").splitlines()
            parts += [f"--- {daemon.output.name}", *said[-lines:]]
        return "\n".join(parts)
