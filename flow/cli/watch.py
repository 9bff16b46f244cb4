"""Following a run until it ends: what ``flow dags trigger --wait`` tells on stderr."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from flow.errors import StoreError
from flow.states import RUN_TERMINAL, RunState, TaskState

if TYPE_CHECKING:
    from dispatcher.store.reader import Reader
    from dispatcher.store.views import RunView, TaskView

_PAUSE = 0.2
#: The database gets at least this many times the time to rest that one look takes.
_REST = 4
#: Seconds for which a database that is away does not end the waiting: the run goes on meanwhile.
_DATABASE_PATIENCE = 60.0


class Watch:
    """Looks at one run again and again, and tells what has changed."""

    def __init__(self, say: Callable[[str], None], reader: Reader) -> None:
        self._say = say
        self._reader = reader
        self._told: dict[int, str] = {}
        self._run_told = ""
        self._lost_at: float | None = None

    def until_ended(self, run: RunView) -> RunState:
        """Wait for the end of *run*; the state it ends in."""
        while True:
            began = time.monotonic()
            run = self.look(run)
            if run.state in RUN_TERMINAL:
                self._say(f"run {run.name}: {run.state}")
                return run.state
            time.sleep(max(_PAUSE, _REST * (time.monotonic() - began)))

    def look(self, run: RunView) -> RunView:
        """Tell what has changed; the run as it is now."""
        try:
            current = self._reader.run(run.dag_id, run.run_id) or run
            tasks = self._reader.tasks(current, datetime.now(UTC))
            waits = self._reader.why_run_waits(current)
        except StoreError as error:
            if self._lost_at is None:
                self._lost_at = time.monotonic()
                self._say(f"{error}; trying again")
            if time.monotonic() - self._lost_at > _DATABASE_PATIENCE:
                raise
            return run
        self._lost_at = None
        if waits and waits != self._run_told:
            self._say(f"run {run.name}: {waits}")
        self._run_told = waits
        if current.state is not RunState.QUEUED:
            for task in tasks:
                self._tell(task)
        return current

    def _tell(self, task: TaskView) -> None:
        text = describe(task)
        if text and self._told.get(task.pk) != text:
            self._say(text)
        self._told[task.pk] = text


def describe(task: TaskView) -> str:
    """``a: running on node1 (try 2)``; ``""`` for what has not come to its turn."""
    if task.state is TaskState.NONE:
        return ""
    text = f"{task.task_id}: {task.state}"
    if task.state is TaskState.RUNNING:
        tries = f" (try {task.try_number})" if task.try_number > 1 else ""
        return f"{text} on {task.agent}{tries}"
    if task.state is TaskState.SUCCESS:
        return text
    return f"{text}: {task.reason}" if task.reason else text
