"""The parts of the board: which rows each has, in which order, and what a row says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from rich.text import Text

from dispatcher.board.bars import slot_bar, span, task_bar
from dispatcher.board.columns import Column, crop, rigid, table
from dispatcher.board.palette import AGENT_LOOKS, ORANGE, QUIET, RED, RUN_LOOKS, TASK_LOOKS
from dispatcher.core.records import AgentState
from dispatcher.store.views import (
    AgentView,
    BoardView,
    FailureView,
    ImportErrorView,
    QueueView,
    RunProgress,
)
from flow.states import RUN_TERMINAL, TERMINAL
from flow.visible import visible

Row = Sequence[Text]

#: A dead agent is news for this long (seconds); later it is history, and goes to the end.
_NEWS = 3600.0
_NAME = 18
#: Cells of a run's bar, in tables from this width on.
_BARS = ((140, 40), (100, 24), (72, 16), (0, 10))
#: Run ids that ``flow dags trigger`` makes differ in their last characters.
_RUN_TAIL = 6
_SLOTS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A table with a title. ``row`` is called for those rows only that are shown."""

    columns: Sequence[Column]
    rows: int
    """How many rows there are to show."""
    row: Callable[[int], Row]
    unread: int = 0
    """How many more there are in the database."""
    rest: Callable[[int], str] = field(default=lambda _: "")
    """What is left out after that many rows, in words that follow their number."""
    empty: str = ""
    """What stands there instead of rows."""

    @property
    def wanted(self) -> int:
        """Lines for all there is, without the titles."""
        return max(1, self.rows + (self.unread > 0))

    def lines(self, width: int, height: int) -> list[Text]:
        """The titles and at most *height* lines of rows; what is left out is summed up."""
        shown = self.rows if self.wanted <= height else max(0, height - 1)
        lines = table(self.columns, [self.row(index) for index in range(shown)], width)
        left = self.rows + self.unread - shown
        below = f"+{left} more{self.rest(shown)}" if left else "" if self.rows else self.empty
        if below and height > 0:
            lines.append(crop(Text(below, style=QUIET), width))
        return lines


def agents_section(view: BoardView, now: datetime) -> Section:
    """Agents: those in trouble first, then by name; those that are gone last."""
    agents = sorted(view.agents, key=lambda agent: (_agent_rank(agent, now), agent.name))

    def row(index: int) -> Row:
        agent = agents[index]
        heard = agent.last_heartbeat
        return (
            _text(agent.name),
            slot_bar(agent.busy, agent.slots, _SLOTS),
            Text(f"{agent.busy}/{agent.slots}"),
            _agent_state(agent),
            Text("" if heard is None else span((now - heard).total_seconds())),
            _text(agent.held_because or ", ".join(agent.queues)),
        )

    def rest(shown: int) -> str:
        states = Counter(agent.state for agent in agents[shown:])
        return ": " + ", ".join(f"{states[state]} {state}" for state in AgentState if states[state])

    columns = (
        Column(title=f"AGENTS {len(agents)}", least=12, most=28),
        rigid("SLOTS", _SLOTS),
        rigid("", 7, right=True),
        rigid("STATE", 11),
        rigid("HEARD", 9, right=True),
        Column(title="QUEUES", least=4, most=60),
    )
    empty = "none seen yet; start one: flow-agent --queue QUEUE"
    return Section(columns=columns, rows=len(agents), row=row, rest=rest, empty=empty)


def _agent_state(agent: AgentView) -> Text:
    if agent.hold:
        return Text(f"! {agent.hold}", RED if agent.hold == "suspended" else ORANGE)
    look = AGENT_LOOKS[agent.state]
    return Text(f"{look.glyph} {agent.state}", look.style)


def _agent_rank(agent: AgentView, now: datetime) -> int:
    heard = agent.last_heartbeat
    recently = heard is not None and (now - heard).total_seconds() < _NEWS
    if agent.hold:
        return 0
    match agent.state:
        case AgentState.LOST:
            return 0
        case AgentState.DEAD:
            return 0 if recently else 2
        case AgentState.ONLINE:
            return 1
        case AgentState.OFFLINE:
            return 3


