"""The invariants, looked at as things happen and once more at the end."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from dispatcher.core.records import (
    AgentState,
    CloseTry,
    EndSession,
    InsertRun,
    MoveRun,
    MoveTask,
    OpenTry,
    RunType,
    SaveAgent,
    SetWish,
    Snapshot,
    Write,
)
from dispatcher.core.state import Effects
from flow.states import (
    RUN_TERMINAL,
    RUN_TRANSITIONS,
    TASK_TRANSITIONS,
    TERMINAL,
    RunEvent,
    RunState,
    TaskEvent,
    TaskState,
)
from tests.sim.ledger import TaskProcess, Violation
from tests.sim.workload import SLOT, SLOTS, SLOTTED, START

if TYPE_CHECKING:
    from tests.sim.agent import Agent
    from tests.sim.node import Node
    from tests.sim.world import World

Transition = tuple[str, str]
#: Seconds after a disturbance within which an agent is connected and heard again.
RECOVERY = 3.2
#: Ends of sessions of which the agent itself knows nothing.
_UNSEEN = ("lost", "declared dead")


class Oracle:
    """Raises :class:`Violation`."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.transitions: Counter[Transition] = Counter()
        """(state, event) of tasks and runs that were committed."""
        self.impostors: set[str] = set()
        self._last_token = 0
        self._disturbed: list[tuple[str, float, float]] = []
        self._alarms: list[tuple[float, float]] = []
        self._forfeits = 0
        self._clears = 0
        self._told: dict[int, str] = {}
        """By token: on which home its result was when it was first sent."""
        self._unwritten: set[int] = set()
        """Tokens of which a disk did not take the result."""
        self._drained: set[str] = set()
        """Agents that somebody wants to take nothing, as it is written down."""
        self._room: dict[int, int] = {}
        """By token: the slots that its agent had when it took it."""
        self._processes: dict[str, str] = {}
        """By agent: the process that has its latest session."""
        self._losses: defaultdict[int, list[tuple[str, str]]] = defaultdict(list)
        """By task instance: the agents and processes that were lost with it, but for those which
        were there again afterwards."""
        world.database.check = self._check
        world.database.watch = self._committed

    # -- what faults tell ----------------------------------------------------------------------

    def disturbed(self, node: str, duration: float) -> None:
        """From now on for *duration* seconds *node* (or ``""``: every one) may not be heard."""
        now = self._world.schedule.now
        self._disturbed.append((node, now, now + duration))

    def alarmed(self, duration: float) -> None:
        """The broker takes nothing for *duration* seconds, which by itself must not matter."""
        now = self._world.schedule.now
        self._alarms.append((now, now + duration))

    def asked(self, kind: str, _: dict[str, Any]) -> None:
        self._clears += kind == "clear"

    def unwritten(self, token: int) -> None:
        """A disk does not take a result."""
        self._unwritten.add(token)

    def told(self, agent: Agent, token: int) -> None:
        """A result has been sent: from now on it must survive what its agent survives."""
        self._told.setdefault(token, agent.node.home)

    def reign_begins(self, snapshot: Snapshot, effects: Effects) -> None:
        """Rows in state queued are the outbox: nobody knows whether their messages were sent."""
        sent = {task.task_instance_id for task in effects.publications}
        for task in snapshot.tasks:
            if task.state is TaskState.QUEUED and task.id not in sent:
                raise Violation("I8 the outbox is emptied", f"task instance {task.id} stays in it")

    # -- commits -------------------------------------------------------------------------------

    def _check(self, write: Write) -> None:
        """Before a write is applied."""
        if isinstance(write, MoveTask):
            legal = TASK_TRANSITIONS.get((write.source, write.event)) is write.target
        elif isinstance(write, MoveRun):
            legal = RUN_TRANSITIONS.get((write.source, write.event)) is write.target
        else:
            return
        if not legal:
            raise Violation("I5 legal transitions", f"{write.source} {write.event}: {write}")

    def _committed(self, epoch: int, writes: Sequence[Write]) -> None:
        world = self._world
        certain = not any(isinstance(x, EndSession) and x.how in _UNSEEN for x in writes)
        _check_culprits(writes)
        for write in writes:
            match write:
                case MoveTask():
                    self.transitions[write.source.value, write.event.value] += 1
                case MoveRun():
                    self.transitions[f"run {write.source.value}", write.event.value] += 1
                case OpenTry():
                    self._opened(write)
                case CloseTry():
                    self._closed(write, certain=certain)
                case EndSession(how="lost"):
                    self._taken_over(write)
                case SaveAgent():
                    self._saved(write)
                case SetWish():
                    world.step("wished", world.leader.name, write.task_pk)
                case InsertRun():
                    world.note("run", f"e{epoch}", write.run.run_id)
        self._check_deaths()

    def _check_deaths(self) -> None:
        """Whoever comes back has not died, so no task has killed it."""
        for task_pk, losses in self._losses.items():
            row = self._world.database.rows.tasks[task_pk]
            if row.state not in TERMINAL and row.deaths > len(losses):
                text = f"{row.task_id} is charged with {row.deaths} deaths: {losses}"
                raise Violation("I3 who is charged with a death has lost an agent", text)

    def _opened(self, write: OpenTry) -> None:
        if write.agent in self._drained:
            raise Violation("I11 a drained agent is granted nothing", f"{write}")
        if write.token <= self._last_token:
            raise Violation("I4 tokens grow", f"{write.token} after {self._last_token}")
        self._last_token = write.token
        self._world.step("grant committed", write.agent, (write.task_pk, write.token))

    def _saved(self, write: SaveAgent) -> None:
        """In the order of the writes: what was granted before a drain is no harm."""
        agent = write.agent
        if self._processes.get(agent.name) == agent.incarnation:
            back = agent.name, agent.incarnation
            if agent.state is AgentState.ONLINE:
                for task_pk, losses in self._losses.items():
                    self._losses[task_pk] = [each for each in losses if each != back]
        self._processes[agent.name] = agent.incarnation
        if agent.drained:
            self._drained.add(agent.name)
        else:
            self._drained.discard(agent.name)
        if agent.state is AgentState.LOST:
            self._world.step("lost", agent.name)

    def _closed(self, write: CloseTry, *, certain: bool) -> None:
        world = self._world
        world.note("token ends", "db", (write.task_pk, write.token, write.outcome, write.reason))
        world.ledger.close_token(write.token, write.outcome)
        if write.outcome == "lost":
            holder = world.database.rows.tries[write.task_pk, write.try_number].agent
            self._losses[write.task_pk].append((holder, self._processes[holder]))
        # Who declares an agent dead that was taken over before ends its tokens, not its session.
        declared = "was declared dead by" in write.reason
        if write.outcome == "lost" and certain and not declared:
            self._check_spool(write)
        process = world.ledger.by_token.get(write.token)
        by_itself = process is not None and process.signal is None and not process.reason
        if write.outcome == "released" and by_itself:
            raise Violation("I1 what has ended is not given back", f"{write}: {process}")
        succeeded = process is not None and process.exit_code == 0 and process.signal is None
        if write.outcome in ("success", "skipped") and not succeeded:
            raise Violation("I1 a success has happened", f"{write}: {process}")
        if write.outcome in ("success", "failed", "skipped"):
            world.step("result committed", world.leader.name, write.token)

    def _check_spool(self, write: CloseTry) -> None:
        """A session's hello has ended a token: its result must not be waiting on that disk."""
        rows = self._world.database.rows
        holder = rows.tries[write.task_pk, write.try_number].agent
        for node in self._world.nodes:
            own = node.name == holder and rows.agents[holder].home_id == node.home
            if own and write.token in node.disk.spool:
                raise Violation("I1 a spooled result counts", f"{write}")
            told = self._told.get(write.token) == node.home
            if own and told and write.token not in self._unwritten:
                raise Violation("I1 a result that was sent counts", f"{write}")

    def _taken_over(self, write: EndSession) -> None:
        world = self._world
        for node in world.nodes:
            agent = node.agent
            if node.name != write.agent or agent is None:
                continue
            core, now = agent.core, node.boottime()
            mine = core.session == write.session and not core.fenced
            if mine and core.deadline is not None and now < core.deadline:
                raise Violation(
                    "I3 no takeover of a healthy agent",
                    f"session {write.session} of {write.agent} is taken over "
                    f"{core.deadline - now:.2f} s before its lease ends",
                )
        world.step("takeover", write.agent, write.session)

    # -- agents --------------------------------------------------------------------------------

    def lapsed(self, agent: Agent, reason: str) -> None:
        """A session of *agent* is over: there has to be a cause."""
        self._forfeits += 1
        if reason.startswith("the dispatcher ended it"):
            self._check_ended(agent, reason)
        elif "keeper died" not in reason and not self._was_disturbed(agent):
            raise Violation(
                "I3 no lapse without a cause",
                f"session {agent.core.session} of {agent.name}: {reason}",
            )

    def _check_ended(self, agent: Agent, reason: str) -> None:
        row = self._world.database.rows.agents.get(agent.name)
        own = row is not None and (row.home_id, row.session) == (
            agent.node.home,
            agent.core.session,
        )
        if own and row is not None and row.state in (AgentState.ONLINE, AgentState.LOST):
            raise Violation(
                "I3 no live session is ended",
                f"session {agent.core.session} of {agent.name}@{agent.node.home}: {reason}",
            )

    def check_room(self, node: Node, starting: TaskProcess, *, wanted: int) -> None:
        """A task begins on *node*: what it takes is there. Fewer slots than are in use, by
        somebody's wish, only keep new ones away."""
        if node.agent is None:
            return
        world, running = self._world, node.processes.values()
        slots = max(node.slots, self._room.get(starting.token, 0))
        if sum(process.slots for process in running) + starting.slots > slots:
            raise Violation("I10 never more than there is", f"{starting} beside {[*running]}")
        if len(set(starting.gpus)) != wanted:
            raise Violation("I10 a device for each it asks for", f"{starting}")
        for gpu in starting.gpus:
            users = [process for process in running if gpu in process.gpus]
            if len(users) >= world.gpu_share:
                raise Violation("I10 no device is shared", f"{gpu}: {starting} beside {users}")

    def check_start(self, agent: Agent, token: int) -> None:
        """The agent wants to start a task."""
        # What counts is the number of then: where it waits for its bundle, fewer may be wanted now.
        self._room.setdefault(token, agent.core.settings.slots)
        if agent.core.drained:
            text = f"token {token} on {agent.name}: {agent.core.drained}"
            raise Violation("I11 a drained agent starts nothing", text)

    def died(self) -> None:
        """An agent's process, or its machine, is gone."""
        self._forfeits += 1

    def _was_disturbed(self, agent: Agent) -> bool:
        """Whether, within the last lease, there was no time in which it could be heard."""
        world, node = self._world, agent.node
        now, pace = world.schedule.now, world.pace
        begin = now - (pace.lease - pace.margin) * 1.01
        spans = [span[1:] for span in self._disturbed if span[0] in ("", node.name)]
        for start, end in self._alarms:
            # By itself it matters only to a session that no broker has confirmed: it has nothing.
            others = any(a <= end + RECOVERY and b >= start - RECOVERY for a, b in spans)
            if others or not node.processes:
                spans.append((start, end))
        clear = begin
        for start, end in sorted(spans):
            if start - clear >= pace.heartbeat + RECOVERY:
                return False
            clear = max(clear, end)
        return now - clear < pace.heartbeat + RECOVERY

    # -- at rest -------------------------------------------------------------------------------

    def unrest(self) -> str:
        """What is still to come, or ``""``."""
        world = self._world
        rows = world.database.rows
        open_runs = [run for run in rows.runs.values() if run.state not in RUN_TERMINAL]
        if open_runs:
            tasks = [
                (task.task_id, task.state.value, task.agent)
                for task in rows.tasks.values()
                if task.state not in TERMINAL and rows.runs[task.run_pk] in open_runs
            ]
            return f"run {open_runs[0].run_id} of {open_runs[0].dag_id} is not over: {tasks}"
        if len(rows.closed) < len(rows.intents):
            return "commands are not answered"
        for node in world.nodes:
            if node.processes:
                return f"processes on {node.name}: {sorted(node.processes)}"
            if node.disk.spool and node.wanted:
                return f"results in the spool of {node.name}: {sorted(node.disk.spool)}"
        if SLOTTED in world.workload.specs and self._slots_missing():
            return f"{self._slots_missing()} slots have no run"
        return ""

    def _slots_missing(self) -> int:
        return SLOTS - len(self._slot_dates())

    def _slot_dates(self) -> list[Any]:
        runs = self._world.database.rows.runs.values()
        return [run.logical_date for run in runs if run.run_type is RunType.SCHEDULED]

    def final(self) -> None:
        """Once all is at rest."""
        world = self._world
        rows = world.database.rows
        for task in rows.tasks.values():
            if task.state not in TERMINAL:
                raise Violation("I1 every task ends", f"{task.task_id} is {task.state}")
            self._check_task(task.id, task.task_id, task.run_pk)
        if SLOTTED in world.workload.specs:
            wanted = [START + timedelta(seconds=SLOT * number) for number in range(SLOTS)]
            if sorted(self._slot_dates()) != wanted:
                raise Violation("I7 one run per slot", f"{self._slot_dates()}")
        if world.ledger.live:
            raise Violation("I6 no process outlives its task", f"{world.ledger.live}")

    def _check_task(self, task_pk: int, task_id: str, run_pk: int) -> None:
        world = self._world
        spec = world.database.rows.versions[world.database.rows.runs[run_pk].version_id]
        retries = next(task.retries for task in spec.tasks if task.task_id == task_id)
        most = (1 + retries) * (1 + self._clears) + self._forfeits
        starts = world.ledger.starts.get(task_pk, 0)
        if starts > most:
            raise Violation("I3 starts", f"{task_id} was started {starts} times, not {most}")
        tries = world.database.rows.tries
        won = sum(t.outcome == "success" for (pk, _), t in tries.items() if pk == task_pk)
        if won > 1 + self._clears:
            raise Violation("I1 one accepted success", f"{task_id} has {won}")


def _check_culprits(writes: Sequence[Write]) -> None:
    """What one death of an agent ends for good must be one task."""
    poisoned = Counter(
        write.reason.partition("; last: ")[2]
        for write in writes
        if isinstance(write, CloseTry) and "agents died while running it" in write.reason
    )
    if any(count > 1 for count in poisoned.values()):
        raise Violation("I3 one death has one culprit", f"{poisoned}")


def all_transitions() -> set[Transition]:
    """Every (state, event) there is."""
    tasks: list[tuple[TaskState, TaskEvent]] = list(TASK_TRANSITIONS)
    runs: list[tuple[RunState, RunEvent]] = list(RUN_TRANSITIONS)
    of_tasks = {(state.value, event.value) for state, event in tasks}
    return of_tasks | {(f"run {state.value}", event.value) for state, event in runs}
