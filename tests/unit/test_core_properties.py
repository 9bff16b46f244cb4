"""Whatever agents, broker and clock do: no rule of the core is broken, and no run is stuck.

The machine plays a hostile world: agents that lapse, restart, repeat and mix up their messages, a
broker that loses, doubles and delays deliveries, dispatchers that change. :class:`Replay` checks
every write's guard on the way.
"""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from dispatcher.core.core import Rules
from dispatcher.core.records import CloseTry, OpenTry
from flow import wire
from flow.dagspec import Resources
from flow.states import RUN_TERMINAL, TaskState
from tests.unit.core_world import LEASE, Replay, World, dag, task

AGENTS = ("a1", "a2", "a3")
QUEUES = {"a1": ("q1",), "a2": ("q1", "q2"), "a3": ("q2",)}
DAG = dag(
    "d",
    task("top", queue="q1", retries=1, retry_delay=5.0),
    task("left", "top", queue="q1", priority_weight=5, resources=Resources(slots=2)),
    task("right", "top", queue="q2", on_agent_lost="wait", resources=Resources(gpus=1)),
    task("join", "left", "right", queue="q2", retries=1, retry_delay=0.0),
    max_active_runs=2,
    max_active_tasks=3,
)
agents = st.sampled_from(AGENTS)


