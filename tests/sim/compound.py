"""Faults that strike together: what one of them alone leaves to chance, they bring about.

Each of them aims at one rule of the protocol: it makes the very situation that the rule is for.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from flow import topology, wire
from tests.sim.faults import Fault, block, cut_off, node_of, stop_agent, stop_dispatcher, usurp
from tests.sim.messages import Out
from tests.sim.node import Node

if TYPE_CHECKING:
    from tests.sim.world import World

#: Seconds for which a compound fault waits for the step that it needs.
PATIENCE = 4.0


# -- leases ------------------------------------------------------------------------------------


def stall(world: World, fault: Fault, who: str) -> bool:
    """An agent stops right after it has sent a heartbeat, of which the confirm waits for it; it
    goes on shortly before its lease ends, and cannot be heard from then on."""
    node, pace = node_of(world, fault, who), world.pace
    most = pace.lease - pace.margin - pace.heartbeat

    def watch(name: str, _: object) -> bool:
        if name != node.name or node.agent is None:
            return False
        stopped = most * world.rng.uniform(0.6, 0.99)
        if stop_agent(world, node, stopped):
            world.heal_after(stopped, partial(_banish, world, node))
        return True

    world.upon("heartbeat sent", watch, patience=PATIENCE)
    return True


def stall_after_alarm(world: World, fault: Fault, who: str) -> bool:
    """An agent stops while the broker has an alarm, of which a proof waits for it; it goes on
    shortly before its lease ends, long after the alarm, and cannot be heard from then on."""
    node, rng = node_of(world, fault, who), world.rng
    lasts = rng.uniform(2.0, 7.0)
    if not block(world, lasts):
        return False

    def stop() -> None:
        agent = node.agent
        if agent is None or agent.core.deadline is None:
            return
        stopped = node.true_time(agent.core.deadline) - world.schedule.now - rng.uniform(0.02, 0.8)
        if stopped > 0.0 and stop_agent(world, node, stopped):
            world.heal_after(stopped, partial(_banish, world, node))

    world.heal_after(max(0.0, lasts - rng.uniform(0.1, 1.6)), stop)
    return True


def alone_after_alarm(world: World, fault: Fault, who: str) -> bool:
    """The network of one agent fails just as a long alarm ends: it goes on for a lease, and
    nobody hears it. The leader was stopped when a pulse was due, or ends with the alarm."""
    node, pace, rng = node_of(world, fault, who), world.pace, world.rng
    lasts = rng.uniform(3.0, 14.0)
    if not block(world, lasts):
        return False
    if fault.choice % 3 == 1:
        leader = world.leader
        pause = rng.uniform(1.8, 2.9)
        stop = partial(stop_dispatcher, world, leader, pause)
        world.heal_after(rng.uniform(0.0, pace.heartbeat), stop)
    elif fault.choice % 3 == 2:
        world.heal_after(lasts - 0.02, lambda: world.leader.kill(0.3))
    world.heal_after(lasts - 0.01, partial(_banish, world, node))
    return True


def _banish(world: World, node: Node) -> None:
    """Cut *node* off for longer than any lease of its."""
    pace = world.pace
    cut_off(world, node, pace.lease + pace.grace + world.rng.uniform(0.0, 1.0))


# -- what goes on without a lease --------------------------------------------------------------


def exile(world: World, fault: Fault, _: str) -> bool:
    """A machine that runs a task which must wait for it cannot be heard until long after its agent
    was taken over. In the meantime somebody uses its name, perhaps, and old messages of the task
    turn up."""
    pace = world.pace
    taken_over = pace.lease + pace.grace

    def watch(_: str, token: object) -> bool:
        node = next((each for each in world.nodes if token in each.processes), None)
        if node is None or not node.processes[token].keep:  # type: ignore[index]
            return False
        lasts = taken_over + world.rng.uniform(1.0, 5.0)
        if cut_off(world, node, lasts) and fault.choice % 2 and node.agent is not None:
            run = node.agent.core.work.running.get(node.processes[token].token)  # type: ignore[index]
            usurp(world, node, replace(fault, duration=lasts + 1.0))
            for moment in (0.5, 1.2, 2.0, 3.0):
                if run is not None:
                    call = partial(_publish_again, world, run.task)
                    world.heal_after(taken_over + moment, call)
        return True

    world.upon("process started", watch, patience=2 * PATIENCE)
    return True


# -- messages ----------------------------------------------------------------------------------


def amnesia(world: World, _: Fault, __: str) -> bool:
    """No dispatcher is there to read what agents send, and the broker loses it."""
    away = world.rng.uniform(1.0, PATIENCE)
    for dispatcher in world.dispatchers:
        dispatcher.kill(away)

    def wipe() -> None:
        if not world.broker.down:
            down = world.rng.uniform(0.05, 0.5)
            world.broker.stop(wipe=True)
            world.oracle.disturbed("", down)
            world.heal_after(down, world.broker.start)

    def watch(_: str, __: object) -> bool:
        world.heal_after(world.rng.uniform(0.02, 0.2), wipe)
        return True

    world.heal_after(away, _nothing)
    world.upon("finished sent", watch, patience=away)
    return True


def echo(world: World, _: Fault, __: str) -> bool:
    """When a task is over, its message turns up once more, and so does its grant, while the
    dispatcher cannot answer."""
    played: dict[int, tuple[wire.Task, wire.Grant, str]] = {}

    def started(name: str, token: object) -> bool:
        node = next((each for each in world.nodes if token in each.processes), None)
        if node is None or node.agent is None or node.name != name:
            return False
        run = node.agent.core.work.running.get(node.processes[token].token)  # type: ignore[index]
        if run is not None:
            played[run.grant.token] = run.task, run.grant, name
        return False

    def answered(_: str, message: object) -> bool:
        tokens = message.tokens if isinstance(message, wire.Answered) else ()
        found = next((played[token] for token in tokens if token in played), None)
        if found is None:
            return False
        world.heal_after(world.rng.uniform(0.0, 0.05), partial(again, *found))
        return True

    def again(task: wire.Task, grant: wire.Grant, name: str) -> None:
        stop_dispatcher(world, world.leader, 0.4)
        for _ in range(3):
            _publish_again(world, task)
        late = Out(topology.CONTROL, topology.agent_key(name), grant)
        world.heal_after(0.2, lambda: world.broker.down or world.broker.route(late))

    world.upon("process started", started, patience=PATIENCE)
    world.upon("answered", answered, patience=2 * PATIENCE)
    return True


def _publish_again(world: World, task: wire.Task) -> None:
    if not world.broker.down:
        world.broker.route(Out(topology.TASKS, task.queue, task))


def _nothing() -> None:
    """It heals by itself."""
