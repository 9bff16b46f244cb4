"""What the board reads: a fixed number of statements, however many agents, runs and tasks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from datetime import datetime
from typing import Any

from peewee import JOIN, fn

from dispatcher.store.database import errors_translated
from dispatcher.store.loader import one_moment
from dispatcher.store.models import (
    Agent,
    Audit,
    DagImportError,
    DagRun,
    Leader,
    TaskInstance,
    TaskTry,
)
from dispatcher.store.reader import Reader, run_view
from dispatcher.store.views import BoardView, FailureView, LeaderView, RunProgress
from flow.states import RUN_TERMINAL, RunState, TaskState

#: More than fits on any screen.
MOST_RUNS = 100
MOST_FAILURES = 100
#: Failures are looked for in the runs that are shown and in this many failed ones.
_FAILED_RUNS = 50
_ENDED = DagRun.state.in_(sorted(RUN_TERMINAL))
#: Not merely the opposite, which no index answers: the history may be long.
_ACTIVE = DagRun.state.in_(sorted(set(RunState) - RUN_TERMINAL))
_FAILURES = [TaskState.FAILED, TaskState.UP_FOR_RETRY]


class BoardReader(Reader):
    """A :class:`Reader` that also reads everything at once."""

    def pulse(self) -> Hashable:
        """Differs from what it was when anything on the board has changed, and costs little.

        Every transition leaves a line in the audit; agents and unreadable files do not.
        """
        leader = Leader.select(Leader.epoch, Leader.heard_at)
        agents = Agent.select(
            *(Agent.name, Agent.session, Agent.state),
            *(Agent.queues, Agent.slots, Agent.last_heartbeat),
            *(Agent.suspended, Agent.drained),
        ).order_by(Agent.name)
        errors = DagImportError.select(DagImportError.file, DagImportError.at)
        audit = Audit.select(fn.MAX(Audit.id))
        queries = (leader, agents, errors.order_by(DagImportError.file), audit)
        return repr([list(self._rows(query.tuples())) for query in queries])

    def board(self, now: datetime) -> BoardView:
        """The board. Raises :class:`~flow.errors.StoreError`."""
        with one_moment(self._database):
            active = DagRun.select().where(_ACTIVE)
            ended = DagRun.select().where(_ENDED)
            current = self._newest(active, MOST_RUNS)
            runs = [*current, *self._newest(ended, MOST_RUNS)]
            failed = self._newest(ended.where(DagRun.state == RunState.FAILED), _FAILED_RUNS)
            counts = self._task_counts(run.id for run in runs)
            return BoardView(
                at=now,
                leader=self._leader(),
                agents=tuple(self.agents()),
                queues=tuple(self.queues()),
                active_runs=self._count(active),
                runs=tuple(RunProgress(run=run_view(run), tasks=counts[run.id]) for run in runs),
                failures=self._failures({run.id for run in [*runs, *failed]}),
                errors=tuple(self.dag_errors()),
            )

    def close(self) -> None:
        """Close this thread's connection; the next look would open another."""
        with errors_translated(self._database):
            self._database.close()

    def _newest(self, query: Any, most: int) -> list[Any]:
        return list(self._rows(query.order_by(DagRun.id.desc()).limit(most)))

    def _leader(self) -> LeaderView | None:
        for row in self._rows(Leader.select().where(Leader.heard_at.is_null(is_null=False))):
            return LeaderView(dispatcher=row.dispatcher, epoch=row.epoch, heard_at=row.heard_at)
        return None

    def _task_counts(self, run_pks: Iterable[int]) -> Mapping[int, Mapping[TaskState, int]]:
        number = fn.COUNT(TaskInstance.id)
        query = TaskInstance.select(TaskInstance.run, TaskInstance.state, number)
        query = query.where(TaskInstance.run.in_(list(run_pks)))
        counts: defaultdict[int, dict[TaskState, int]] = defaultdict(dict)
        for run_pk, state, count in self._rows(
            query.group_by(TaskInstance.run, TaskInstance.state).tuples()
        ):
            counts[run_pk][TaskState(state)] = count
        return counts

    def _failures(self, run_pks: Iterable[int]) -> tuple[FailureView, ...]:
        # One that waits for its retry has no end yet, but its last try has.
        latest_try = (TaskTry.task == TaskInstance.id) & (
            TaskTry.try_number == TaskInstance.try_number
        )
        at = fn.COALESCE(TaskInstance.end_date, TaskTry.closed_at)
        query = (
            TaskInstance.select(TaskInstance, DagRun, TaskTry.closed_at.alias("closed_at"))
            .join(DagRun)
            .switch(TaskInstance)
            .join(TaskTry, JOIN.LEFT_OUTER, on=latest_try)
            .where(TaskInstance.run.in_(list(run_pks)), TaskInstance.state.in_(_FAILURES))
            .order_by(at.desc(), TaskInstance.id.desc())
            .limit(MOST_FAILURES)
        )
        return tuple(
            FailureView(
                dag_id=row.dag_id,
                run_id=row.run_id,
                task_id=row.task_id,
                state=row.state,
                try_number=row.try_number,
                agent=row.agent,
                reason=row.reason,
                at=row.end_date or row.closed_at,
            )
            for row in self._rows(query.objects())
        )
