"""What is read of agents: who they are, what their nodes have, and what they run."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from peewee import Query

from dispatcher.core.queues import NOTHING, ONE, Shape
from dispatcher.core.records import AgentState
from dispatcher.store.models import Agent, AgentSession, DagRun, DagVersion, TaskInstance
from dispatcher.store.views import AgentDetail, AgentView, RunningTask
from dispatcher.waiting import QueueLoad, shape_of
from flow.dagspec import DagSpec
from flow.errors import UnknownName, nearest
from flow.states import RUN_TERMINAL, RunState, TaskState

Rows = Callable[[Query], Iterable[Any]]
_ACTIVE_RUN = sorted(set(RunState) - RUN_TERMINAL)


class AgentViews:
    """Reads agents through *rows*, which carries a query out. What a version of a DAG says never
    changes, so it is read once."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._shapes: dict[int, Mapping[str, Shape]] = {}

    def all(self) -> list[AgentView]:
        """Every agent ever seen, by name."""
        running = self._running(TaskInstance.agent, TaskInstance.task_id, DagRun.version)
        taken: defaultdict[str, Shape] = defaultdict(lambda: NOTHING)
        tasks: Counter[str] = Counter()
        self._read_shapes(row["version"] for row in running)
        for row in running:
            taken[row["agent"]] = taken[row["agent"]].plus(self._shape(row))
            tasks[row["agent"]] += 1
        return [
            AgentView(
                name=row.name,
                queues=tuple(row.queues),
                slots=row.slots,
                busy=taken[row.name].slots,
                running=tasks[row.name],
                gpus=tuple(row.gpus),
                gpu_share=row.gpu_share,
                gpus_busy=taken[row.name].gpus,
                state=row.state,
                last_heartbeat=row.last_heartbeat,
                suspended=row.suspended,
                drained=row.drained,
            )
            for row in self._rows(Agent.select().order_by(Agent.name))
        ]

    def one(self, name: str) -> AgentDetail:
        """All that is known of one agent. Raises :class:`UnknownName`."""
        agents = {agent.name: agent for agent in self.all()}
        if name not in agents:
            remedy = nearest(name, agents) or "; see `flow agents list`"
            raise UnknownName(f"agent {name!r}: expected one ever seen{remedy}")
        row = next(iter(self._rows(Agent.select().where(Agent.name == name))))
        sessions = AgentSession.select().where(
            AgentSession.agent == name, AgentSession.session == row.session
        )
        return AgentDetail(
            agent=agents[name],
            session=row.session,
            since=next((item.started_at for item in self._rows(sessions)), None),
            software=row.software,
            cores=row.cores,
            memory=row.memory,
            limits=row.limits,
            wanted_queues=None if row.wanted_queues is None else tuple(row.wanted_queues),
            wanted_slots=row.wanted_slots,
            tasks=self._tasks_of(name),
        )

    def loads(self) -> Mapping[str, QueueLoad]:
        """The live agents of each queue that has any."""
        loads: dict[str, QueueLoad] = {}
        for agent in self.all():
            for queue in agent.queues if agent.live else ():
                load = loads.get(queue, QueueLoad())
                loads[queue] = QueueLoad(
                    agents=load.agents + 1,
                    lost=load.lost + (agent.state is AgentState.LOST),
                    suspended=load.suspended + (agent.hold == "suspended"),
                    drained=load.drained + (agent.hold == "drained"),
                    # The free slots of one that takes nothing are none.
                    slots=load.slots + (agent.busy if agent.hold else agent.slots),
                    busy=load.busy + agent.busy,
                    capacities=(*load.capacities, Shape(agent.slots, len(agent.gpus))),
                    free=(*load.free, *_free(agent)),
                )
        return loads

    def _tasks_of(self, name: str) -> tuple[RunningTask, ...]:
        running = self._running(
            *(TaskInstance.task_id, TaskInstance.map_index, TaskInstance.try_number),
            *(TaskInstance.start_date, DagRun.dag_id, DagRun.run_id, DagRun.version),
            agent=name,
        )
        self._read_shapes(row["version"] for row in running)
        return tuple(
            RunningTask(
                run=f"{row['dag_id']}/{row['run_id']}",
                task_id=row["task_id"],
                map_index=row["map_index"],
                try_number=row["try_number"],
                since=row["start_date"],
                slots=self._shape(row).slots,
                gpus=self._shape(row).gpus,
            )
            for row in running
        )

    def _running(self, *columns: Any, agent: str | None = None) -> list[dict[str, Any]]:
        query: Any = TaskInstance.select(*columns).join(DagRun)
        query = query.where(TaskInstance.state == TaskState.RUNNING, DagRun.state.in_(_ACTIVE_RUN))
        if agent is not None:
            query = query.where(TaskInstance.agent == agent)
        return list(self._rows(query.order_by(TaskInstance.id).dicts()))

    def _read_shapes(self, versions: Iterable[int]) -> None:
        unread: Collection[int] = set(versions) - self._shapes.keys()
        if not unread:
            return
        query = DagVersion.select(DagVersion.id, DagVersion.spec)
        for row in self._rows(query.where(DagVersion.id.in_(unread))):
            tasks = DagSpec.from_json(row.spec).tasks
            shapes = {x.task_id: shape_of(x.resources) for x in tasks}
            self._shapes[row.id] = {name: shape for name, shape in shapes.items() if shape != ONE}

    def _shape(self, row: Mapping[str, Any]) -> Shape:
        return self._shapes[row["version"]].get(row["task_id"], ONE)


def _free(agent: AgentView) -> tuple[Shape, ...]:
    """What one that takes tasks has free."""
    if agent.hold or agent.state is not AgentState.ONLINE:
        return ()
    full = agent.gpus_busy // max(1, agent.gpu_share)
    return (Shape(max(0, agent.slots - agent.busy), max(0, len(agent.gpus) - full)),)
