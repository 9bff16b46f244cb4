"""A real agent process on a real broker, and a dispatcher of the tests' own that grants claims."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from agent.processes import marked
from flow import topology, wire
from flow.transport.amqp import AmqpBroker
from flow.transport.port import Delivery, Link, Outlet, Publication
from tests.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
M = TypeVar("M", bound=wire.Message)


@dataclass(frozen=True)
class Held:
    """A live token and who was granted it."""

    token: int
    agent: str
    session: int


#: Lease times small enough to wait for, large enough for a busy machine.
SHORT_LEASE = {
    "FLOW_LEASE_HEARTBEAT_INTERVAL": "0.3",
    "FLOW_LEASE_DURATION": "3",
    "FLOW_LEASE_MARGIN": "1",
    "FLOW_LEASE_GRACE": "1",
    "FLOW_AGENT_KILL_GRACE": "0.5",
    "FLOW_AGENT_CLAIM_RESEND_INTERVAL": "0.3",
}


class AgentProcess:
    """``flow-agent`` as a child of the test. stderr is kept for looking at."""

    def __init__(self, home: Path, broker_url: str, *, name: str = "node1", **env: str) -> None:
        self.home = home
        self.name = name
        self.state = home / "agents" / name
        self._env = {
            **{key: value for key, value in os.environ.items() if not key.startswith("FLOW_")},
            "FLOW_HOME": str(home),
            "FLOW_BROKER_URL": broker_url,
            "FLOW_AGENT_SLOTS": "4",
            "FLOW_AGENT_KILL_GRACE": "0.5",
            **env,
        }
        self._log = home / f"{name}.log"
        self.process: asyncio.subprocess.Process | None = None

    async def start(self, *arguments: str) -> AgentProcess:
        command = ["-m", "flow.cli.agent", "--queue", "q1", "--name", self.name, *arguments]
        with self._log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, *command, cwd=ROOT, env=self._env, stderr=log
            )
        return self

    @property
    def stderr(self) -> str:
        return self._log.read_text()

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    async def ended(self, within: float = 20.0) -> int:
        """Its exit code."""
        assert self.process is not None
        return await asyncio.wait_for(self.process.wait(), within)

    async def kill(self) -> None:
        """``kill -9``, if it runs, and reap."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
        await self.ended()

    def task_processes(self) -> int:
        """How many processes of its tasks live."""
        return sum(not found.keeper for found in marked(self.state_id))

    @property
    def state_id(self) -> str:
        """What marks its processes."""
        return str(json.loads((self.state / "session.json").read_text())["state_id"])


