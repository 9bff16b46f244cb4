"""Agents that answer at once: many sessions in one process, without tasks, disks or leases to lose.

``python -m bench.mock_agent --slots 4 --agent q1 --agent q2,q3`` is two of them. Each speaks the
protocol of a real agent over a connection of its own: hello, heartbeat, claim, finished, resent
until answered. What a task would do takes no time. So what is measured with it is dispatcher,
broker and database.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from flow import topology, wire
from flow.transport.amqp.broker import AmqpBroker
from flow.transport.port import Broker, Delivery, Link, Outlet, Publication

HEARTBEAT = 5.0
LEASE = 60.0
RESEND = 2.0
#: Connections that are opened at the same time: RabbitMQ's backlog is short.
AT_ONCE = 8


@dataclass(slots=True)
class _Claimed:
    task: wire.Task
    delivery: Delivery | None
    due: float


@dataclass(slots=True)
class _Result:
    message: wire.Finished
    due: float


class Session:
    """One agent on one link; it ends with the link."""

    def __init__(
        self, name: str, queues: Sequence[str], slots: int, link: Link, outlet: Outlet
    ) -> None:
        self.name = name
        self._queues = tuple(queues)
        self._slots = slots
        self._link = link
        self._outlet = outlet
        self._incarnation = uuid.uuid4().hex
        self._claims: dict[tuple[int, int], _Claimed] = {}
        self._results: dict[int, _Result] = {}
        self._granted: set[int] = set()
        self._terms = wire.Terms()
        self.finished = 0
        """Results that the dispatcher has answered."""

    @classmethod
    async def open(cls, broker: Broker, name: str, queues: Sequence[str], slots: int) -> Session:
        """Connect, say hello, and consume once it is confirmed. Raises TransportError."""
        link = await broker.connect(f"flow-agent {name}")
        session = cls(name, queues, slots, link, await link.outlet())
        control = topology.control_queue(name, uuid.uuid4().hex[:8])
        await link.declare(control)
        await link.consume(control.name, session._on_control, prefetch=200)
        for queue in queues:
            await link.declare(topology.task_queue(queue))
        await session._hello()
        for queue in queues:
            await link.consume(topology.task_queue(queue).name, session._on_task, prefetch=slots)
        return session

    async def run(self) -> str:
        """Keep the lease and say again what is unanswered; the reason why the link closed."""
        closed = asyncio.ensure_future(self._link.wait_closed())
        while not closed.done():
            self._say_again(time.monotonic())
            heartbeat = wire.Heartbeat(
                agent=self.name,
                session=1,
                incarnation=self._incarnation,
                lease=LEASE,
                slots=self._slots,
                terms=self._terms,
            )
            self._publish(heartbeat)
            for _ in range(int(HEARTBEAT / RESEND)):
                await asyncio.wait([closed], timeout=RESEND)
                self._say_again(time.monotonic())
        return closed.result()

    async def close(self) -> None:
        """Give up the link; :meth:`run` then ends."""
        await self._link.close()

    # -- sending -------------------------------------------------------------------------------

    async def _hello(self) -> None:
        hello = wire.Hello(
            agent=self.name,
            session=1,
            home_id=f"bench {self.name}",
            boot_id="bench",
            incarnation=self._incarnation,
            queues=self._queues,
            slots=self._slots,
            lease=LEASE,
            software="bench",
            terms=self._terms,
        )
        await self._publish(hello)

    def _publish(self, event: wire.Event) -> asyncio.Future[None]:
        key = topology.event_key(self.name, event.kind)
        return self._outlet.publish(Publication(topology.EVENTS, key, wire.encode(event)))

    def _say_again(self, now: float) -> None:
        for claimed in self._claims.values():
            if claimed.due <= now:
                self._claim(claimed, now)
        for result in self._results.values():
            if result.due <= now:
                result.due = now + RESEND
                self._publish(result.message)

    def _claim(self, claimed: _Claimed, now: float) -> None:
        claimed.due = now + RESEND
        task = claimed.task
        self._publish(
            wire.Claim(
                agent=self.name,
                session=1,
                incarnation=self._incarnation,
                task_instance_id=task.task_instance_id,
                try_number=task.try_number,
                queue=task.queue,
                # What is granted is finished in the same instant: all slots are free again.
                free_slots=self._slots,
            )
        )

    # -- receiving -----------------------------------------------------------------------------

    def _on_task(self, delivery: Delivery) -> None:
        task = wire.decode(delivery.body)
        assert isinstance(task, wire.Task), task
        self._take(task, delivery)

    def _take(self, task: wire.Task, delivery: Delivery | None) -> None:
        key = (task.task_instance_id, task.try_number)
        known = self._claims.get(key)
        if known is not None:
            if known.delivery is not None:
                known.delivery.ack()
            known.delivery = delivery
            return
        now = time.monotonic()
        self._claims[key] = claimed = _Claimed(task, delivery, now)
        self._claim(claimed, now)

    def _on_control(self, delivery: Delivery) -> None:
        message = wire.decode(delivery.body)
        delivery.ack()
        match message:
            case wire.Grant():
                self._on_grant(message)
            case wire.Offer():
                self._take(message.task, None)
            case wire.Deny():
                self._drop((message.task_instance_id, message.try_number))
            case wire.Answered():
                for token in message.tokens:
                    self.finished += self._results.pop(token, None) is not None
            case wire.Configure():
                self._terms = message.terms
            case wire.HelloWanted():
                asyncio.ensure_future(self._hello())  # noqa: RUF006 - the link's end ends it
            case wire.SessionEnded():
                raise AssertionError(f"{self.name}: {message.reason}")
            case _:
                pass  # nothing that is wanted of tasks or agents concerns this one

    def _on_grant(self, grant: wire.Grant) -> None:
        """Of a claim, or of a task that is handed over without one."""
        claimed = self._claims.pop((grant.task_instance_id, grant.try_number), None)
        delivery = None if claimed is None else claimed.delivery
        if grant.token in self._granted:  # said again, and so will the result be
            if delivery is not None:
                delivery.ack()
            return
        self._granted.add(grant.token)
        now = time.time()
        finished = wire.Finished(
            agent=self.name,
            session=1,
            incarnation=self._incarnation,
            task_instance_id=grant.task_instance_id,
            try_number=grant.try_number,
            token=grant.token,
            state="success",
            exit_code=0,
            started_at=now,
            ended_at=now,
        )
        self._results[grant.token] = _Result(finished, time.monotonic() + RESEND)
        future = self._publish(finished)
        if delivery is not None:
            # As a real agent does: acked once the broker has the result.
            future.add_done_callback(partial(_ack_when_confirmed, delivery))

    def _drop(self, key: tuple[int, int]) -> None:
        claimed = self._claims.pop(key, None)
        if claimed is not None and claimed.delivery is not None:
            claimed.delivery.ack()


def _ack_when_confirmed(delivery: Delivery, future: asyncio.Future[None]) -> None:
    if not future.cancelled() and future.exception() is None:
        delivery.ack()


@dataclass(slots=True)
class Crowd:
    """Sessions that live side by side in one event loop."""

    broker: Broker
    sessions: list[Session] = field(default_factory=list)

    async def gather(self, prefix: str, served: Sequence[Sequence[str]], slots: int) -> None:
        """Open a session for each of *served*, which are its queues."""
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(number: int, queues: Sequence[str]) -> Session:
            async with gate:
                return await Session.open(self.broker, f"{prefix}-{number}", queues, slots)

        numbered = itertools.starmap(one, enumerate(served))
        self.sessions = list(await asyncio.gather(*numbered))

    async def run(self) -> str:
        """Until the first of them has lost its link; why."""
        tasks = [asyncio.ensure_future(session.run()) for session in self.sessions]
        done, rest = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in rest:
            task.cancel()
        return next(iter(done)).result()


async def main(arguments: argparse.Namespace) -> int:
    """The sessions that the command line asks for, until the process is ended."""
    crowd = Crowd(AmqpBroker(arguments.broker))
    served = [queues.split(",") for queues in arguments.agent]
    await crowd.gather(arguments.prefix, served, arguments.slots)
    print("ready", flush=True)
    reason = await crowd.run()
    print(f"a link has closed: {reason}", file=sys.stderr, flush=True)
    return 1


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m bench.mock_agent", description=__doc__)
    made.add_argument("--broker", required=True, help="amqp:// URL")
    made.add_argument("--prefix", default="mock", help="beginning of the agents' names")
    made.add_argument("--slots", type=int, default=4, help="of each agent")
    made.add_argument(
        "--agent",
        action="append",
        required=True,
        metavar="Q1,Q2",
        help="an agent with these queues; repeat for several",
    )
    return made


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(asyncio.run(main(parser().parse_args())))
