"""Faults of one thing, and how each is carried out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from flow import topology, wire
from tests.sim.node import Node

if TYPE_CHECKING:
    from tests.sim.dispatcher import Dispatcher
    from tests.sim.link import Link
    from tests.sim.world import World


@dataclass(frozen=True, slots=True)
class Fault:
    """One entry of a plan: at a moment, or right after the *nth* time that a *step* happened."""

    kind: str
    duration: float
    """Seconds until it is healed, where it lasts."""
    choice: int
    """Settles what the kind leaves open."""
    at: float = 0.0
    step: str = ""
    nth: int = 1

    def __str__(self) -> str:
        when = f"after {self.step!r} no. {self.nth}" if self.step else f"at {self.at:.2f}"
        return f"{self.kind} {when} for {self.duration:.2f} s, choice {self.choice}"


def node_of(world: World, fault: Fault, who: str) -> Node:
    """The machine of the agent that the step was of, mostly; one with an agent that runs."""
    named = [node for node in world.nodes if node.name == who and node.agent is not None]
    if named and fault.choice % 5:
        return named[-1]
    running = [node for node in world.nodes if node.agent is not None]
    return (running or world.nodes)[fault.choice % len(running or world.nodes)]


def _dispatcher(world: World, fault: Fault, who: str) -> Dispatcher:
    named = [dispatcher for dispatcher in world.dispatchers if dispatcher.name == who]
    if named:
        return named[0]
    return world.leader if fault.choice % 5 else world.dispatchers[fault.choice % 2]


# -- agents and machines -----------------------------------------------------------------------


def agent_kill(world: World, fault: Fault, who: str) -> bool:
    node = node_of(world, fault, who)
    delay = fault.duration if fault.choice % 3 == 0 else 0.1
    world.heal_after(delay, _nothing)
    return node.kill_agent(delay)


def agent_pause(world: World, fault: Fault, who: str) -> bool:
    duration, pace = fault.duration, world.pace
    if fault.choice % 2:  # often for longer than a takeover takes
        duration = pace.lease + pace.grace + 1.0 + fault.choice % 5
    return stop_agent(world, node_of(world, fault, who), duration)


def stop_agent(world: World, node: Node, duration: float) -> bool:
    """SIGSTOP, and SIGCONT after *duration* seconds."""
    agent = node.agent
    if agent is None or agent.process.paused:
        return False
    agent.process.pause()
    node.host.fall_silent()
    world.oracle.disturbed(node.name, duration)

    def resume() -> None:
        node.host.speak()
        agent.process.resume()

    world.heal_after(duration, resume)
    return True


def agent_drain(world: World, fault: Fault, who: str) -> bool:
    node = node_of(world, fault, who)
    agent = node.agent
    if agent is None:
        return False
    world.oracle.died()
    for number in range(1 + (fault.choice % 7 == 0) + (fault.choice % 13 == 0)):
        world.schedule.after(0.3 * number, agent.interrupt)
    world.step("drain begun", node.name)
    return True


def keeper_kill(world: World, fault: Fault, who: str) -> bool:
    return node_of(world, fault, who).kill_keeper()


def node_crash(world: World, fault: Fault, who: str) -> bool:
    node = node_of(world, fault, who)
    if not node.up:
        return False
    world.heal_after(fault.duration, node.power_on)
    node.power_off()
    return True


def disk_full(world: World, fault: Fault, who: str) -> bool:
    disk = node_of(world, fault, who).disk
    if disk.full:
        return False
    disk.full = True
    world.heal_after(fault.duration, partial(setattr, disk, "full", False))
    return True


def impostor(world: World, fault: Fault, who: str) -> bool:
    """Another machine starts an agent of the same name, for a while."""
    return usurp(world, node_of(world, fault, who), fault)


def usurp(world: World, original: Node, fault: Fault) -> bool:
    """Have an agent of the name of *original* on another machine."""
    if len(world.nodes) > len({node.name for node in world.nodes}):
        return False
    node = Node(world, original.name, original.queues, home=f"{original.home}-impostor")
    # Often the very session that the original is in.
    node.disk.session = max(0, original.disk.session - fault.choice % 3)
    world.nodes.append(node)
    node.start_agent()

    def leave() -> None:
        node.wanted = False
        if node.agent is not None:
            node.agent.interrupt()
        # It never comes back: what waits for that needs somebody's word.
        bury(world, node)

    world.heal_after(fault.duration, leave)
    return True


def bury(world: World, node: Node) -> None:
    """Somebody looks after the name of a machine that never comes back, and vouches for it while
    its agent holds the name: at first that may still count as online, which refuses the command."""
    silence = world.pace.lease + world.pace.grace + 3.0

    def look() -> None:
        row = world.database.rows.agents.get(node.name)
        if row is not None and row.home_id == node.home:
            vouch(world, node.name)

    for number in range(1, 6):
        world.schedule.after(number * silence, look)


def vouch(world: World, name: str) -> None:
    """Somebody looks at all machines that use *name*, finds nothing running, and says so."""
    if not any(node.processes for node in world.nodes if node.name == name):
        world.ask("declare_dead", agent=name)


def declare_dead(world: World, fault: Fault, who: str) -> bool:
    """A machine is switched off, and somebody who has seen it says so."""
    node = node_of(world, fault, who)
    if not node.up:
        return False
    silence = 3 * world.pace.heartbeat + 0.5
    world.schedule.after(silence, partial(vouch, world, node.name))
    world.heal_after(silence + fault.duration, node.power_on)
    node.power_off()
    return True


# -- the network -------------------------------------------------------------------------------


def link_cut(world: World, fault: Fault, who: str) -> bool:
    first = node_of(world, fault, who)
    for node in (first, *world.nodes):
        if node.host.cut(broker_side=fault.choice % 2 == 0):
            world.oracle.disturbed(node.name, 0.0)
            return True
    return False


def partition(world: World, fault: Fault, who: str) -> bool:
    one_way = fault.choice % 4
    node = node_of(world, fault, who)
    return cut_off(world, node, fault.duration, up=one_way != 1, down=one_way != 2)


def cut_off(
    world: World, node: Node, duration: float, *, up: bool = True, down: bool = True
) -> bool:
    """Let nothing pass between a machine and the broker for *duration* seconds."""
    if node.host.up_held or node.host.down_held or not node.up:
        return False
    world.oracle.disturbed(node.name, duration)
    node.host.partition(up=up, down=down)
    world.heal_after(duration, node.host.heal)
    return True


def slow_link(world: World, fault: Fault, who: str) -> bool:
    host = node_of(world, fault, who).host
    if host.slowness:
        return False
    host.slowness = 0.5
    world.heal_after(fault.duration, partial(setattr, host, "slowness", 0.0))
    return True


def deaf_consumer(world: World, fault: Fault, who: str) -> bool:
    """A consumer is forgotten; a self-check finds it unless somebody else consumes its queue."""
    hosts = [node_of(world, fault, who).host, *(node.host for node in world.nodes)]
    if fault.choice % 4 == 0:
        hosts.insert(0, _dispatcher(world, fault, who).host)
    names = sorted(name for name, queue in world.broker.queues.items() if queue.consumers)
    for link in (link for host in hosts for link in host.links):
        for name in names:
            if link.deafen(name):
                world.heal_after(1.0, partial(_self_check, world, link, name))
                return True
    return False


def _self_check(world: World, link: Link, name: str) -> None:
    queue = world.broker.queues.get(name)
    if queue is not None and not queue.consumers:
        link.receive(partial(link.close, "broker has no consumer any more"))


# -- dispatchers -------------------------------------------------------------------------------


def dispatcher_kill(world: World, fault: Fault, who: str) -> bool:
    dispatcher = _dispatcher(world, fault, who)
    if not dispatcher.process.alive:
        return False
    world.heal_after(fault.duration, _nothing)
    return dispatcher.kill(fault.duration)


def dispatcher_pause(world: World, fault: Fault, who: str) -> bool:
    if fault.choice % 3 == 0:
        return _pause_when_full(world)
    return stop_dispatcher(world, _dispatcher(world, fault, who), fault.duration)


def _pause_when_full(world: World) -> bool:
    """The leader is stopped when an agent claims what it has no room for; when it goes on, room
    has been made, and the claim repeated: it reads the claim, the end of a task, the claim."""

    def watch(_: str, claim: object) -> bool:
        if not isinstance(claim, wire.Claim) or claim.free_slots:
            return False
        stop_dispatcher(world, world.leader, world.rng.uniform(0.4, 1.6))
        return True

    world.upon("claim sent", watch, patience=8.0)
    return True


def stop_dispatcher(world: World, dispatcher: Dispatcher, duration: float) -> bool:
    """SIGSTOP, and SIGCONT after *duration* seconds."""
    process = dispatcher.process
    if process.paused or not process.alive:
        return False
    process.pause()
    dispatcher.host.fall_silent()

    def resume() -> None:
        if process is dispatcher.process:
            dispatcher.host.speak()
        process.resume()

    world.heal_after(duration, resume)
    return True


def dispatcher_cut(world: World, fault: Fault, who: str) -> bool:
    return _dispatcher(world, fault, who).host.cut(broker_side=fault.choice % 2 == 0)


def dispatcher_partition(world: World, fault: Fault, who: str) -> bool:
    host = _dispatcher(world, fault, who).host
    if host.up_held or host.down_held:
        return False
    one_way = fault.choice % 4
    host.partition(up=one_way != 1, down=one_way != 2)
    world.heal_after(fault.duration, host.heal)
    return True


# -- the broker --------------------------------------------------------------------------------


def broker_restart(world: World, fault: Fault, _: str, *, wipe: bool = False) -> bool:
    if world.broker.down:
        return False
    world.broker.stop(wipe=wipe, keep=lambda: world.rng.randrange(3))
    world.oracle.disturbed("", fault.duration)
    world.heal_after(fault.duration, world.broker.start)
    return True


def broker_wiped(world: World, fault: Fault, who: str) -> bool:
    return broker_restart(world, fault, who, wipe=True)


def alarm(world: World, fault: Fault, _: str) -> bool:
    return block(world, fault.duration)


def block(world: World, duration: float) -> bool:
    """Have the broker take nothing from publishers for *duration* seconds."""
    if world.broker.alarmed or world.broker.down:
        return False
    world.broker.raise_alarm()
    world.oracle.alarmed(duration)
    world.heal_after(duration, lambda: world.broker.end_alarm(world.rng.shuffle))
    return True


def queue_deleted(world: World, fault: Fault, _: str) -> bool:
    names = sorted(world.broker.queues)
    if not names:
        return False
    name = topology.EVENTS if fault.choice % 4 == 0 else names[fault.choice % len(names)]
    if name not in world.broker.queues:
        return False
    # Where it was the events queue, hellos and heartbeats come back until it is there again.
    world.oracle.disturbed("", 1.0)
    world.broker.delete(name)
    return True


def tamper_with(what: str) -> Callable[[World, Fault, str], bool]:
    def carry_out(world: World, fault: Fault, _: str) -> bool:
        world.tampering.want(what, fault.duration)
        return True

    return carry_out


# -- the database and the clock ----------------------------------------------------------------


def database_away(world: World, fault: Fault, _: str) -> bool:
    if world.database_away:
        return False
    world.database_away = True
    world.heal_after(fault.duration, partial(setattr, world, "database_away", False))
    return True


def commit_comes(outcome: str) -> Callable[[World, Fault, str], bool]:
    def carry_out(world: World, _: Fault, __: str) -> bool:
        world.commit_outcome = outcome
        return True

    return carry_out


def clock_jump(world: World, fault: Fault, _: str) -> bool:
    """The dispatchers' wall clock is wrong for a while."""
    if world.wall_offset:
        return False
    world.wall_offset = -7.0 if fault.choice % 2 else 5.0
    world.heal_after(fault.duration, partial(setattr, world, "wall_offset", 0.0))
    return True


def _nothing() -> None:
    """It heals by itself."""
