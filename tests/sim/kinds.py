"""The kinds of faults, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.sim import compound, faults, people
from tests.sim.faults import Fault

if TYPE_CHECKING:
    from tests.sim.world import World

KINDS: dict[str, Callable[[World, Fault, str], bool]] = {
    "agent kill": faults.agent_kill,
    "agent pause": faults.agent_pause,
    "agent drain": faults.agent_drain,
    "keeper kill": faults.keeper_kill,
    "node crash": faults.node_crash,
    "disk full": faults.disk_full,
    "impostor": faults.impostor,
    "declare dead": faults.declare_dead,
    "link cut": faults.link_cut,
    "partition": faults.partition,
    "slow link": faults.slow_link,
    "deaf consumer": faults.deaf_consumer,
    "dispatcher kill": faults.dispatcher_kill,
    "dispatcher pause": faults.dispatcher_pause,
    "dispatcher cut": faults.dispatcher_cut,
    "dispatcher partition": faults.dispatcher_partition,
    "broker restart": faults.broker_restart,
    "broker wiped": faults.broker_wiped,
    "alarm": faults.alarm,
    "queue deleted": faults.queue_deleted,
    "message dropped": faults.tamper_with("dropped"),
    "message duplicated": faults.tamper_with("duplicated"),
    "message late": faults.tamper_with("late"),
    "database away": faults.database_away,
    "commit applied unseen": faults.commit_comes("applied"),
    "commit lost": faults.commit_comes("lost"),
    "commit late": faults.commit_comes("late"),
    "clock jump": faults.clock_jump,
    "stall": compound.stall,
    "stall after alarm": compound.stall_after_alarm,
    "alone after alarm": compound.alone_after_alarm,
    "exile": compound.exile,
    "amnesia": compound.amnesia,
    "echo": compound.echo,
    "cancel": people.cancel,
    "clear": people.clear,
    "pause dag": people.pause_dag,
    "node drain": people.node_drain,
    "node set": people.node_set,
    "node reload": people.node_reload,
}
#: Those that hit in the middle of what their victim is doing.
AT_ONCE = frozenset({"agent kill", "node crash", "declare dead", "dispatcher kill"})
