"""What a task is held to on this node, by its own word or the agent's settings, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agent.cgroups import CONTROLLERS, Cgroups
from agent.operators import NotHere
from flow.dagspec import Resources
from flow.sizes import shown

#: Microseconds: the kernel's own default, and the least quota in it is a hundredth of a CPU.
_PERIOD = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What holds for tasks that do not say, and whether those may run that cannot be held to what
    they say. As in :class:`flow.dagspec.Resources`, but 0 is no limit."""

    memory: int = 0
    cpus: float = 0.0
    pids: int = 0
    run_without_limits: bool = False


@dataclass(frozen=True, slots=True)
class Held:
    """What one task is held to."""

    memory: int
    """Bytes; 0: no limit."""
    files: Mapping[str, str]
    """Values by the names of its cgroup's files."""

    def out_of_memory(self, whose: str) -> str:
        """The reason of a task in which the kernel killed for want of memory; *whose* limit it was
        as in :attr:`agent.keeper_client.TaskExited.out_of_memory`."""
        if not whose:
            return ""
        if whose == "limit" and self.memory:
            return f"out of memory (limit {shown(self.memory)})"
        return "out of memory (of the node or the agent's unit, not a limit of the task's)"


def held_to(wanted: Resources, defaults: Defaults, cgroups: Cgroups) -> Held:
    """What a task that wants *wanted* is held to.

    Raises :class:`NotHere` when that is more than can be done here; the agent's own defaults are
    what holds where it can be done.
    """
    asked = {name: getattr(wanted, name) for name in CONTROLLERS}
    refused = [name for name, value in asked.items() if value and name not in cgroups.limits]
    if refused and not defaults.run_without_limits:
        raise NotHere(
            f"the task asks for {', '.join(refused)}: expected cgroups of version 2 that can hold "
            f"it to that, got none ({cgroups.lacking}); `agent.run_without_limits` lets such tasks "
            "run without"
        )
    limits = {
        name: value or getattr(defaults, name)
        for name, value in asked.items()
        if name in cgroups.limits
    }
    files = {}
    if "memory" in limits:
        # All of a task dies, or what is left of it fails in stranger ways; also where not its own
        # limit is the reason.
        files["memory.oom.group"] = "1"
    if memory := limits.get("memory"):
        if cgroups.swap:
            files["memory.swap.max"] = "0"
        files["memory.max"] = str(memory)
    if cpus := limits.get("cpus"):
        files["cpu.max"] = f"{max(round(cpus * _PERIOD), 1000)} {_PERIOD}"
    if pids := limits.get("pids"):
        files["pids.max"] = str(pids)
    return Held(limits.get("memory", 0), files)
