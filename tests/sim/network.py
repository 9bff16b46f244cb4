"""Between a machine and the broker: latency, partitions, and who notices them when."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random

from flow.errors import TransportError
from tests.sim.broker import ModelBroker
from tests.sim.link import Link
from tests.sim.process import Process
from tests.sim.schedule import Schedule

#: AMQP's heartbeat interval, in seconds: a sixth of the lease, as by default.
AMQP_HEARTBEAT = 1.0
CONNECT_LIMIT = 1.5


class Host:
    """One machine's way to the broker, with all links of one process on it."""

    def __init__(self, schedule: Schedule, rng: Random, broker: ModelBroker) -> None:
        self.slowness = 0.0
        """Seconds that each frame takes more, at most."""
        self.up_held = self.down_held = False
        self._schedule = schedule
        self._rng = rng
        self._broker = broker
        self._links: list[Link] = []
        self._episode = 0

    def connect(
        self, name: str, process: Process, done: Callable[[Link | TransportError], None]
    ) -> None:
        """Open a link for *process*; *done* gets it, or why there is none."""

        def attempt() -> None:
            if self.up_held or self.down_held:
                process.after(CONNECT_LIMIT, lambda: done(TransportError("no answer")))
            elif self._broker.down:
                done(TransportError("connection refused"))
            else:
                self._links = [link for link in self._links if link.open or link.served]
                link = self._broker.open(name, self._latency, process.receive)
                self._links.append(link)
                done(link)

        process.after(2 * self._latency(), attempt)

    def _latency(self) -> float:
        return 0.001 + self._rng.random() * (0.01 + self.slowness)

    # -- partitions ----------------------------------------------------------------------------

    def partition(self, *, up: bool = True, down: bool = True) -> None:
        """Frames *up* to the broker or *down* from it are held, without a word to anybody."""
        self._episode += 1
        for link in self._links:
            if up and not self.up_held:
                link.commands.hold()
                link.publishes.hold()
            if down and not self.down_held:
                link.answers.hold()
                link.confirms.hold()
        self.up_held, self.down_held = self.up_held or up, self.down_held or down
        if up:
            self.fall_silent()
        if down:
            self._later(2.0, 2.5, self._give_up)

    def heal(self) -> None:
        """What was held goes on, where somebody still listens."""
        self._episode += 1
        for link in self._links:
            if self.up_held:
                link.commands.release()
                link.publishes.release()
            if self.down_held:
                link.answers.release()
                link.confirms.release()
        self.up_held = self.down_held = False

    def fall_silent(self) -> None:
        """The broker hears nothing of these links from now on: it drops them after a while."""
        self._later(2.0, 3.0, self._drop)

    def speak(self) -> None:
        """They are heard again."""
        if not self.up_held:
            self._episode += 1

    def _later(self, low: float, high: float, call: Callable[[], None]) -> None:
        """After *low* to *high* AMQP heartbeats, if this goes on."""
        episode = self._episode

        def due() -> None:
            if self._episode == episode:
                call()

        self._schedule.after(AMQP_HEARTBEAT * self._rng.uniform(low, high), due)

    def _drop(self) -> None:
        for link in self._links:
            # The broker reads what a blocked connection has sent once the alarm is over.
            publishes = self._keep(link) if self._broker.alarmed else 0
            link.drop("missed heartbeats from client", self._keep(link), publishes=publishes)

    def _give_up(self) -> None:
        for link in list(self._links):
            if link.open:
                link.receive(partial(link.close, "missed heartbeats from broker"))

    def cut(self, *, broker_side: bool) -> bool:
        """The connection is reset; whether there was one. What is on its way may arrive or not."""
        links = [link for link in self._links if link.open and link.served]
        for link in links:
            if broker_side:
                link.drop("connection reset by the broker", self._keep(link))
            else:
                link.receive(partial(link.close, "connection reset", self._keep(link)))
        return bool(links)

    def abandon(self) -> None:
        """The process is dead: its kernel closes what it had open, and may not send the rest."""
        for link in self._links:
            link.close("killed", self._keep(link))

    def vanish(self) -> None:
        """The machine has lost its power: the broker has to notice by itself."""
        for link in self._links:
            link.vanish(self._keep(link))
        self.up_held = self.down_held = False
        self._episode += 1
        self.fall_silent()

    def return_after_reboot(self) -> None:
        """Its kernel knows nothing of the connections that the broker still has."""
        self._episode += 1
        self._drop()

    @property
    def links(self) -> list[Link]:
        return [link for link in self._links if link.open or link.served]

    def _keep(self, link: Link) -> int:
        """How many frames of those on their way arrive: all, or any number."""
        most = max(link.publishes.in_flight, link.commands.in_flight, 1)
        return most if self._rng.random() < 0.5 else self._rng.randrange(most)
