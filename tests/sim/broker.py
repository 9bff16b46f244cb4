"""A model of RabbitMQ: what flow relies on, and what may go wrong with it.

It passes the contract suite of :mod:`flow.transport.port` (through :mod:`tests.sim.port`), so it
behaves as RabbitMQ does where that suite looks. Time is a parameter; nothing here is asynchronous.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

from flow.errors import TransportError
from flow.topology import EXCHANGES, QueueSpec
from tests.sim.link import Link, Outgoing
from tests.sim.pipe import Receive
from tests.sim.queues import Message, Queue
from tests.sim.schedule import Clock

#: Looks at a message on its way into a queue; returns the copies that arrive (none: it is lost).
Tamper = Callable[[Queue, Message], list[Message]]


class ModelBroker:
    """Links come from :meth:`open`. ``down``: it cannot be reached."""

    def __init__(self, clock: Clock, *, proof_interval: float = 0.5, user: str = "guest") -> None:
        self.clock = clock
        self.user = user
        self.queues: dict[str, Queue] = {}
        self.links: list[Link] = []
        self.down = False
        self.alarmed = False
        self.tamper: Tamper | None = None
        self.on_queue_lost: Callable[[Link, str], None] = lambda link, reason: link.drop(reason)
        self.proof_interval = proof_interval
        self._positions = itertools.count()
        self._routes: dict[tuple[str, str], list[Queue]] = {}

    def open(self, name: str, delay: Callable[[], float], receive: Receive) -> Link:
        """A new link, ready for use."""
        link = Link(self, name, delay, receive)
        self.links.append(link)
        if self.alarmed:
            link.block()
        return link

    # -- what links ask for --------------------------------------------------------------------

    def declare(self, spec: QueueSpec, link: Link) -> None:
        """Make the queue and bind it. Raises :class:`~flow.errors.BrokerRefused` when it exists
        and is another one."""
        where = f"declare queue {spec.name}"
        if spec.exchange not in EXCHANGES:
            raise TransportError(f"{where}: expected an exchange of flow's, got {spec.exchange!r}")
        queue = self.queues.get(spec.name)
        if queue is None:
            owner = link if spec.exclusive else None
            queue = self.queues[spec.name] = Queue(spec, owner, lambda: self.clock.now)
        else:
            queue.check_owner(where, link)
            queue.check_same(where, spec)
        queue.bind(spec.exchange, spec.key)
        self._routes.clear()

    def find(self, where: str, name: str, link: Link) -> Queue:
        """The queue, if *link* may use it. Raises :class:`~flow.errors.TransportError`."""
        queue = self.queues.get(name)
        if queue is None:
            raise TransportError(f"{where}: expected a queue that exists, got none")
        queue.check_owner(where, link)
        return queue

    def route(self, publication: Outgoing) -> bool:
        """Put a copy into every queue bound for it; whether there was one."""
        address = (publication.exchange, publication.key)
        queues = self._routes.get(address)
        if queues is None:
            words = publication.key.split(".")
            found = self.queues.values()
            queues = [queue for queue in found if queue.takes(publication.exchange, words)]
            self._routes[address] = queues
        lifetime = publication.expiration
        for queue in tuple(queues):
            message = Message(
                position=next(self._positions),
                key=publication.key,
                body=publication.body,
                headers=getattr(publication, "headers", {}),
                user=self.user,
                expires_at=None if lifetime is None else self.clock.now + lifetime,
            )
            for copy in [message] if self.tamper is None else self.tamper(queue, message):
                queue.put(copy)
        return bool(queues)

    def forget(self, link: Link) -> None:
        """A link is over: its exclusive queues end with it."""
        self.links.remove(link)
        for name in [name for name, queue in self.queues.items() if queue.owner is link]:
            self._remove(name)

    def _remove(self, name: str) -> Queue:
        queue = self.queues.pop(name)
        queue.gone = True
        self._routes.clear()
        return queue

    # -- what may go wrong ---------------------------------------------------------------------

    def delete(self, name: str) -> None:
        """Somebody deletes a queue: its consumers are told, and flow's links end with that."""
        queue = self._remove(name)
        for link in list(self.links):
            if link.consumes(queue):
                self.on_queue_lost(link, f"broker cancelled consumer of {name}")

    def stop(self, *, wipe: bool = False, keep: Callable[[], int] = lambda: 0) -> None:
        """It goes down: every link ends, only durable queues stay, or none (*wipe*)."""
        self.down = True
        self.alarmed = False
        for link in list(self.links):
            link.drop("broker went down", keep())
        for name in [n for n, queue in self.queues.items() if wipe or not queue.spec.durable]:
            self._remove(name)

    def start(self) -> None:
        self.down = False

    def raise_alarm(self) -> None:
        """A memory or disk alarm: nothing is taken from publishers."""
        self.alarmed = True
        for link in self.links:
            link.block()

    def end_alarm(self, order: Callable[[list[Link]], None] = lambda _: None) -> None:
        """Publishers go on, in any *order*."""
        self.alarmed = False
        links = list(self.links)
        order(links)
        for link in links:
            link.unblock()
