"""Agents played by messages, as a dispatcher over a real store meets them."""

from __future__ import annotations

from collections.abc import Mapping

from flow import wire
from flow.states import TaskState
from tests.contract.store_world import LEASE, StoreWorld


class StoreAgents:
    """Several agents: what each says, what all have been told. *queues*: which each serves."""

    def __init__(self, world: StoreWorld, queues: Mapping[str, tuple[str, ...]]) -> None:
        self.world = world
        self.queues = queues
        self.sessions = dict.fromkeys(queues, 0)
        self.processes = dict.fromkeys(queues, 0)
        self.homes = {agent: f"home of {agent}" for agent in queues}
        self.unknown: set[str] = set()
        """Agents whose session the dispatcher has ended or does not know: they say hello next."""
        self.grants: list[tuple[str, wire.Grant]] = []
        self.messages: list[wire.Task] = []
        """From the task queues, not claimed with success so far."""
        self.late: list[wire.Task] = []
        """Those whose try is over, or taken."""

    def collect(self) -> None:
        """What has arrived at agents."""
        world = self.world
        self.messages += world.published
        for agent, reply in world.replies:
            if isinstance(reply, wire.Grant):
                self.grants.append((agent, reply))
            elif isinstance(reply, wire.SessionEnded):
                self.unknown.add(agent)
                self.sessions[agent] = max(self.sessions[agent], reply.last_session + 1)
            elif isinstance(reply, wire.HelloWanted):
                self.unknown.add(agent)
        world.published, world.replies = [], []

    def work(self, first: str) -> None:
        """The agents claim all that has been published to their queues, and is not over."""
        self.collect()
        for agent in sorted(self.unknown):
            self.unknown.discard(agent)
            self.say_hello(agent)
        self.collect()
        for agent in (first, *self.queues):
            for message in self.messages:
                if message.queue in self.queues[agent] and self.waits(message):
                    self.say_claim(agent, message, self.sessions[agent])
        self.late += [message for message in self.messages if not self.waits(message)]
        self.messages = [message for message in self.messages if self.waits(message)]

    def waits(self, message: wire.Task) -> bool:
        task = self.world.core.state.tasks.get(message.task_instance_id)
        if task is None or task.state is not TaskState.QUEUED:
            return False
        return task.try_number == message.try_number

    def runs(self, grant: wire.Grant) -> bool:
        task = self.world.core.state.tasks.get(grant.task_instance_id)
        return task is not None and (task.state, task.token) == (TaskState.RUNNING, grant.token)

    def hello_of_new_process(self, agent: str) -> None:
        self.sessions[agent] += 1
        self.processes[agent] += 1
        self.say_hello(agent)

    def say_hello(
        self, agent: str, spooled: tuple[int, ...] = (), kept: tuple[int, ...] = ()
    ) -> None:
        self.world.send(
            wire.Hello(
                agent=agent,
                session=self.sessions[agent],
                home_id=self.homes[agent],
                boot_id="boot",
                uptime=100.0,
                incarnation=f"process {self.processes[agent]}",
                queues=self.queues[agent],
                slots=2,
                lease=LEASE,
                spooled=spooled,
                kept=kept,
            )
        )

    def say_heartbeat(self, agent: str, *tokens: int) -> None:
        self.world.send(
            wire.Heartbeat(agent=agent, session=self.sessions[agent], lease=LEASE, tokens=tokens)
        )

    def say_claim(self, agent: str, message: wire.Task, session: int) -> None:
        self.world.send(
            wire.Claim(
                agent=agent,
                session=session,
                task_instance_id=message.task_instance_id,
                try_number=message.try_number,
                queue=message.queue,
                free_slots=1,
            )
        )

    def say_finished(self, agent: str, grant: wire.Grant, state: str) -> None:
        self.world.send(self.end_of(agent, grant, state))

    def end_of(self, agent: str, grant: wire.Grant, state: str) -> wire.Event:
        if state == "released":
            return wire.Release(
                agent=agent,
                session=self.sessions[agent],
                task_instance_id=grant.task_instance_id,
                token=grant.token,
                reason="it cannot start here",
                fault=grant.token % 2 == 0,
            )
        moment = self.world.now.wall.timestamp()
        return wire.Finished(
            agent=agent,
            session=self.sessions[agent],
            task_instance_id=grant.task_instance_id,
            try_number=grant.try_number,
            token=grant.token,
            state=state,  # type: ignore[arg-type]  # the rules state it as text
            exit_code=0 if state == "success" else 1,
            started_at=moment,
            ended_at=moment,
        )