class HostileWorld(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.world = World(DAG, rules=Rules(lookahead=1))
        self.sessions = dict.fromkeys(AGENTS, 0)
        self.grants: list[tuple[str, wire.Grant]] = []
        self.messages: list[wire.Task] = []
        self.number = 0

    def collect(self) -> None:
        self.messages += self.world.published
        self.world.published = []
        for agent, reply in self.world.replies:
            if isinstance(reply, wire.Grant):
                self.grants.append((agent, reply))
            elif isinstance(reply, wire.Offer):
                self.messages.append(reply.task)
        self.world.replies = []

    @rule(agent=agents, keep=st.booleans())
    def hello(self, agent: str, keep: bool) -> None:
        self.sessions[agent] += 1
        held = tuple(grant.token for name, grant in self.grants if name == agent) if keep else ()
        self.world.hello(
            agent,
            self.sessions[agent],
            queues=QUEUES[agent],
            slots=2,
            gpus=("0",),
            terms=wire.Terms() if keep else None,
            spooled=held[-1:],
        )

    @rule()
    def trigger(self) -> None:
        self.number += 1
        assert self.world.trigger("d", f"run{self.number}") == ""

    @rule(agent=agents, data=st.data(), behind=st.integers(0, 1))
    def claim(self, agent: str, data: st.DataObject, behind: int) -> None:
        self.collect()
        if self.messages:
            message = data.draw(st.sampled_from(self.messages))
            self.world.claim(message, agent, max(0, self.sessions[agent] - behind))

    @rule(data=st.data(), good=st.booleans(), sender=agents)
    def finish(self, data: st.DataObject, good: bool, sender: str) -> None:
        self.collect()
        if self.grants:
            agent, grant = data.draw(st.sampled_from(self.grants))
            agent = data.draw(st.sampled_from([agent, sender]))
            state = "success" if good else "failed"
            self.world.finish(grant, state, agent, session=max(1, self.sessions[agent]))

    @rule(data=st.data(), fault=st.booleans())
    def release(self, data: st.DataObject, fault: bool) -> None:
        self.collect()
        if self.grants:
            agent, grant = data.draw(st.sampled_from(self.grants))
            self.world.send(
                wire.Release(
                    agent=agent,
                    session=self.sessions[agent],
                    task_instance_id=grant.task_instance_id,
                    token=grant.token,
                    reason="drain",
                    fault=fault,
                )
            )

    @rule(agent=agents)
    def heartbeat(self, agent: str) -> None:
        self.world.heartbeat(agent, self.sessions[agent])

    @rule(agent=agents)
    def goodbye(self, agent: str) -> None:
        self.world.send(wire.Goodbye(agent=agent, session=self.sessions[agent]))

    @rule(seconds=st.sampled_from([0.5, 6.0, LEASE / 2, LEASE + 20]))
    def wait(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    @rule()
    def markers(self) -> None:
        self.world.return_markers()

    @rule()
    def reign(self) -> None:
        self.world.new_reign()

    @rule(queue=st.sampled_from(["q1", "q2"]), ready=st.integers(0, 1))
    def observe(self, queue: str, ready: int) -> None:
        self.world.take(self.world.core.queue_observed(queue, ready))

    @rule(data=st.data(), kind=st.sampled_from(["clear", "cancel"]), one=st.booleans())
    def wish(self, data: st.DataObject, kind: str, one: bool) -> None:
        if self.number:
            run_id = f"run{data.draw(st.integers(1, self.number))}"
            arguments = {"dag_id": "d", "run_id": run_id}
            if kind == "clear" and one:
                arguments["task_id"] = data.draw(st.sampled_from(["top", "left", "join"]))
            self.world.request(kind, loaded=self.world.loaded(run_id), **arguments)

    @rule(paused=st.booleans())
    def pause(self, paused: bool) -> None:
        self.world.request("pause" if paused else "unpause", dag_id="d")

    @invariant()
    def tokens_are_opened_and_closed_once_and_only_grow(self) -> None:
        opened = [write.token for write in self.world.writes if isinstance(write, OpenTry)]
        closed = [write.token for write in self.world.writes if isinstance(write, CloseTry)]
        assert opened == sorted(set(opened))
        assert len(closed) == len(set(closed))
        running = {
            row.token
            for row in Replay(self.world.core.state.dags, self.world.writes).tasks.values()
            if row.state is TaskState.RUNNING
        }
        assert running == set(opened) - set(closed)

    @invariant()
    def memory_equals_what_was_written(self) -> None:
        replay = Replay(self.world.core.state.dags, self.world.writes)
        for task_pk, row in self.world.core.state.tasks.items():
            assert row == replay.tasks[task_pk]
        state = self.world.core.state
        for agent in state.agents.values():
            taken = [state.shape(state.tasks[pk]) for pk in agent.tokens.values()]
            assert agent.used == (sum(x.slots for x in taken), sum(x.gpus for x in taken))
            assert agent.used.fits(agent.capacity)
            assert set(agent.tokens) == {
                row.token
                for row in state.tasks.values()
                if row.agent == agent.row.name and row.state is TaskState.RUNNING
            }

    @invariant()
    def counters_and_limits_hold(self) -> None:
        state = self.world.core.state
        active = sum(
            row.state in (TaskState.QUEUED, TaskState.RUNNING) for row in state.tasks.values()
        )
        assert state.active_tasks.get("d", 0) == active <= 3
        running = sum(run.row.state.value == "running" for run in state.runs.values())
        assert state.active_runs.get("d", 0) == running <= 2
        for queue in state.queues.values():
            assert set(queue.queued) == {
                row.id
                for row in state.tasks.values()
                if row.state is TaskState.QUEUED and row.queue == queue.name
            }

    def teardown(self) -> None:
        """With honest agents and a working broker every run comes to an end."""
        if not hasattr(self, "world"):
            return
        world = self.world
        world.request("unpause", dag_id="d")
        for agent in AGENTS:
            self.hello(agent, keep=False)
        for _ in range(40 * (self.number + 1)):
            if not world.core.state.runs:
                break
            self.work_honestly()
        replay = Replay(world.core.state.dags, world.writes)
        assert all(run.state in RUN_TERMINAL for run in replay.runs.values())
        assert len(replay.runs) == self.number

    def work_honestly(self) -> None:
        world = self.world
        self.collect()
        messages, self.messages = self.messages, []
        for message in messages:
            for agent in (name for name in AGENTS if message.queue in QUEUES[name]):
                reply = world.claim(message, agent, self.sessions[agent])
                if isinstance(reply, wire.Grant):
                    world.finish(reply, "success", agent)
        for agent in AGENTS:
            world.heartbeat(agent, self.sessions[agent])
        world.pass_time(6.0)
        for queue in ("q1", "q2"):
            world.take(world.core.queue_observed(queue, 0))
        world.return_markers()


TestHostileWorld = HostileWorld.TestCase
TestHostileWorld.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
