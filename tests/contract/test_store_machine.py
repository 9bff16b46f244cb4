"""Whatever agents, people, connections and rival dispatchers do: the database keeps the promise.

Hypothesis plays a hostile world against the real core over the real store, on both databases, and
shrinks what it finds. After every flush the tables must be legal and be exactly what the leader has
in memory; what comes under an old epoch or an old token must be refused and change no row.
(``tests/unit/test_core_properties.py`` plays the same game in memory, much faster.)
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from peewee import Database

from dispatcher.core.core import Core, Rules
from dispatcher.core.records import CloseTry, MoveTask, SetWish, TakeBackDeath, TouchAgents, Write
from dispatcher.core.state import rebuild
from dispatcher.store import Store, migrate, open_database
from dispatcher.store.models import DagRun, TaskInstance
from dispatcher.store.rows import fetch
from flow import wire
from flow.errors import EpochLost, GuardFailed, StoreError
from flow.states import RUN_TERMINAL
from tests.contract.store_agents import StoreAgents
from tests.contract.store_checks import Known, Story, check_memory, checksum, known
from tests.contract.store_world import LEASE, START, Lost, StoreWorld
from tests.database_world import dag, task

AGENTS = ("a1", "a2")
QUEUES = {"a1": ("q1", "q2"), "a2": ("q2",)}
DAG = dag(
    "d",
    task("top", queue="q1", retries=1, retry_delay=5.0),
    task("left", "top", queue="q2", on_agent_lost="fail"),
    task("right", "top", queue="q2", on_agent_lost="wait", retries=1, retry_delay=0.0),
    task("join", "left", "right", queue="q1", trigger_rule="all_done"),
    max_active_runs=2,
    max_active_tasks=4,
)
#: Due every ten minutes: a rival that begins a reign must not run a slot again.
SCHEDULED = dag(
    "s",
    task("only", queue="q2"),
    schedule="PT10M",
    start_date=START.isoformat(),
    max_active_runs=2,
)
agents = st.sampled_from(AGENTS)
#: What people ask for; what starts tasks more often than what ends them.
WISHES = ("trigger", "trigger", "clear", "clear", "cancel", "pause", "declare_dead")


class HostileWorld(RuleBasedStateMachine):
    """One example: an emptied database, two dispatchers, two agents."""

    def __init__(self, stores: tuple[Store, Store], outside: Database) -> None:
        super().__init__()
        self.stores = stores
        self.outside = outside

    @initialize()
    def begin(self) -> None:
        rules = Rules(lookahead=1)
        self.world = StoreWorld(self.stores, self.outside, DAG, SCHEDULED, rules=rules)
        self.story = Story(self.outside)
        self.checked = (0, 0)
        self.stored: Known = {}
        self.agents = StoreAgents(self.world, QUEUES)
        self.triggered = 0
        for agent in AGENTS:
            self.agents.hello_of_new_process(agent)
        self.trigger()

    # -- agents ----------------------------------------------------------------------------------

    @rule(first=agents)
    def work(self, first: str) -> None:
        """The agents claim what has been published to their queues."""
        self.agents.work(first)

    @rule()
    def success(self) -> None:
        """All that runs ends well, and there is more to do."""
        self.agents.collect()
        for agent, grant in self.agents.grants:
            if self.agents.runs(grant):
                self.agents.say_finished(agent, grant, "success")
        self.agents.work(AGENTS[0])

    @rule(data=st.data(), state=st.sampled_from(["failed", "skipped", "released", "success"]))
    def end(self, data: st.DataObject, state: str) -> None:
        """A task that was granted ends, mostly one that still runs."""
        self.agents.collect()
        live = [each for each in self.agents.grants if self.agents.runs(each[1])]
        if self.agents.grants:
            agent, grant = data.draw(st.sampled_from((live or self.agents.grants)[::-1]))
            self.agents.say_finished(agent, grant, state)

    @rule(agent=agents, listing=st.booleans())
    def heartbeat(self, agent: str, listing: bool) -> None:
        self.agents.collect()
        tokens = [grant.token for name, grant in self.agents.grants if name == agent and listing]
        self.agents.say_heartbeat(agent, *tokens)

    @rule(agent=agents, how=st.sampled_from(["again", "lapse", "restart", "moved"]), data=st.data())
    def hello(self, agent: str, how: str, data: st.DataObject) -> None:
        """Said once more; after a lapse; by a new process; by one on another machine."""
        self.agents.collect()
        self.agents.sessions[agent] += how != "again"
        self.agents.homes[agent] = "elsewhere" if how == "moved" else f"home of {agent}"
        self.agents.processes[agent] += how == "restart"
        held = [grant.token for name, grant in self.agents.grants if name == agent][-2:]
        spooled = data.draw(st.lists(st.sampled_from(held), unique=True)) if held else []
        kept = [token for token in held if token not in spooled and how == "lapse"]
        self.agents.say_hello(agent, spooled=tuple(spooled), kept=tuple(kept))

    @rule(agent=agents, kind=st.sampled_from(["claim", "finished", "goodbye"]), data=st.data())
    def strays(self, agent: str, kind: str, data: st.DataObject) -> None:
        """A message that comes late, twice, or from the wrong agent; a goodbye out of the blue."""
        self.agents.collect()
        if kind == "goodbye":
            self.world.send(wire.Goodbye(agent=agent, session=self.agents.sessions[agent]))
        elif kind == "claim" and self.agents.late:
            message = data.draw(st.sampled_from(self.agents.late[::-1]))
            behind = data.draw(st.integers(0, 1))
            self.agents.say_claim(agent, message, max(0, self.agents.sessions[agent] - behind))
        elif kind == "finished" and self.agents.grants:
            _, grant = data.draw(st.sampled_from(self.agents.grants[::-1]))
            self.agents.say_finished(agent, grant, "success")

    # -- time, the broker and people -------------------------------------------------------------

    @rule(seconds=st.sampled_from([6.0, 0.5, LEASE / 2, LEASE + 30, 600.0]), clear=st.booleans())
    def wait(self, seconds: float, clear: bool) -> None:
        """A retry's delay, half a lease, more than one, an interval of the schedule. *clear*: the
        events queue is, so that markers come back and who is silent is taken over."""
        self.world.pass_time(seconds, returning=clear)

    @rule(agent=agents)
    def an_agent_is_cut_off_and_comes_back(self, agent: str) -> None:
        """Its process was well all the time: what it ran has killed nobody."""
        self.agents.work(agent)
        self.world.pass_time(LEASE + 30.0, returning=True)
        self.agents.collect()
        self.agents.sessions[agent] += 1
        self.agents.say_hello(agent)

    @rule(returning=st.booleans())
    def markers_return(self, returning: bool) -> None:
        """Or the queues are shown to be empty, which sends one."""
        if returning:
            self.world.return_markers()
            return
        for queue in ("q1", "q2"):
            self.world.take(self.world.core.queue_observed(queue, 0))

    @rule(
        what=st.sampled_from(WISHES),
        data=st.data(),
    )
    def people(self, what: str, data: st.DataObject) -> None:
        if what == "trigger" or not self.triggered:
            self.trigger()
        elif what == "pause":
            self.ask("pause")
            self.ask("unpause")
        elif what == "declare_dead":
            self.ask(what, agent=data.draw(agents))
        else:
            run_id = f"run{data.draw(st.integers(1, self.triggered))}"
            task_id = data.draw(st.sampled_from([None, "top", "left"])) if what == "clear" else None
            self.ask(what, run_id=run_id, task_id=task_id)

    def trigger(self) -> None:
        self.triggered += 1
        self.ask("trigger", run_id=f"run{self.triggered}", conf={"number": self.triggered})

    def ask(self, kind: str, **arguments: object) -> None:
        self.world.request(kind, dag_id="d", **arguments)
        self.world.serve()

    # -- dispatchers and their connections -------------------------------------------------------

    @rule(events=st.integers(1, 4))
    def a_flush_is_under_way(self, events: int) -> None:
        """What happens meanwhile is gathered, and committed together."""
        self.world.held = events

    @rule(when=st.sampled_from(["before", "after"]))
    def the_next_commit_is_lost(self, when: Lost) -> None:
        self.world.losing = when

    @rule(other=st.booleans(), agent=agents)
    def a_reign_begins(self, other: bool, agent: str) -> None:
        """By the same dispatcher, or by the other one; the deposed one does not notice."""
        world = self.world
        deposed = world.store, world.epoch, world.core
        world.lead(1 - world.leading if other else world.leading)
        self.check_refused(agent, *deposed)

    def check_refused(self, agent: str, store: Store, epoch: int, core: Core) -> None:
        """All that a deposed core still decides must be refused, and change nothing."""
        self.agents.collect()
        now = self.world.now
        effects = core.tick(now)
        messages = [
            self.agents.end_of(name, grant, "success") for name, grant in self.agents.grants[-2:]
        ]
        for message in [*messages, wire.Goodbye(agent=agent, session=self.agents.sessions[agent])]:
            effects.absorb(core.receive(message, now))
        effects.writes.append(TouchAgents(heard={agent: now.wall}))
        before = checksum(self.outside)
        with pytest.raises(StoreError) as refused:
            store.commit(epoch, effects.writes)
        if not isinstance(refused.value, EpochLost):  # the new reign has ended its session
            with pytest.raises(EpochLost):
                store.commit(epoch, effects.writes)
        assert checksum(self.outside) == before

    @precondition(lambda self: not self.world.held)
    @rule(data=st.data())
    def a_write_comes_late(self, data: st.DataObject) -> None:
        """One that belongs to a token that is over, under the epoch that leads."""
        world = self.world
        tokens = self.tokens()
        late = [
            write
            for writes in world.committed
            for write in writes
            if _is_of_an_older_token(write, tokens)
        ]
        if not late:
            return
        write = data.draw(st.sampled_from(late[::-1]))
        before = checksum(self.outside)
        heard = TouchAgents(heard=dict.fromkeys(AGENTS, world.now.wall))
        with pytest.raises(GuardFailed):
            world.store.commit(world.epoch, [heard, write])
        assert checksum(self.outside) == before

    def tokens(self) -> dict[int, int]:
        """By task instance, as stored."""
        return dict(fetch(self.outside, TaskInstance.select(TaskInstance.id, TaskInstance.token)))

    # -- what must hold --------------------------------------------------------------------------

    @invariant()
    def the_database_is_legal_and_the_leader_knows_it(self) -> None:
        world = self.world
        if world.pending.writes or world.held:
            return
        flush = world.epoch, len(world.committed)
        if flush != self.checked:
            # Nothing else changes the tables: refused writes are looked at where they are tried.
            self.checked = flush
            self.story.check()
            loaded = rebuild(
                world.store.load(), reign=world.epoch, rules=world.rules, now=world.now
            )
            self.stored = known(loaded)
        check_memory(world.core.state, self.stored)

    def teardown(self) -> None:
        """With honest agents and a sound connection every run comes to an end."""
        if not hasattr(self, "triggered"):
            return
        world = self.world
        world.losing = None
        world.flush()
        self.ask("unpause")
        world.pass_time(LEASE + 30.0, returning=True)
        # An agent may have left for another home than the one that its tasks wait for.
        for agent in AGENTS:
            self.ask("declare_dead", agent=agent)
            self.agents.hello_of_new_process(agent)
        for _ in range(60 * (1 + self.triggered)):
            if not world.core.state.runs:
                break
            self.work_honestly()
        self.story.check()
        assert not world.core.state.runs, world.core.state.tasks
        states = {state for (state,) in fetch(self.outside, DagRun.select(DagRun.state))}
        assert states <= RUN_TERMINAL

    def work_honestly(self) -> None:
        world = self.world
        self.agents.work(AGENTS[0])
        self.agents.collect()
        for agent, grant in self.agents.grants:
            self.agents.say_finished(agent, grant, "success")
        self.agents.grants.clear()
        for agent in AGENTS:
            self.agents.say_heartbeat(agent)
        world.pass_time(6.0)
        for queue in ("q1", "q2"):
            world.take(world.core.queue_observed(queue, 0))
        world.return_markers()


def _is_of_an_older_token(write: Write, tokens: dict[int, int]) -> bool:
    match write:
        case MoveTask(task_pk=pk, token_before=token):
            return token < tokens[pk]
        case SetWish(task_pk=pk, token=token) | CloseTry(task_pk=pk, token=token):
            return token < tokens[pk]
        case TakeBackDeath(task_pk=pk, token=token):
            return token < tokens[pk]
    return False


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/flow.db"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def databases(url: str) -> Iterator[list[Database]]:
    """Connections of two dispatchers and of commands, to one migrated database."""
    opened = [open_database(url) for _ in range(3)]
    migrate(opened[0])
    yield opened
    for database in opened:
        database.close()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_no_history_breaks_the_promise(databases: list[Database]) -> None:
    first, second, outside = databases

    class Machine(HostileWorld):
        def __init__(self) -> None:
            super().__init__((Store(first), Store(second)), outside)

    bounds = settings(max_examples=40, stateful_step_count=50, deadline=None, print_blob=True)
    run_state_machine_as_test(Machine, settings=bounds)
