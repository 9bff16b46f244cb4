"""Thousands of tasks while three faults at a time hit everything, by a seeded schedule."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass, field

from agent import processes
from tests.acceptance.system import Daemon
from tests.chaos.nodes import Node
from tests.chaos.proxies import ProxyThread
from tests.chaos.scenario import Outcome, Scenario
from tests.chaos.workload import short_tasks
from tests.chaos.world import Chaos

NAMES = ("node1", "node2", "node3")
SLOTS = 4
#: Tasks of a run.
BATCH = 50
#: Of the longest fault: beyond any lease.
BEYOND = 1.3

Heal = Callable[[], None]


@dataclass(slots=True)
class Soak:
    """The system under load, and what can be done to it. Every fault returns how it is healed."""

    chaos: Chaos
    nodes: list[Node] = field(default_factory=list)
    links: dict[str, ProxyThread] = field(default_factory=dict)
    dispatchers: list[Daemon] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    lost_leases: int = 0
    """At most so many times an agent has lost its lease."""
    rounds: int = 0

    def start(self) -> None:
        """Two dispatchers, three agents, each behind a proxy of its own."""
        chaos = self.chaos
        self.dispatchers = [chaos.start_dispatcher(ready=number == 0) for number in range(2)]
        for name in NAMES:
            link = self.links[name] = chaos.proxy(chaos.broker.url)
            environment = {"FLOW_BROKER_URL": link.url}
            self.nodes.append(
                chaos.start_agent(name, "q1", "q2", slots=SLOTS, environment=environment)
            )
        seconds = chaos.scale.outage(2.0, 1.0)
        chaos.write_ledger_dag("soak", short_tasks(BATCH, "q1", "q2", seconds=seconds))

    # -- faults --------------------------------------------------------------------------------

    def kill_agent(self) -> Heal:
        self._any_node().kill()  # its supervisor heals that
        self.lost_leases += 1
        return _nothing

    def stop_agent(self) -> Heal:
        process = self._any_node().daemon.process
        process.send_signal(signal.SIGSTOP)
        self.lost_leases += 1
        return lambda: process.send_signal(signal.SIGCONT)

    def kill_keeper(self) -> Heal:
        keeper = self._any_node().keeper
        if keeper is not None:
            processes.send_signal(keeper, signal.SIGKILL)
            self.lost_leases += 1
        return _nothing

    def partition(self) -> Heal:
        link = self.links[self._any_node().name]
        link.hold()
        self.lost_leases += 1
        return link.release

    def cut_links(self) -> Heal:
        for link in self.links.values():
            link.cut()
        return _nothing

    def kill_dispatcher(self) -> Heal:
        victim = self.dispatchers.pop(self.chaos.chance.randrange(2))
        victim.kill()
        self.dispatchers.append(self.chaos.start_dispatcher(ready=False))
        return _nothing

    def stop_dispatcher(self) -> Heal:
        process = self.chaos.chance.choice(self.dispatchers).process
        process.send_signal(signal.SIGSTOP)
        return lambda: process.send_signal(signal.SIGCONT)

    def end_sessions(self) -> Heal:
        self.chaos.postgres.terminate_backends()
        return _nothing

    def crash_postgres(self) -> Heal:
        self.chaos.postgres.stop()
        return self.chaos.postgres.start

    def crash_broker(self) -> Heal:
        self.chaos.broker.kill()
        # It takes longer to come back than the scaled lease lasts.
        self.lost_leases += len(NAMES)
        return self.chaos.broker.start

    def _any_node(self) -> Node:
        return self.chaos.chance.choice(self.nodes)

    # -- the schedule --------------------------------------------------------------------------

    def round(self) -> None:
        """Three different faults at a time, healed one after the other."""
        faults = [
            self.kill_agent,
            self.stop_agent,
            self.kill_keeper,
            self.partition,
            self.cut_links,
            self.kill_dispatcher,
            self.stop_dispatcher,
            self.end_sessions,
            self.crash_postgres,
            self.crash_broker,
        ]
        chance = self.chaos.chance
        chosen = chance.sample(faults, 3)
        # Through a database that is away no other fault of it can be injected.
        chosen.sort(key=lambda fault: fault == self.crash_postgres)
        print(f"      round {self.rounds}: {', '.join(fault.__name__ for fault in chosen)}")
        heals = [fault() for fault in chosen]
        chance.shuffle(heals)
        longest = BEYOND * self.chaos.scale.leases.takeover
        for heal in heals:
            self.chaos.lasts(chance.uniform(0.0, longest / 2), lambda: True, "it lasts")
            heal()
        self.rounds += 1
        self.healthy()

    def healthy(self) -> None:
        """Wait until tasks end again, and none is left that two deaths have hit: a third would be
        poison by rule."""
        within = 4 * self.chaos.scale.leases.takeover + 60.0
        before = self._finished()
        self.chaos.until(
            lambda: self._finished() > before or not self.chaos.unfinished(),
            "tasks end again",
            within,
        )
        self.chaos.until(
            lambda: (
                not self.chaos.postgres.query(
                    "SELECT 1 FROM task_instance WHERE deaths >= 2"
                    " AND state IN ('scheduled', 'queued', 'running')"
                )
            ),
            "tasks that have died twice end",
            within,
        )

    def _finished(self) -> int:
        found = self.chaos.postgres.value(
            "SELECT count(*) FROM task_instance WHERE state = 'success'"
        )
        return int(found)


def _nothing() -> None:
    """It heals by itself."""


def soak(chaos: Chaos) -> Outcome:
    world = Soak(chaos)
    world.start()
    batches = chaos.scale.count(10_000, 600) // BATCH
    rounds = chaos.scale.count(24, 6)
    chaos.fault()
    while world.rounds < rounds:
        due = batches * (world.rounds + 1) // rounds
        while len(world.runs) < due:
            world.runs.append(chaos.trigger("soak"))
        world.round()
    chaos.healed()
    chaos.wait_terminal(*world.runs, within=600.0)
    chaos.wait_outbox()
    return Outcome(
        detail=f"{batches * BATCH} tasks, {rounds} rounds, {world.lost_leases} leases at stake",
        reruns_allowed=world.lost_leases * SLOTS,
    )


SCENARIOS = (
    Scenario(
        name="soak",
        fault="a seeded schedule of three faults at a time, over three agents",
        expected="all invariants",
        run=soak,
        own_services=True,
        waits=True,
    ),
)
