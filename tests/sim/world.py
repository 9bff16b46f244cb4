"""One simulated world: broker, database, dispatchers, machines, faults, and who watches them."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from random import Random
from typing import Any

from dispatcher.core.records import Intent, Write
from dispatcher.core.state import Instant, Rules
from flow import topology, wire
from flow.errors import StoreError
from tests.sim import kinds
from tests.sim.broker import ModelBroker
from tests.sim.database import ModelDatabase
from tests.sim.dispatcher import Dispatcher
from tests.sim.faults import Fault
from tests.sim.ledger import Ledger, Violation
from tests.sim.messages import Out
from tests.sim.node import Node
from tests.sim.oracle import Oracle
from tests.sim.plan import DELIVERED, LASTING, RELEASES
from tests.sim.process import Process
from tests.sim.schedule import Schedule
from tests.sim.tampering import Tampering
from tests.sim.workload import START, Workload

#: Asked about a step: of whom it was, and its detail.
Watch = Callable[[str, object], bool]
#: Seconds until everything must be at rest once the last fault is healed: a takeover (lease, grace
#: and a pulse), then what is left of the work, some of it a second and third time.
BOUND = 60.0
#: What a monotonic clock shows at virtual time 0.
MONO = 1000.0
#: The latest moment at which a fault of the plan may still begin.
HORIZON = 30.0
LOOK_INTERVAL = 0.25
MOST_EVENTS = 200_000


@dataclass(frozen=True, slots=True)
class Pace:
    """The lease's settings, in seconds. AMQP's heartbeat is 1 s, a sixth of the lease."""

    heartbeat: float
    lease: float
    margin: float
    grace: float


#: Half and all of the default's heartbeats per lease; the proportions to each other are its.
PACES = (Pace(1.0, 6.0, 1.0, 3.0), Pace(1.0, 6.0, 1.0, 3.0), Pace(0.5, 6.0, 0.5, 1.5))


class World:
    """``run`` plays *plan* under *seed* and raises :class:`Violation`. With *history*, each step is
    kept there."""

    def __init__(
        self, seed: int, plan: Sequence[Fault], *, history: list[str] | None = None
    ) -> None:
        self.seed = seed
        self.history = history
        self.rng = Random(f"world {seed}")
        self.schedule = Schedule()
        self.pace = self.rng.choice(PACES)
        self.rules = Rules(
            lookahead=1,
            grace=self.pace.grace,
            heartbeat_interval=self.pace.heartbeat,
            lost_after=3 * self.pace.heartbeat,
            release_backoff=0.5,
        )
        self.broker = ModelBroker(self.schedule, proof_interval=self.rng.choice((0.5, 1.0)))
        self.tampering = Tampering(self)
        self.broker.tamper = self.tampering.look
        self.gpus: tuple[str, ...] = self.rng.choice((("0",), ("0", "1")))
        self.gpu_share = self.rng.choice((1, 1, 2))
        self.database = ModelDatabase()
        self.database_away = False
        self.commit_outcome = ""
        """How the next commit comes out, if not well: applied, lost or late."""
        self.ledger = Ledger()
        self.oracle = Oracle(self)
        self.claim_interval = self.rng.choice((0.15, 0.7, 0.7))
        steps = {fault.step for fault in plan}
        self.workload = Workload(
            self.rng,
            releases=bool(steps & RELEASES),
            lasting=bool(steps & LASTING) or any(fault.kind == "agent pause" for fault in plan),
            waiting=any(fault.kind == "exile" for fault in plan),
        )
        self.database.add_dags(self.workload.specs, self.workload.bundle)
        self.steps: Counter[str] = Counter()
        self.reached: Counter[tuple[str, str]] = Counter()
        """(fault, step): how often the one was put right after the other."""
        self.faults_done: Counter[str] = Counter()
        self.disturbances = 0
        """Faults that are not healed yet."""
        self.wall_offset = 0.0
        self.untold = 0.95 if steps & DELIVERED else 0.15
        """How likely an agent is of a release that cannot be told what people want of it, and
        that is handed no tasks."""
        self.nodes = [
            Node(self, "a1", ("q1",), home="m1"),
            Node(self, "a2", ("q1", "q2"), home="m2"),
            Node(self, "a3", ("q2",), home="m3"),
        ]
        if self.rng.random() < 0.3:
            self.nodes = [Node(self, name, ("q1", "q2"), home=f"m{name}") for name in ("a1", "a2")]
        self.dispatchers = [Dispatcher(self, "d1"), Dispatcher(self, "d2")]
        self._asking: deque[tuple[str, dict[str, Any]]] = deque()
        self._intents = 0
        self._runs = 0
        self._changed = 0.0
        """When the last fault was put in or healed."""
        self._at_rest = False
        self._triggers: dict[str, list[list[Any]]] = {}
        self._timed = 0
        self._watches: dict[str, list[Watch]] = {}
        for fault in plan:
            self._plan(fault)

    # -- time ----------------------------------------------------------------------------------

    def instant(self) -> Instant:
        """What a dispatcher's clocks show."""
        now = self.schedule.now
        return Instant(START + timedelta(seconds=now + self.wall_offset), MONO + now)

    def from_mono(self, mono: float) -> float:
        """When a monotonic clock shows *mono*; a moment later, so that it surely does."""
        return mono - MONO + 1e-6

    def true_wall(self, now: float) -> float:
        """Seconds since the epoch."""
        return START.timestamp() + now

    # -- what is seen --------------------------------------------------------------------------

    def step(self, name: str, who: str, detail: object = None) -> None:
        """The protocol has come to a step: a fault may be planned for right after it."""
        self.steps[name] += 1
        if self.history is not None:
            self.note(name, who, detail)
        waiting = self._triggers.get(name)
        if waiting:
            for entry in list(waiting):
                entry[0] -= 1
                if entry[0] <= 0:
                    waiting.remove(entry)
                    self._strike(entry[1], who, name)
        for watch in tuple(self._watches.get(name, ())):
            if watch(who, detail):
                self._unwatch(name, watch)

    def upon(self, step: str, watch: Watch, *, patience: float) -> None:
        """A fault waits for a step, for *patience* seconds at most: *watch* is asked whenever it
        happens, of whom and with which detail, and says whether that was the one."""
        self._watches.setdefault(step, []).append(watch)
        self.disturbances += 1
        self.schedule.after(patience, partial(self._unwatch, step, watch))

    def _unwatch(self, step: str, watch: Watch) -> None:
        if watch in self._watches[step]:
            self._watches[step].remove(watch)
            self.healed()

    def note(self, name: str, who: str, detail: object = None) -> None:
        """Something for the history."""
        if self.history is not None:
            shown = "" if detail is None else f" {detail}"
            self.history.append(f"{self.schedule.now:9.4f} {who:4} {name}{shown}")

    # -- faults --------------------------------------------------------------------------------

    def _plan(self, fault: Fault) -> None:
        if fault.step:
            self._triggers.setdefault(fault.step, []).append([fault.nth, fault])
        else:
            self._timed += 1
            self.schedule.at(fault.at, partial(self._timed_strike, fault))

    def _timed_strike(self, fault: Fault) -> None:
        self._timed -= 1
        self._strike(fault, "", "")

    def _strike(self, fault: Fault, who: str, step: str) -> None:
        if self.schedule.now > HORIZON:
            return
        self.disturbances += 1
        if fault.kind in kinds.AT_ONCE:
            self._inject(fault, who, step)
        else:
            self.schedule.after(0.0, partial(self._inject, fault, who, step))

    def _inject(self, fault: Fault, who: str, step: str) -> None:
        try:
            self.note("FAULT", who, fault)
            if kinds.KINDS[fault.kind](self, fault, who):
                self._count(fault, step)
        except Exception:
            self._count(fault, step)  # it has killed who led here
            raise
        finally:
            self.healed()

    def _count(self, fault: Fault, step: str) -> None:
        self.faults_done[fault.kind] += 1
        self.reached[fault.kind, step] += 1

    def heal_after(self, delay: float, call: Callable[[], object]) -> None:
        """A fault lasts until *call* ends it in *delay* seconds."""
        self.disturbances += 1

        def heal() -> None:
            self.note("healed", "", getattr(call, "__name__", call))
            call()
            self.healed()

        self.schedule.after(delay, heal)

    def healed(self) -> None:
        """One fault less."""
        self.disturbances -= 1
        self._changed = self.schedule.now

    @property
    def leader(self) -> Dispatcher:
        """Who leads, or at least lives."""
        for dispatcher in self.dispatchers:
            if dispatcher.leads:
                return dispatcher
        return next((d for d in self.dispatchers if d.process.alive), self.dispatchers[0])

    # -- the database --------------------------------------------------------------------------

    def ask_database(
        self, process: Process, call: Callable[[], Any], answered: Callable[[Any], None]
    ) -> None:
        """Have *call* done there; the answer, or the StoreError, reaches *process*."""

        def arrive() -> None:
            answer: Any
            try:
                if self.database_away:
                    raise StoreError("the database is away")
                answer = call()
            except StoreError as error:
                answer = error
            delay = self.rng.uniform(0.0005, 0.01)
            self.schedule.after(delay, partial(process.receive, partial(answered, answer)))

        self.schedule.after(self.rng.uniform(0.0005, 0.01), arrive)

    def commit(self, epoch: int, writes: Sequence[Write]) -> None:
        """One transaction of a dispatcher."""
        outcome, self.commit_outcome = self.commit_outcome, ""
        if outcome == "late":
            self.schedule.after(self.rng.uniform(0.02, 0.6), partial(self._late, epoch, writes))
        elif outcome != "lost":
            self.database.commit(epoch, writes)
        if outcome:
            self.note("commit", "db", f"outcome unknown: {outcome}")
            raise StoreError(f"the connection was lost in COMMIT ({outcome})")

    def _late(self, epoch: int, writes: Sequence[Write]) -> None:
        try:
            self.database.commit(epoch, writes)
        except StoreError as error:
            self.note("commit", "db", f"late, and refused: {error}")

    # -- people --------------------------------------------------------------------------------

    def trigger(self, dag_id: str) -> None:
        """Somebody wants a run."""
        self._runs += 1
        self.ask("trigger", dag_id=dag_id, run_id=f"r{self._runs}", conf={})

    def ask(self, kind: str, **arguments: Any) -> None:
        """A command writes an intent and rings the bell."""
        self._asking.append((kind, arguments))
        self.disturbances += 1
        self._write_intents()

    def _write_intents(self) -> None:
        if self.database_away:
            self.schedule.after(0.3, self._write_intents)
            return
        while self._asking:
            kind, arguments = self._asking.popleft()
            self._write_intent(kind, arguments)
            self.healed()

    def _write_intent(self, kind: str, arguments: dict[str, Any]) -> None:
        self._intents += 1
        self.database.rows.intents[self._intents] = Intent(
            id=self._intents,
            kind=kind,
            arguments={"actor": "user", **arguments},
            created_at=datetime.fromtimestamp(self.true_wall(self.schedule.now), START.tzinfo),
        )
        self.note("asks", "user", (kind, arguments))
        self.oracle.asked(kind, arguments)
        if not self.broker.down and self.rng.random() < 0.7:
            self.broker.route(Out(topology.EVENTS, topology.WAKE_KEY, wire.Wake()))

    # -- the whole -----------------------------------------------------------------------------

    def run(self) -> None:
        """Until all is at rest."""
        for dispatcher in self.dispatchers:
            self.schedule.after(self.rng.uniform(0.0, 0.3), dispatcher.start)
        for node in self.nodes:
            self.schedule.after(self.rng.uniform(0.0, 0.5), node.start_agent)
        for dag_id in self.workload.triggers:
            self.schedule.after(self.rng.uniform(0.0, 1.5), partial(self.trigger, dag_id))
        if self.workload.wide and self.rng.random() < 0.3:
            self.schedule.after(self.rng.uniform(0.0, 2.0), self._use_gpus_elsewhere)
        if "endless" in self.workload.triggers:
            self.heal_after(self.workload.patience, self._cancel_endless)
        self.schedule.after(1.5, self._look)
        while not self._at_rest:
            if not self.schedule.step():
                raise Violation("I9 healthy within the bound", "nothing happens any more")
            if self.schedule.events > MOST_EVENTS:
                raise Violation("I9 healthy within the bound", "it does not come to rest")
        self.oracle.final()

    def _use_gpus_elsewhere(self) -> None:
        """Another agent of a machine takes a device, of which this one has to hear."""
        node = self.rng.choice(self.nodes)
        gpu = self.rng.choice(self.gpus)
        node.gpus_elsewhere.add(gpu)
        self.heal_after(self.rng.uniform(0.5, 5.0), partial(node.gpus_elsewhere.discard, gpu))

    def cancel_endless_again(self, dag_id: str) -> None:
        """Somebody has cleared a run."""
        if dag_id == "endless":
            self.heal_after(self.workload.patience, self._cancel_endless)

    def _cancel_endless(self) -> None:
        for run in self.database.rows.runs.values():
            if run.dag_id == "endless":
                self.ask("cancel", dag_id=run.dag_id, run_id=run.run_id)
                return
        self.heal_after(1.0, self._cancel_endless)  # it was not even made yet

    def _look(self) -> None:
        quiet = not self.disturbances and not self._timed
        unrest = self.oracle.unrest() if quiet else "faults"
        if not unrest:
            self._at_rest = True
        elif quiet and self.schedule.now > self._changed + BOUND:
            raise Violation("I9 healthy within the bound", unrest)
        else:
            self.schedule.after(LOOK_INTERVAL, self._look)
