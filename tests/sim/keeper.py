"""A model of the agent's keeper: it starts and kills, and holds the deadline on its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from flow.wire import Grant, Task
from tests.sim.ledger import TaskProcess
from tests.sim.process import Process
from tests.sim.schedule import Timer

if TYPE_CHECKING:
    from tests.sim.node import Node

#: Seconds between the agent and its keeper, each way.
PIPE = 0.001


@dataclass(slots=True)
class Child:
    """A task that the keeper has started."""

    process: TaskProcess
    lapsed: bool = False
    kill_at: float | None = None


class Keeper:
    """*tell* takes what it says to the agent: a word and its arguments."""

    def __init__(self, node: Node, tell: Callable[..., None]) -> None:
        self.process = Process(node.schedule, node.rng)
        self._node = node
        self._tell_agent = tell
        self._children: dict[int, Child] = {}
        self._timer: Timer | None = None
        self._lapsed = False
        self._unproven = False
        self._closing = False

    def command(self, name: str, *arguments: object) -> None:
        """The agent says something; lost when the keeper is dead."""
        action = getattr(self, f"_{name}")
        call = partial(self.process.receive, partial(action, *arguments))
        self._node.schedule.after(PIPE, call)

    def lose_agent(self) -> None:
        """Its agent is dead: everything is killed at once."""
        self.process.receive(self._shutdown)

    # -- commands ------------------------------------------------------------------------------

    def _start(self, task: Task, grant: Grant, gpus: tuple[str, ...]) -> None:
        if self._closing or self._lapsed:
            self._tell("start_failed", grant.token, "the lease lapsed")
            return
        process = self._node.spawn(task, grant.token, gpus, self._ended)
        self._children[grant.token] = Child(process)
        self._tell("started", grant.token)

    def _kill(self, token: int, grace: float, reason: str) -> None:
        child = self._children.get(token)
        if child is None or not child.process.alive:
            return
        first = child.kill_at is None
        at = self._node.schedule.now + grace
        child.kill_at = at if child.kill_at is None else min(child.kill_at, at)
        if first:
            child.process.reason = reason
            if grace > 0:
                self._node.terminate(child.process)
        self.process.at(child.kill_at, partial(self._kill_now, child))

    def _deadline(self, at: float) -> None:
        if self._lapsed:
            return
        if self._timer is not None:
            self._timer.cancel()
        when = self._node.true_time(at)
        if when <= self._node.schedule.now:
            self._lapse()
        else:
            self._timer = self.process.at(when, self._lapse)

    def _session(self) -> None:
        self._lapsed = False
        if self._timer is not None:
            self._timer.cancel()

    def _shutdown(self) -> None:
        self._closing = True
        for child in list(self._children.values()):
            self._doom(child, "the agent stopped")
        self._look()

    # -- what happens --------------------------------------------------------------------------

    def _lapse(self) -> None:
        if self._lapsed:
            return
        self._lapsed = self._unproven = True
        doomed = [
            (token, child)
            for token, child in self._children.items()
            if not child.process.keep and not child.lapsed
        ]
        for _, child in doomed:
            child.lapsed = True
            self._doom(child, "lease lapsed")
        self._tell("lapsed", tuple(token for token, _ in doomed))
        self._look()

    def _doom(self, child: Child, reason: str) -> None:
        if child.process.alive and child.kill_at is None:
            child.process.reason = reason
        child.kill_at = self._node.schedule.now
        self._kill_now(child)

    def _kill_now(self, child: Child) -> None:
        if child.process.alive:
            self._node.kill9(child.process)

    def _ended(self, process: TaskProcess) -> None:
        self.process.receive(partial(self._reap, process))

    def _reap(self, process: TaskProcess) -> None:
        child = self._children.pop(process.token)
        if not child.lapsed:
            self._tell("exited", process)
        self._look()

    def _look(self) -> None:
        if self._unproven and not any(child.lapsed for child in self._children.values()):
            self._unproven = False
            self._tell("dead")
        if self._closing and not self._children:
            self._tell("gone")
            self.process.kill()

    def _tell(self, *words: object) -> None:
        self._node.schedule.after(PIPE, partial(self._tell_agent, self, *words))
