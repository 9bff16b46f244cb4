"""The story of the demo: a dispatcher, three agents, a run that loads them, and a ``kill -9``.

It never blocks for long: between two of its steps it says what it waits for, so that whoever plays
it can draw meanwhile.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dispatcher.board.palette import GREEN, ORANGE, RED
from dispatcher.store.views import BoardView
from flow.states import RUN_TERMINAL
from tests.acceptance.ledger import Ledger, Life, ledger_command, now
from tests.acceptance.system import Daemon, System
from tests.demo.verdict import Kill, Verdict, interrupted, judge, name, restart

DAG_ID = "load"
QUEUE = "work"
AGENTS = ("node1", "node2", "node3")
SLOTS = 3
PARTS = 54
EXPECTED = ("split", *(f"part_{number:02}" for number in range(1, PARTS + 1)), "merge")
#: The agent is killed once this many tasks have ended: in the thick of it.
_BEFORE_THE_KILL = 16
#: As in a unit with Restart=always and RestartSec=1.
_RESTART_AFTER = 1.0


@dataclass(frozen=True, slots=True)
class Line:
    """Something that has happened, *at* so many seconds after the run was triggered."""

    at: float
    glyph: str
    style: str
    text: str


@dataclass(frozen=True, slots=True)
class Wait:
    """The story goes on when this is so; *what* it is, and for how many seconds at most."""

    what: str
    so: Callable[[], bool]
    within: float = 30.0


class Stuck(Exception):
    """Something did not happen, or a process ended that should not."""


@dataclass(slots=True)
class Story:
    """*system* is migrated and nothing of it runs. *view*: the board as it is now."""

    system: System
    ledger: Ledger
    view: Callable[[], BoardView | None]
    lines: list[Line] = field(default_factory=list)
    began: float | None = None
    """When the run was triggered, on the ledger's clock."""
    verdict: Verdict | None = None
    _run_id: str = ""
    _victim: str = ""
    _agents: dict[str, Daemon] = field(default_factory=dict)
    _dispatcher: Daemon | None = None

    def steps(self) -> Iterator[Wait]:
        """What happens, and what is waited for in between."""
        yield from self._set_up()
        yield from self._trigger()
        yield Wait("an agent with all its slots busy", self._choose)
        kill = self._kill()
        yield from self._recover(kill)
        yield Wait("the end of the run", self._has_ended)
        self._judge(kill)

    # -- before the kill -----------------------------------------------------------------------

    def _set_up(self) -> Iterator[Wait]:
        self.system.write_dag(DAG_ID, dag(self.ledger.path))
        dispatcher = self.system.start_dispatcher(ready=False)
        self._dispatcher = dispatcher
        for agent in AGENTS:
            self._start(agent)
        yield Wait("a leading dispatcher", lambda: self._says(dispatcher, "leads: epoch"))
        yield Wait("the DAG", lambda: self._says(dispatcher, f"DAG {DAG_ID}: version"))
        yield Wait("the agents on the board", self._all_online)

    def _trigger(self) -> Iterator[Wait]:
        command = self.system.start_command("dags", "trigger", DAG_ID)
        yield Wait("the trigger", lambda: command.poll() is not None)
        out, err = command.communicate()
        if command.returncode:
            raise Stuck(f"the trigger failed: {err}")
        self._run_id = out.strip()
        self.began = now()
        slots = f"{len(AGENTS)} agents of {SLOTS} slots each"
        self._say("▶", GREEN, f"{len(EXPECTED)} tasks for queue {QUEUE}, {slots}")

    def _choose(self) -> bool:
        """Whom to kill: an agent all of whose slots are at work at this very moment."""
        lives = self.ledger.lives()
        if sum(life.finished for life in lives) < _BEFORE_THE_KILL:
            return False
        busy = Counter(life.agent for life in lives if not life.finished)
        # The one in the middle of the board is looked at first.
        order = sorted(AGENTS, key=lambda agent: abs(AGENTS.index(agent) - 1))
        self._victim = next((agent for agent in order if busy[agent] == SLOTS), "")
        return bool(self._victim)

    # -- the kill ------------------------------------------------------------------------------

    def _kill(self) -> Kill:
        victim = self._victim
        moment = now()
        self._agents[victim].kill()
        kill = Kill(victim, moment, back=moment + _RESTART_AFTER)
        hit = ", ".join(interrupted(self.ledger.lives(), kill))
        self._say("✗", RED, f"kill -9 {victim}, which is running {hit}")
        return kill

    def _recover(self, kill: Kill) -> Iterator[Wait]:
        yield Wait("the restart", lambda: now() >= kill.back)
        agent = self._start(kill.agent)
        self._say("↻", ORANGE, f"{kill.agent} starts again, as under systemd (Restart=always)")
        begins = f"of agent {kill.agent} begins"
        yield Wait("the proof of death", lambda: self._says(agent, begins))
        self._say("●", GREEN, f"{kill.agent} is back, and has proven its old tasks dead")
        hit = interrupted(self.ledger.lives(), kill)
        yield Wait("the interrupted tasks", lambda: len(self._restarts(kill, hit)) == len(hit))
        where = ", ".join(f"{name(life)} on {life.agent}" for life in self._restarts(kill, hit))
        self._say("●", GREEN, f"running again: {where}")

    def _restarts(self, kill: Kill, hit: tuple[str, ...]) -> list[Life]:
        lives = self.ledger.lives()
        found = [restart(lives, kill, task) for task in hit]
        return [life for life in found if life is not None]

    # -- the end -------------------------------------------------------------------------------

    def _has_ended(self) -> bool:
        view = self._checked_view()
        return view is not None and any(
            progress.run.run_id == self._run_id and progress.run.state in RUN_TERMINAL
            for progress in view.runs
        )

    def _judge(self, kill: Kill) -> None:
        tasks = self.system.tasks(self._run_id)
        succeeded = {task for task, row in tasks.items() if row["state"] == "success"}
        self.verdict = verdict = judge(self.ledger.lives(), kill, EXPECTED, succeeded)
        ran = f"{len(EXPECTED)} tasks, {verdict.starts} starts, {len(succeeded)} successes"
        self._say("■", GREEN if len(succeeded) == len(EXPECTED) else RED, f"the run is over: {ran}")

    # -- details -------------------------------------------------------------------------------

    def _start(self, agent: str) -> Daemon:
        daemon = self.system.start_agent(agent, QUEUE, slots=SLOTS, ready=False)
        self._agents[agent] = daemon
        return daemon

    def _all_online(self) -> bool:
        view = self._checked_view()
        return view is not None and [x.name for x in view.agents if x.live] == sorted(AGENTS)

    def _checked_view(self) -> BoardView | None:
        for daemon in (self._dispatcher, *self._agents.values()):
            if daemon is not None:
                _check_alive(daemon)
        return self.view()

    def _says(self, daemon: Daemon, text: str) -> bool:
        _check_alive(daemon)
        return daemon.says(text)

    def _say(self, glyph: str, style: str, text: str) -> None:
        assert self.began is not None
        self.lines.append(Line(max(0.0, now() - self.began), glyph, style, text))


def dag(ledger: Path) -> str:
    """The DAG file: ``split``, many parts side by side, ``merge``. All of them keep the ledger."""
    chance = random.Random(4)
    ends = ledger_command(ledger, 0.5)
    parts = [ledger_command(ledger, round(chance.uniform(1.0, 2.4), 2)) for _ in range(PARTS)]
    return f"""
from flow import DAG, BashOperator

with DAG({DAG_ID!r}, default_args={{"queue": {QUEUE!r}}}):
    split = BashOperator(task_id="split", bash_command={ends!r})
    parts = [
        BashOperator(task_id=f"part_{{number:02}}", bash_command=command)
        for number, command in enumerate({parts!r}, start=1)
    ]
    split >> parts >> BashOperator(task_id="merge", bash_command={ends!r})
"""


def _check_alive(daemon: Daemon) -> None:
    code = daemon.process.poll()
    if code is not None:
        raise Stuck(f"{daemon.output.name}: this process has ended, with code {code}")