class FakeDispatcher:
    """Reads all that agents say, and answers: ``on_claim`` decides, results are accepted."""

    def __init__(self, broker_url: str) -> None:
        self._broker = AmqpBroker(broker_url)
        self._tokens = itertools.count(1)
        self._ids = itertools.count(1)
        self._link: Link | None = None
        self._outlet: Outlet | None = None
        self.events: list[wire.Event] = []
        self.chunks: list[wire.LogChunk] = []
        self.users: set[str | None] = set()
        """Broker users whom messages were from."""
        self.granted: dict[tuple[int, int], Held] = {}
        self.done: set[tuple[int, int]] = set()
        self.answers = True
        self.on_claim: Callable[[wire.Claim], bool] = lambda _: True

    async def __aenter__(self) -> Self:
        self._link = await self._broker.connect("fake dispatcher")
        for spec in (topology.event_queue(), topology.log_queue(), topology.task_queue("q1")):
            await self._link.declare(spec)
        self._outlet = await self._link.outlet()
        await self._link.consume(topology.EVENTS, self._on_event, prefetch=500)
        await self._link.consume(topology.LOGS, self._on_log, prefetch=500)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._link is not None:
            await self._link.close()

    # -- doing ---------------------------------------------------------------------------------

    async def submit(self, command: str, *, queue: str = "q1", **fields: Any) -> int:
        """Publish a bash task; return its task instance."""
        number = next(self._ids)
        task = wire.Task(
            task_instance_id=number,
            dag_id="dag",
            run_id="run",
            task_id=f"t{number}",
            try_number=fields.pop("try_number", 1),
            queue=queue,
            operator=fields.pop("operator", "bash"),
            arguments={"command": command, **fields.pop("arguments", {})},
            **fields,
        )
        await self.publish_task(wire.encode(task), queue)
        return number

    async def make(self, queue: str) -> None:
        """Declare a task queue."""
        assert self._link is not None
        await self._link.declare(topology.task_queue(queue))

    async def publish_task(self, body: bytes, queue: str = "q1") -> None:
        assert self._outlet is not None
        await self._outlet.publish(Publication(topology.TASKS, queue, body))

    def reply(self, agent: str, reply: wire.Reply) -> None:
        assert self._outlet is not None
        key = topology.agent_key(agent)
        body = wire.encode(reply)
        self._outlet.publish(Publication(topology.CONTROL, key, body, mandatory=False))

    # -- looking -------------------------------------------------------------------------------

    def of(self, kind: type[M], **fields: object) -> list[M]:
        """What was said of *kind*, with these values in its fields."""
        return [
            event
            for event in self.events
            if isinstance(event, kind)
            and all(getattr(event, name) == value for name, value in fields.items())
        ]

    async def heard(self, kind: type[M], within: float = 20.0, **fields: object) -> M:
        """Wait for the first of that kind and with those values."""
        await eventually(lambda: bool(self.of(kind, **fields)), within)
        return self.of(kind, **fields)[0]

    async def result(self, number: int, within: float = 20.0) -> wire.Finished:
        return await self.heard(wire.Finished, within, task_instance_id=number)

    def text(self, number: int) -> str:
        """The log of a task instance, chunks put in their places by their offsets."""
        log = bytearray()
        for chunk in self.chunks:
            if chunk.task_instance_id == number:
                data = chunk.text.encode()
                log[chunk.offset : chunk.offset + len(data)] = data
        return log.decode()

    def log_ended(self, number: int) -> bool:
        return any(chunk.last for chunk in self.chunks if chunk.task_instance_id == number)

    async def waiting(self, queue: str = "q1") -> int | None:
        assert self._link is not None
        return await self._link.ready_count(topology.task_queue(queue).name)

    # -- answering -----------------------------------------------------------------------------

    def _on_event(self, delivery: Delivery) -> None:
        event = wire.decode(delivery.body)
        delivery.ack()
        self.users.add(delivery.user_id)
        assert isinstance(event, wire.Event)
        assert delivery.routing_key == topology.event_key(event.agent, event.kind)
        self.events.append(event)
        if self.answers:
            self._answer(event)
        elif isinstance(event, wire.Hello):
            self._hello(event)

    def _answer(self, event: wire.Event) -> None:
        match event:
            case wire.Hello():
                self._hello(event)
            case wire.Claim():
                self._claim(event)
            case wire.Finished() | wire.Release():
                self._end(event)
                answer = wire.Answered(session=event.session, tokens=(event.token,))
                self.reply(event.agent, answer)

    def _claim(self, claim: wire.Claim) -> None:
        key = (claim.task_instance_id, claim.try_number)
        common: dict[str, Any] = {
            "session": claim.session,
            "task_instance_id": claim.task_instance_id,
            "try_number": claim.try_number,
        }
        held = self.granted.get(key)
        foreign = held is not None and (held.agent, held.session) != (claim.agent, claim.session)
        if foreign or key in self.done or not self.on_claim(claim):
            self.reply(claim.agent, wire.Deny(**common, reason="denied"))
            return
        if held is None:
            token = time.time_ns() // 1_000_000 + next(self._tokens)
            held = self.granted[key] = Held(token, claim.agent, claim.session)
        self.reply(claim.agent, wire.Grant(**common, token=held.token))

    def _hello(self, hello: wire.Hello) -> None:
        """Ends the tokens of the agent's older sessions, except those it still vouches for."""
        vouched = {*hello.spooled, *hello.kept}
        for key, held in list(self.granted.items()):
            older = held.agent == hello.agent and held.session < hello.session
            if older and held.token not in vouched:
                del self.granted[key]

    def _end(self, event: wire.Finished | wire.Release) -> None:
        for key, held in list(self.granted.items()):
            if held.token == event.token:
                del self.granted[key]
                if isinstance(event, wire.Finished):
                    self.done.add(key)

    def _on_log(self, delivery: Delivery) -> None:
        chunk = wire.decode(delivery.body)
        assert isinstance(chunk, wire.LogChunk)
        assert delivery.headers["run_id"] == chunk.run_id
        self.chunks.append(chunk)
        self.users.add(delivery.user_id)
        delivery.ack()
