"""A dispatcher without a broker: the real core over the real store, for tests of what commands
read and ask for. Agents are played by messages."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from dispatcher.core.core import Core, Effects, Instant, Rules
from dispatcher.core.records import AgentState, SaveAgent
from dispatcher.store import Store, migrate, open_database
from flow import wire
from flow.dagspec import DagSpec, TaskSpec

#: How a played agent ends a task: from its task id and try to "success" or "failed".
Outcome = Callable[[str, int], str]


def task(task_id: str, *upstream: str, **settings: Any) -> TaskSpec:
    """A bash task."""
    arguments: dict[str, Any] = {"command": "true", "env": {}, "cwd": None}
    return TaskSpec(
        task_id=task_id, operator="bash", arguments=arguments, upstream=upstream, **settings
    )


def dag(dag_id: str, *tasks: TaskSpec, **settings: Any) -> DagSpec:
    """A DAG in a file of its name."""
    return DagSpec(dag_id=dag_id, tasks=tasks, **{"file": f"{dag_id}.py", **settings})


class DatabaseWorld:
    """Leads the database at *url* (migrated here) with one core. Use it on one thread."""

    def __init__(self, url: str, *specs: DagSpec, rules: Rules | None = None) -> None:
        self.database = open_database(url)
        migrate(self.database)
        self.store = Store(self.database)
        self.epoch = self.store.begin_reign("test", datetime.now(UTC))
        self.core = Core(
            self.store.load(), reign=self.epoch, rules=rules or Rules(), now=self.now()
        )
        self.published: list[wire.Task] = []
        self.replies: list[wire.Reply] = []
        self.sessions: dict[str, int] = {}
        for spec in specs:
            self.record(spec)

    def now(self) -> Instant:
        return Instant(datetime.now(UTC), time.monotonic())

    def take(self, effects: Effects) -> None:
        """Commit, and keep what agents would receive."""
        if effects.writes:
            self.store.commit(self.epoch, effects.writes)
        self.published += effects.publications
        self.replies += [reply for _, reply in effects.replies]

    # -- what happens ----------------------------------------------------------------------

    def record(self, spec: DagSpec, source: str = "") -> None:
        """A DAG file was read."""
        rows = self.store.record_dags(self.epoch, spec.file, [spec], source, datetime.now(UTC))
        self.core.dags_changed(rows)

    def serve_requests(self) -> None:
        """Carry out what commands have asked for."""
        self.take(self.core.request(self.store.pending_intents(), self.now()))

    def send(self, message: wire.Message) -> None:
        """An agent says something."""
        self.take(self.core.receive(message, self.now()))

    def hello(self, agent: str, *queues: str, slots: int = 4, **more: Any) -> None:
        """An agent starts a session."""
        self.sessions[agent] = self.sessions.get(agent, 0) + 1
        self.send(
            wire.Hello(
                agent=agent,
                session=self.sessions[agent],
                home_id=f"home of {agent}",
                boot_id="boot",
                uptime=100.0,
                incarnation=f"process {self.sessions[agent]}",
                queues=queues or ("default",),
                slots=slots,
                lease=60.0,
                **more,
            )
        )

    def set_state(self, agent: str, state: AgentState) -> None:
        """The dispatcher believes something else of an agent."""
        row = self.core.state.agents[agent].row
        row.state = state
        self.store.commit(self.epoch, [SaveAgent(agent=row, at=datetime.now(UTC))])

    def start(self, agent: str, message: wire.Task | None = None) -> wire.Grant:
        """An agent claims a published task, the oldest by default, and is granted it."""
        message = message or self.published.pop(0)
        self.send(
            wire.Claim(
                agent=agent,
                session=self.sessions[agent],
                task_instance_id=message.task_instance_id,
                try_number=message.try_number,
                queue=message.queue,
                free_slots=1,
            )
        )
        grant = self.replies[-1]
        assert isinstance(grant, wire.Grant), grant
        return grant

    def finish(self, agent: str, grant: wire.Grant, state: str = "success", **used: float) -> None:
        """An agent's task ends, which has *used* memory and CPU time as Finished says it."""
        moment = datetime.now(UTC).timestamp()
        self.send(
            wire.Finished(
                agent=agent,
                session=self.sessions[agent],
                task_instance_id=grant.task_instance_id,
                try_number=grant.try_number,
                token=grant.token,
                state=state,  # type: ignore[arg-type]  # the tests state it as text
                exit_code=0 if state == "success" else 1,
                reason="" if state == "success" else "exit code 1",
                started_at=moment,
                ended_at=moment,
                **used,  # type: ignore[arg-type]  # likewise
            )
        )

    def run_published(self, agents: Sequence[str], outcome: Outcome) -> None:
        """Let agents run what is published to their queues."""
        for message in list(self.published):
            for agent in agents:
                if message.queue in self.core.state.agents[agent].row.queues:
                    self.published.remove(message)
                    ending = outcome(message.task_id, message.try_number)
                    self.finish(agent, self.start(agent, message), ending)
                    break


@contextmanager
def serving(
    url: str,
    *specs: DagSpec,
    agents: Mapping[str, tuple[str, ...]] | None = None,
    outcome: Outcome = lambda *_: "success",
) -> Iterator[None]:
    """A dispatcher that carries out requests in the background, with agents that run tasks in no
    time. It leads before the block begins."""
    ready, stop = threading.Event(), threading.Event()
    failures: list[BaseException] = []

    def lead() -> None:
        world = DatabaseWorld(url, *specs)
        for name, queues in (agents or {}).items():
            world.hello(name, *queues)
        ready.set()
        while not stop.wait(0.02):
            world.serve_requests()
            world.run_published(list(agents or {}), outcome)
            world.take(world.core.tick(world.now()))
        world.store.close()

    def guarded() -> None:
        try:
            lead()
        except BaseException as error:
            failures.append(error)
            raise
        finally:
            ready.set()

    thread = threading.Thread(target=guarded, name="test dispatcher")
    thread.start()
    ready.wait()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        assert not failures, failures
