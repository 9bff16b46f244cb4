"""A dispatcher's process around the real dispatcher core: what ``dispatcher.service``,
``reign``, ``flusher``, ``publisher`` and ``election`` do."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from dispatcher.core.core import Core
from dispatcher.core.records import Intent, LoadedRun, Snapshot, TouchLeader
from dispatcher.core.state import Effects, Lookup
from flow import topology, wire
from flow.errors import StoreError, TransportError, Unroutable
from tests.sim.link import Delivery, Link
from tests.sim.messages import Out
from tests.sim.network import Host
from tests.sim.process import Process
from tests.sim.schedule import Timer

if TYPE_CHECKING:
    from tests.sim.world import World

PREFETCH = 300
PROBE_INTERVAL = 0.5
INTENT_POLL = 1.0
RECONCILE_INTERVAL = 2.0
TOUCH_INTERVAL = 3.0


class Reign:
    """One link and, once elected, one core. Any doubt ends it; the next one reads the database."""

    def __init__(self, dispatcher: Dispatcher, link: Link) -> None:
        self.dispatcher = dispatcher
        self.world = dispatcher.world
        self.link = link
        self.core: Core | None = None
        self.epoch = 0
        self._over = False
        self._elected = False
        self._inbox: list[Delivery] = []
        self._effects = Effects()
        self._delivery: Delivery | None = None
        self._dirty = False
        self._flushing = False
        self._timer: Timer | None = None
        self._timer_at: float | None = None
        self._reading_intents = False
        self._intents_wanted = False
        link.on_closed = self.end

    # -- election ------------------------------------------------------------------------------

    def begin(self) -> None:
        self.link.declare(topology.event_queue(), self._check)
        self.link.consume(topology.EVENTS, self._on_delivery, PREFETCH, self._check)
        self._probe()

    def _probe(self) -> None:
        if not self._elected and not self._over:
            probe = wire.Probe(dispatcher=self.dispatcher.name)
            out = Out(
                topology.EVENTS,
                topology.PROBE_KEY,
                probe,
                expiration=2 * PROBE_INTERVAL,
            )
            self.link.publish(out, lambda _: None)
            self.dispatcher.process.after(PROBE_INTERVAL, self._probe)

    def _on_delivery(self, delivery: Delivery) -> None:
        if self._over:
            return
        if self.core is not None:
            self._take(delivery)
            return
        self._inbox.append(delivery)
        if not self._elected:
            self._elected = True
            self.world.step("election", self.dispatcher.name)
            self._ask_database(self.world.database.begin_reign, self._begun)

    def _begun(self, epoch: int) -> None:
        self.epoch = epoch
        self.world.step("epoch", self.dispatcher.name, epoch)
        self._ask_database(self.world.database.load, self._loaded)

    def _loaded(self, snapshot: Snapshot) -> None:
        world = self.world
        self.core = Core(snapshot, reign=self.epoch, rules=world.rules, now=world.instant())
        world.step("load", self.dispatcher.name, self.epoch)
        queues = {task.queue for dag in snapshot.dags for task in dag.spec.tasks}
        for queue in sorted(queues):
            self.link.declare(topology.task_queue(queue), self._check)
        effects = self.core.begin(world.instant())
        world.oracle.reign_begins(snapshot, effects)
        self._add(effects)
        inbox, self._inbox = self._inbox, []
        for delivery in inbox:
            self._take(delivery)
        process = self.dispatcher.process
        self._read_intents()
        process.after(RECONCILE_INTERVAL, self._reconcile)
        process.after(TOUCH_INTERVAL, self._touch)

    # -- the core's events ---------------------------------------------------------------------

    def _take(self, delivery: Delivery) -> None:
        if self._over or self.core is None:
            return
        message = delivery.message.body
        step = _READ.get(type(message))
        if step is not None:
            self.world.step(step, self.dispatcher.name, message)
        if isinstance(message, wire.Wake):
            self._read_intents()
        self._add(self.core.receive(message, self.world.instant()), delivery)

    def _tick(self) -> None:
        self._timer = None
        if not self._over and self.core is not None:
            self._add(self.core.tick(self.world.instant()))

    def _touch(self) -> None:
        if not self._over and self.core is not None:
            effects = self.core.touch()
            effects.writes.append(TouchLeader(at=self.world.instant().wall))
            self._add(effects)
            self.dispatcher.process.after(TOUCH_INTERVAL, self._touch)

    def _reconcile(self) -> None:
        """Look at one queue after the other, then wait."""
        if self._over or self.core is None:
            return
        queues = self.core.waiting_queues()

        def look() -> None:
            if self._over:
                return
            if not queues:
                self.dispatcher.process.after(RECONCILE_INTERVAL, self._reconcile)
                return
            queue = queues.pop(0)
            name = topology.task_queue(queue).name
            self.link.ready_count(name, partial(seen, queue))

        def seen(queue: str, ready: int | TransportError | None) -> None:
            if self._over or self.core is None:
                return
            if isinstance(ready, TransportError):
                self.end(str(ready))
                return
            if ready is None:
                self.link.declare(topology.task_queue(queue), self._check)
            effects = self.core.queue_observed(queue, ready or 0)
            if effects.publications:
                self.world.step("reconcile publish", self.dispatcher.name, queue)
            self._add(effects)
            look()

        look()

    # -- commands ------------------------------------------------------------------------------

    def _read_intents(self) -> None:
        """A wake-up message, or the poll that makes up for a lost one."""
        if self._over or self.core is None:
            return
        if self._reading_intents:
            self._intents_wanted = True
            return
        self._reading_intents, self._intents_wanted = True, False
        self._ask_database(self.world.database.pending_intents, self._load_runs)

    def _load_runs(self, intents: list[Intent]) -> None:
        assert self.core is not None
        wanted = sorted(self.core.wanted_runs(intents).items())
        loaded: dict[int, LoadedRun | None] = {}

        def load_next() -> None:
            if not wanted:
                self._carry_out(intents, loaded)
                return
            pk, (dag_id, run_id) = wanted.pop(0)

            def got(run: LoadedRun | None) -> None:
                loaded[pk] = run
                load_next()

            self._ask_database(lambda: self.world.database.load_run(dag_id, run_id), got)

        load_next()

    def _carry_out(self, intents: list[Intent], loaded: dict[int, LoadedRun | None]) -> None:
        assert self.core is not None
        if intents:
            self.world.step("intents read", self.dispatcher.name, len(intents))
            self._add(self.core.request(intents, self.world.instant(), loaded))
        self._reading_intents = False
        if self._intents_wanted:
            self._read_intents()
        else:
            self.dispatcher.process.after(INTENT_POLL, self._read_intents)

    # -- flushing ------------------------------------------------------------------------------

    def _add(self, effects: Effects, delivery: Delivery | None = None) -> None:
        self._effects.absorb(effects)
        self._delivery = delivery or self._delivery
        self._dirty = True
        if not self._flushing:
            self._flush()
        self._set_timer()

    def _set_timer(self) -> None:
        if self.core is None or self._over:
            return
        at = self.core.next_wakeup()
        if at == self._timer_at and self._timer is not None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = None, at
        if at is not None:
            self._timer = self.dispatcher.process.at(self.world.from_mono(at), self._tick)

    def _flush(self) -> None:
        while self._dirty and not self._over:
            self._dirty = False
            effects, self._effects = self._effects, Effects()
            delivery, self._delivery = self._delivery, None
            if not effects.writes:
                self._flushed(effects, delivery)
                continue
            self._flushing = True
            self.world.step("commit sent", self.dispatcher.name, len(effects.writes))
            commit = partial(self.world.commit, self.epoch, effects.writes)
            self._ask_database(commit, partial(self._committed, effects, delivery))
            return

    def _committed(self, effects: Effects, delivery: Delivery | None, _: None) -> None:
        self.world.step("commit done", self.dispatcher.name)
        self._flushing = False
        self._flushed(effects, delivery)
        self._flush()

    def _flushed(self, effects: Effects, delivery: Delivery | None) -> None:
        if delivery is not None:
            delivery.ack(multiple=True)
            self.world.step("ack", self.dispatcher.name)
        for note in effects.notes:
            self.world.note("note", self.dispatcher.name, note)
        for agent, reply in effects.replies:
            self._reply(agent, reply)
        for task in effects.publications:
            self._publish_task(task)
        for number in effects.markers:
            marker = wire.Marker(reign=self.epoch, number=number)
            self.link.publish(Out(topology.EVENTS, topology.MARKER_KEY, marker), lambda _: None)
            self.world.step("pulse sent", self.dispatcher.name, number)
        for lookup in effects.lookups:
            self._answer_later(lookup)

    def _reply(self, agent: str, reply: wire.Reply) -> None:
        self.world.note("reply", self.dispatcher.name, (agent, reply))
        self.link.publish(Out(topology.CONTROL, topology.agent_key(agent), reply), lambda _: None)

    def _publish_task(self, task: wire.Task) -> None:
        def done(error: TransportError | None) -> None:
            if isinstance(error, Unroutable) and not self._over:
                self.link.declare(topology.task_queue(task.queue), declared)

        def declared(answer: TransportError | None) -> None:
            if answer is None:
                self._publish_task(task)

        self.link.publish(Out(topology.TASKS, task.queue, task), done)
        self.world.step("task published", self.dispatcher.name, task.task_instance_id)

    def _answer_later(self, lookup: Lookup) -> None:
        def found(values: Any) -> None:
            answer = wire.Answer(session=lookup.session, request=lookup.request, values=values)
            self._reply(lookup.agent, answer)

        self._ask_database(lambda: tuple(() for _ in lookup.wanted), found)

    # -- doubts --------------------------------------------------------------------------------

    def _ask_database(self, call: Callable[[], Any], done: Callable[[Any], None]) -> None:
        def answered(answer: Any) -> None:
            if self._over:
                return
            if isinstance(answer, StoreError):
                self.end(str(answer))
            else:
                done(answer)

        self.world.ask_database(self.dispatcher.process, call, answered)

    def _check(self, answer: Any) -> None:
        if isinstance(answer, TransportError):
            self.end(str(answer))

    def end(self, reason: str) -> None:
        """Nothing of this reign counts any more."""
        if self._over:
            return
        self._over = True
        self.core = None
        self.world.note("reign ends", self.dispatcher.name, reason)
        if self._timer is not None:
            self._timer.cancel()
        self.link.close()
        self.dispatcher.reign_ended()


class Dispatcher:
    """One process at a time, restarted by somebody when it ends."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.host = Host(world.schedule, world.rng, world.broker)
        self.process = Process(world.schedule, world.rng)
        self.reign: Reign | None = None
        self._attempts = 0

    @property
    def leads(self) -> bool:
        """Whether it believes so."""
        return self.reign is not None and self.reign.core is not None

    def start(self) -> None:
        """A new process."""
        self.process = Process(self.world.schedule, self.world.rng)
        self._attempts = 0
        self.process.receive(self._connect)

    def _connect(self) -> None:
        self.host.connect(f"dispatcher {self.name}", self.process, self._connected)

    def _connected(self, link: Link | TransportError) -> None:
        if isinstance(link, TransportError):
            self.reign_ended()
            return
        self.reign = Reign(self, link)
        self.reign.begin()

    def reign_ended(self) -> None:
        """Pause, then begin anew."""
        self.reign = None
        self._attempts = min(self._attempts + 1, 4)
        pause = self.world.rng.uniform(0.02, 0.02 * 2.0**self._attempts)
        self.process.after(pause, self._connect)

    def kill(self, restart_after: float) -> bool:
        """``kill -9``; whether there was a process."""
        if not self.process.alive:
            return False
        process, self.reign = self.process, None
        process.kill()
        self.host.speak()
        self.host.abandon()
        self.world.schedule.after(restart_after, self.start)
        process.unwind()
        return True


_READ: dict[type, str] = {
    wire.Hello: "hello read",
    wire.Claim: "claim read",
    wire.Heartbeat: "heartbeat read",
    wire.Finished: "finished read",
    wire.Release: "release read",
    wire.Goodbye: "goodbye read",
    wire.Marker: "pulse returned",
}