def queues_section(view: BoardView) -> Section:
    """Queues: unserved ones first, those with tasks that wait before the others; then by name."""
    heard = {
        queue for agent in view.agents if agent.state is AgentState.ONLINE for queue in agent.queues
    }
    queues = sorted(view.queues, key=lambda x: (x.agents > 0, x.agents == 0 == x.waiting, x.name))

    def row(index: int) -> Row:
        queue = queues[index]
        unserved = queue.agents == 0
        return (
            Text(visible(queue.name), RED if unserved else ""),
            Text(str(queue.waiting), "" if queue.waiting else QUIET),
            Text(str(queue.running), "" if queue.running else QUIET),
            Text(str(queue.agents), RED if unserved else ""),
            _served(queue, heard),
        )

    def rest(shown: int) -> str:
        left = queues[shown:]
        unserved = sum(queue.agents == 0 for queue in left)
        waiting = sum(queue.waiting for queue in left)
        return f": {waiting} waiting" + (f", {unserved} unserved" if unserved else "")

    columns = (
        Column(title=f"QUEUES {len(queues)}", least=12, most=28),
        rigid("WAITING", 7, right=True),
        rigid("RUNNING", 7, right=True),
        rigid("AGENTS", 6, right=True),
        rigid("", 10),
    )
    empty = "no DAG, agent or task names any"
    return Section(columns=columns, rows=len(queues), row=row, rest=rest, empty=empty)


def _served(queue: QueueView, heard: set[str]) -> Text:
    if queue.agents == 0:
        return Text("✗ unserved", RED)
    if queue.name not in heard:
        return Text("◐ lost", ORANGE)
    return Text()


def runs_section(view: BoardView, now: datetime, width: int) -> Section:
    """Runs: those that have not ended, then the latest that have. How many older ones there are
    is not counted."""
    bar = next(cells for above, cells in _BARS if width >= above)

    def row(index: int) -> Row:
        progress = view.runs[index]
        run, look = progress.run, RUN_LOOKS[progress.run.state]
        ended = sum(progress.tasks.get(state, 0) for state in TERMINAL)
        began = run.start_date or run.created_at
        took = (run.end_date or now) - began
        return (
            _text(run.dag_id),
            Text(str(run.state), look.style),
            task_bar(progress.tasks, bar),
            Text(f"{ended}/{sum(progress.tasks.values())}"),
            Text(span(took.total_seconds())),
            _text(run.run_id),
        )

    def rest(shown: int) -> str:
        active = view.active_runs - _active(view.runs[:shown])
        return f": {active} active" if active else ""

    columns = (
        Column(title=f"RUNS {view.active_runs} active", least=14, most=28),
        rigid("STATE", 7),
        rigid("TASKS", bar),
        rigid("", 9, right=True),
        rigid("TIME", 9, right=True),
        Column(title="RUN", least=8, most=60, above=71, tail=_RUN_TAIL),
    )
    unread = view.active_runs - _active(view.runs)
    empty = "none yet; start one: flow dags trigger DAG"
    return Section(
        columns=columns, rows=len(view.runs), row=row, unread=unread, rest=rest, empty=empty
    )


def _active(runs: Iterable[RunProgress]) -> int:
    return sum(progress.run.state not in RUN_TERMINAL for progress in runs)


def failures_section(view: BoardView, now: datetime) -> Section:
    """The latest failures of tasks, with their reasons."""

    def row(index: int) -> Row:
        failure = view.failures[index]
        look = TASK_LOOKS[failure.state]
        return (
            Text.assemble((f"{look.glyph} ", look.style), _task_name(failure)),
            Text("" if failure.at is None else span((now - failure.at).total_seconds())),
            _text(failure.reason),
            Text(str(failure.try_number)),
            _text(failure.agent or ""),
            _text(failure.run_id),
        )

    columns = (
        Column(title="FAILURES", least=14, most=32),
        rigid("AGO", 9, right=True),
        Column(title="REASON", least=12, most=80),
        rigid("TRY", 3, right=True, above=100),
        Column(title="AGENT", least=8, most=20, above=100),
        Column(title="RUN", least=12, most=52, above=100, tail=_RUN_TAIL),
    )
    return Section(columns=columns, rows=len(view.failures), row=row)


def _task_name(failure: FailureView) -> str:
    return visible(f"{failure.dag_id}.{failure.task_id}")


def errors_section(view: BoardView, now: datetime) -> Section:
    """DAG files that cannot be read."""

    def row(index: int) -> Row:
        error = view.errors[index]
        return (
            Text(visible(error.file), RED),
            Text(span((now - error.at).total_seconds())),
            Text(_message(error)),
        )

    columns = (
        Column(title=f"DAG ERRORS {len(view.errors)}", least=14, most=32),
        rigid("AGO", 9, right=True),
        Column(title="MESSAGE", least=12, most=400),
    )
    return Section(columns=columns, rows=len(view.errors), row=row)


def _message(error: ImportErrorView) -> str:
    """Without the file's name in front, which has a column of its own."""
    message = error.message.removeprefix(error.file)
    return visible(message.removeprefix(":").lstrip())


def legend(view: BoardView) -> Text:
    """What the glyphs of the bars mean, as far as there are any."""
    present = {state for progress in view.runs for state in progress.tasks}
    line = Text()
    for state, look in TASK_LOOKS.items():
        if state in present:
            line.append("  " if line else "")
            line.append(look.glyph, look.style).append(f" {look.name}", QUIET)
    return line


def _text(text: str) -> Text:
    return Text(visible(text))
