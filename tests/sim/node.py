"""A machine: its disk, its clock, its processes; on it one agent, which somebody restarts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import TYPE_CHECKING

from flow import wire
from tests.sim.agent import Agent
from tests.sim.keeper import Keeper
from tests.sim.ledger import TaskProcess
from tests.sim.network import Host
from tests.sim.schedule import Schedule

if TYPE_CHECKING:
    from tests.sim.world import World


@dataclass(slots=True)
class Disk:
    """What survives everything."""

    session: int = 0
    spool: dict[int, wire.Finished] = field(default_factory=dict)
    full: bool = False

    def next_session(self, above: int) -> int:
        """Begin a session above all before it and above *above*."""
        self.session = max(self.session, above) + 1
        return self.session


class Node:
    """``up`` unless its power is off. Its boot time runs at a *rate* of its own."""

    def __init__(
        self, world: World, name: str, queues: tuple[str, ...], *, home: str, slots: int = 2
    ) -> None:
        self.world = world
        self.schedule: Schedule = world.schedule
        self.rng: Random = world.rng
        self.name = name
        self.queues = queues
        self.home = home
        self.slots = slots
        self.own = queues, slots
        """What it serves unless somebody has changed its settings."""
        self.gpus: tuple[str, ...] = world.gpus
        self.gpus_elsewhere: set[str] = set()
        """Those that another agent of the machine uses."""
        self.untold = world.rng.random() < world.untold
        """Its agent is of a release that cannot be told what people want of it."""
        self.disk = Disk()
        self.host = Host(world.schedule, world.rng, world.broker)
        self.up = True
        self.wanted = True
        """Whether the agent is restarted when it ends."""
        self.agent: Agent | None = None
        self.keeper: Keeper | None = None
        self.processes: dict[int, TaskProcess] = {}
        self._ended: dict[int, Callable[[TaskProcess], None]] = {}
        self.boots = 1
        self.incarnations = 0
        self._rate = world.rng.uniform(0.995, 1.005)
        self._booted = world.schedule.now - world.rng.uniform(10, 1000)

    def reload(self, queues: tuple[str, ...], slots: int) -> None:
        """Its settings are others now, for the agent that runs and for the next."""
        self.queues, self.slots = queues, slots
        if self.agent is not None:
            self.agent.reload(queues, slots)

    # -- time ----------------------------------------------------------------------------------

    def boottime(self) -> float:
        return (self.schedule.now - self._booted) * self._rate

    def true_time(self, boottime: float) -> float:
        """When its clock shows *boottime*; a moment later, so that it surely does."""
        return boottime / self._rate + self._booted + 1e-6

    # -- the agent -----------------------------------------------------------------------------

    def start_agent(self) -> None:
        """What systemd does."""
        if self.up and self.wanted and self.agent is None:
            self.incarnations += 1
            self.agent = Agent(self)
            self.agent.begin()

    def agent_ended(self, *, restart_after: float) -> None:
        """The agent's process is gone, by itself or not."""
        self.agent = None
        self.schedule.after(restart_after, self.start_agent)

    def kill_agent(self, restart_after: float) -> bool:
        """``kill -9``; whether there was one."""
        agent = self.agent
        if agent is None:
            return False
        self.world.oracle.died()
        agent.process.kill()
        self.host.speak()
        self.host.abandon()
        self.agent_ended(restart_after=restart_after)
        keeper = self.keeper
        if keeper is not None:
            self.schedule.after(0.002, keeper.lose_agent)
        agent.process.unwind()
        return True

    def kill_keeper(self) -> bool:
        """``kill -9`` of the keeper alone; its tasks live on. Whether there was one.

        Not while the agent is stopped: nothing is promised where both are lost."""
        keeper, agent = self.keeper, self.agent
        if keeper is None or agent is None or not keeper.process.alive or agent.process.paused:
            return False
        keeper.process.kill()
        self.schedule.after(0.002, partial(agent.keeper_says, keeper, "lost"))
        return True

    def power_off(self) -> None:
        """Everything on it is gone at once, but the disk."""
        self.up = False
        self.world.oracle.died()
        agent, self.agent = self.agent, None
        if agent is not None:
            agent.process.kill()
        if self.keeper is not None:
            self.keeper.process.kill()
            self.keeper = None
        for process in list(self.processes.values()):
            self.end_process(process, 9)
        # Nobody tells the broker: it notices the silence.
        self.host.vanish()
        if agent is not None:
            agent.process.unwind()

    def power_on(self) -> None:
        self.up = True
        self.boots += 1
        self._booted = self.schedule.now - 5.0
        self.host.return_after_reboot()
        self.start_agent()

    # -- its processes -------------------------------------------------------------------------

    def spawn(
        self,
        task: wire.Task,
        token: int,
        gpus: tuple[str, ...],
        ended: Callable[[TaskProcess], None],
    ) -> TaskProcess:
        """A task's process begins; *ended* is called once nothing of it is left."""
        world = self.world
        behaviour = world.workload.behaviour(task, world.rng)
        process = TaskProcess(
            token=token,
            task_pk=task.task_instance_id,
            task_id=task.task_id,
            node=f"{self.name}@{self.home}",
            keep=task.on_agent_lost == "wait",
            started=self.schedule.now,
            exit_code=behaviour.exit_code,
            stubborn=behaviour.stubborn,
            slots=task.resources.slots,
            gpus=gpus,
        )
        world.oracle.check_room(self, process, wanted=task.resources.gpus)
        world.ledger.start(process)
        self.processes[token] = process
        self._ended[token] = ended
        self.schedule.after(behaviour.duration, partial(self.end_process, process))
        if behaviour.deadly:
            self.schedule.after(behaviour.duration / 2, partial(self._attack, process))
        world.step("process started", self.name, token)
        return process

    def _attack(self, process: TaskProcess) -> None:
        if process.alive and self.kill_agent(self.rng.uniform(0.05, 0.5)):
            self.world.faults_done["deadly task"] += 1

    def end_process(self, process: TaskProcess, signal: int | None = None) -> None:
        """Nothing of it is left."""
        if not process.alive:
            return
        process.signal = signal
        self.world.ledger.end(process, self.schedule.now)
        del self.processes[process.token]
        self.world.note("process ended", self.name, process.token)
        self._ended.pop(process.token)(process)

    def terminate(self, process: TaskProcess) -> None:
        """SIGTERM."""
        if not process.stubborn:
            delay = self.rng.uniform(0.0, 0.2)
            self.schedule.after(delay, partial(self.end_process, process, 15))

    def kill9(self, process: TaskProcess) -> None:
        """SIGKILL: it takes a moment until the whole tree is gone."""
        delay = self.rng.choice((0.001, 0.01, 0.3))
        self.schedule.after(delay, partial(self.end_process, process, 9))

    def prove_dead(self, then: Callable[[], None]) -> None:
        """Kill every process of the agent's, and call *then* once none is left."""
        for process in self.processes.values():
            process.reason = "of an earlier session"
            self.kill9(process)

        def look() -> None:
            if self.processes:
                self.schedule.after(0.02, look)
            else:
                then()

        look()
