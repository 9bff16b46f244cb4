"""An agent's connection to the model broker, as ``agent.connection`` keeps it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from agent.core import events as on
from flow import topology
from flow.errors import TransportError
from tests.sim.link import Delivery, Link, Outcome
from tests.sim.messages import Out

if TYPE_CHECKING:
    from tests.sim.agent import Agent

#: A tenth of what the real one waits between attempts, in seconds.
FIRST_PAUSE = 0.05
LONGEST_PAUSE = 0.5


class AgentConnection:
    """Connects for as long as the agent lives; ``live`` while there is a link of use."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._queues, self._slots = agent.node.queues, agent.node.slots
        self._link: Link | None = None
        self._live: Link | None = None
        self._deliveries: dict[int, Delivery] = {}
        self._handles = 0
        self._suffix = 0
        self._pause = FIRST_PAUSE

    @property
    def live(self) -> bool:
        return self._live is not None

    def connect(self) -> None:
        """Try now, and again until it works."""
        agent = self._agent
        agent.node.host.connect(f"agent {agent.name}", agent.process, self._connected)

    def close(self) -> None:
        """For good."""
        self._live = None
        link, self._link = self._link, None
        if link is not None:
            link.close()

    def publish(self, out: Out, done: Outcome) -> None:
        """Send it; without a link *done* is never called."""
        if self._live is not None:
            self._live.publish(out, done)

    def ack(self, handle: int) -> None:
        """Settle a delivery of this link; harmless for one of an earlier link."""
        delivery = self._deliveries.pop(handle, None)
        if delivery is not None and self.live:
            delivery.ack()

    def consume(self) -> None:
        """Begin to receive tasks."""
        live = self._live
        if live is None:
            return
        for queue in self._queues:
            name = topology.task_queue(queue).name
            live.consume(name, partial(self._on_task, live), self._slots, self._done)

    def serve(self, queues: tuple[str, ...], slots: int) -> None:
        """From the next link on."""
        self._queues, self._slots = queues, slots

    def reconnect(self) -> None:
        """Drop the link, if there is one, and connect at once."""
        link = self._live
        if link is not None:
            self._live = None
            self._agent.process.after(0.0, partial(self._drop, link))

    # -- its life ------------------------------------------------------------------------------

    def _connected(self, link: Link | TransportError) -> None:
        if isinstance(link, TransportError):
            self._retry()
            return
        self._link = link
        link.on_closed = partial(self._closed, link)
        link.on_blocked = self._blocked
        self._suffix += 1
        agent = self._agent
        suffix = f"{agent.node.home}-{agent.node.incarnations}-{self._suffix}"
        control = topology.control_queue(agent.name, suffix)
        for spec in (control, *map(topology.task_queue, self._queues)):
            link.declare(spec, self._done)

        def ready(answer: Any) -> None:
            if isinstance(answer, TransportError):
                link.close(str(answer))
                return
            self._live = link
            self._pause = FIRST_PAUSE
            agent.world.step("connected", agent.name)
            agent.post(on.LinkUp())

        link.consume(control.name, agent.on_control, 200, ready)

    def _done(self, answer: Any) -> None:
        """What cannot be declared or consumed ends the link."""
        if isinstance(answer, TransportError) and self._link is not None:
            self._link.close(str(answer))

    def _closed(self, link: Link, _: str) -> None:
        if self._link is link:
            self._link = self._live = None
            self._deliveries.clear()
            self._agent.post(on.LinkDown())
            self._retry()

    def _drop(self, link: Link) -> None:
        if self._link is link:
            self._link = None
            self._deliveries.clear()
            self._agent.post(on.LinkDown())
            link.close()
            self.connect()

    def _retry(self) -> None:
        agent = self._agent
        agent.process.after(self._pause * (0.5 + agent.node.rng.random()), self.connect)
        self._pause = min(2 * self._pause, LONGEST_PAUSE)

    # -- from the broker -----------------------------------------------------------------------

    def _blocked(self, proven: float) -> None:
        if self.live:
            self._agent.world.step("blocked", self._agent.name, proven)
            self._agent.post(on.Blocked(proven))

    def _on_task(self, link: Link, delivery: Delivery) -> None:
        if self._live is not link:
            return  # of a link that is being dropped: it goes back
        self._handles += 1
        self._deliveries[self._handles] = delivery
        self._agent.on_task(self._handles, delivery.message.body)
