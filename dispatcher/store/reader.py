"""What the commands (and later the board) read, and the one thing they write: requests.

Every method is a few statements of its own; two of them may see two moments.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from peewee import Database, Query, fn

from dispatcher.core.past import GOOD_ENDS
from dispatcher.core.records import LastScheduled
from dispatcher.store.agentviews import AgentViews
from dispatcher.store.database import errors_translated
from dispatcher.store.history import last_scheduled
from dispatcher.store.models import (
    Dag,
    DagImportError,
    DagRun,
    DagVersion,
    Intent,
    TaskInstance,
    TaskTry,
)
from dispatcher.store.views import (
    AgentDetail,
    AgentView,
    DagView,
    ImportErrorView,
    IntentView,
    QueueView,
    RunView,
    TaskView,
    TryView,
)
from dispatcher.waiting import QueueLoad, Surroundings, Waiter, shape_of, why_run_waits, why_waiting
from flow.dagspec import DagSpec
from flow.errors import UnknownName, nearest
from flow.states import ACTIVE, RUN_TERMINAL, RunState, TaskState

#: How many runs and requests are looked through for a name that fits no run.
_SEARCHED = 500
_SHOWN_CANDIDATES = 10
#: What is asked for, rather than "not ended", which no index answers: the history may be long.
_ACTIVE_RUN = sorted(set(RunState) - RUN_TERMINAL)
_WAITING_IN_QUEUE = frozenset({TaskState.SCHEDULED, TaskState.QUEUED})


class Reader:
    """Reads the database. Every method raises :class:`~flow.errors.StoreError` when it cannot."""

    def __init__(self, database: Database, *, parallelism: int = 0) -> None:
        self._database = database
        self._parallelism = parallelism
        self._agents = AgentViews(self._rows)

    # -- DAGs ------------------------------------------------------------------------------

    def dags(self) -> list[DagView]:
        """The active DAGs, by name."""
        query = Dag.select(Dag, DagVersion.spec).join(DagVersion).where(Dag.active)
        last = self._last_scheduled()
        return [_dag_view(row, last) for row in self._rows(query.order_by(Dag.dag_id))]

    def dag(self, dag_id: str) -> DagView:
        """One DAG, with its source, active or not. Raises :class:`UnknownName`."""
        query = Dag.select(Dag, DagVersion).join(DagVersion).where(Dag.dag_id == dag_id)
        for row in self._rows(query):
            return _dag_view(row, self._last_scheduled(), source=row.version.source)
        known = [row.dag_id for row in self._rows(Dag.select(Dag.dag_id).where(Dag.active))]
        remedy = nearest(dag_id, known) or "; see `flow dags list` and `flow dags errors`"
        raise UnknownName(f"dag {dag_id!r}: expected a known DAG{remedy}")

    def dag_errors(self) -> list[ImportErrorView]:
        """The DAG files that cannot be read, by name."""
        rows = self._rows(DagImportError.select().order_by(DagImportError.file))
        return [ImportErrorView(file=row.file, message=row.message, at=row.at) for row in rows]

    # -- runs ------------------------------------------------------------------------------

    def runs(self, dag_id: str | None = None, *, limit: int) -> list[RunView]:
        """The latest runs, of one DAG or of all, newest first."""
        query = DagRun.select()
        if dag_id is not None:
            query = query.where(DagRun.dag_id == dag_id)
        return [run_view(row) for row in self._rows(query.order_by(DagRun.id.desc()).limit(limit))]

    def run(self, dag_id: str, run_id: str) -> RunView | None:
        """The run of these two names, if it exists (yet)."""
        query = DagRun.select().where(DagRun.dag_id == dag_id, DagRun.run_id == run_id)
        return next((run_view(row) for row in self._rows(query)), None)

    def find_run(self, text: str) -> RunView:
        """The run that *text* names: ``DAG/RUN_ID``, or a run id that only one run has.

        Raises :class:`UnknownName` with the candidates, the nearest name, or the request that
        no dispatcher has carried out.
        """
        dag_id, slash, run_id = text.partition("/")
        if slash:
            found = self.run(dag_id, run_id)
            if found is not None:
                return found
            self._refuse_requested(text, dag_id, run_id)
            self.dag(dag_id)
            recent = [run.name for run in self.runs(dag_id, limit=_SEARCHED)]
            remedy = nearest(text, recent) or f"; see `flow runs list {dag_id}`"
            raise UnknownName(f"run {text!r}: expected a known run{remedy}")
        same = [run_view(row) for row in self._rows(DagRun.select().where(DagRun.run_id == text))]
        if len(same) == 1:
            return same[0]
        if same:
            names = sorted(run.name for run in same)
            shown = ", ".join(names[:_SHOWN_CANDIDATES])
            raise UnknownName(
                f"run {text!r}: expected one run, got {len(names)}; write one of {shown}"
            )
        self._refuse_requested(text, None, text)
        raise UnknownName(f"run {text!r}: expected a known run{self._run_remedy(text)}")

    def surroundings(self, run: RunView) -> Surroundings:
        """What makes *run* and its tasks wait, besides their queues."""
        spec = self._spec(run.version_pk)
        dag = Dag.select(Dag.paused).where(Dag.dag_id == run.dag_id)
        of_dag = DagRun.select(DagRun.id).where(
            DagRun.dag_id == run.dag_id, DagRun.state.in_(_ACTIVE_RUN)
        )
        active_runs = of_dag.where(DagRun.state != RunState.QUEUED)
        active_tasks = TaskInstance.select().where(
            TaskInstance.run.in_(of_dag), TaskInstance.state.in_(sorted(ACTIVE))
        )
        return Surroundings(
            run_state=run.state,
            paused=any(row.paused for row in self._rows(dag)),
            active_runs=self._count(active_runs),
            max_active_runs=spec.max_active_runs,
            active_tasks=self._count(active_tasks),
            max_active_tasks=spec.max_active_tasks,
            all_active_tasks=self._all_active_tasks() if self._parallelism else 0,
            parallelism=self._parallelism,
        )

    def why_run_waits(self, run: RunView) -> str:
        """Why *run* has not started; ``""`` if it has."""
        return why_run_waits(self.surroundings(run)) if run.state is RunState.QUEUED else ""

    # -- tasks -----------------------------------------------------------------------------

    def tasks(self, run: RunView, now: datetime) -> list[TaskView]:
        """The task instances of *run*, in the order of the DAG file."""
        query = TaskInstance.select().where(TaskInstance.run == run.pk).order_by(TaskInstance.id)
        rows = list(self._rows(query))
        return self._explained(run, rows, rows, now)

    def task(self, run: RunView, task_id: str, now: datetime) -> TaskView:
        """One task instance of *run*. Raises :class:`UnknownName`."""
        specs = {task.task_id: task for task in self._spec(run.version_pk).tasks}
        if task_id not in specs:
            remedy = nearest(task_id, specs) or f"; see `flow tasks list {run.name}`"
            raise UnknownName(f"task {task_id!r}: expected a task of run {run.name}{remedy}")
        wanted = [task_id, *specs[task_id].upstream]
        query = TaskInstance.select().where(
            TaskInstance.run == run.pk, TaskInstance.task_id.in_(wanted)
        )
        rows = list(self._rows(query))
        return self._explained(run, [row for row in rows if row.task_id == task_id], rows, now)[0]

    def tries(self, task: TaskView) -> list[TryView]:
        """The tries of *task* that were granted, oldest first."""
        query = TaskTry.select().where(TaskTry.task == task.pk).order_by(TaskTry.try_number)
        names = TryView.__dataclass_fields__
        return [
            TryView(**{name: getattr(row, name) for name in names}) for row in self._rows(query)
        ]

    # -- agents and queues -----------------------------------------------------------------

    def agents(self) -> list[AgentView]:
        """Every agent ever seen, by name."""
        return self._agents.all()

    def agent(self, name: str) -> AgentDetail:
        """All that is known of one agent. Raises :class:`UnknownName`."""
        return self._agents.one(name)

    def queue_loads(self) -> Mapping[str, QueueLoad]:
        """The live agents of each queue that has any."""
        return self._agents.loads()

    def queues(self) -> list[QueueView]:
        """Every queue that an active DAG, a live agent or an unfinished task names, by name."""
        waiting: Counter[str] = Counter()
        running: Counter[str] = Counter()
        counts = self._unfinished(
            TaskInstance.queue, TaskInstance.state, fn.COUNT(TaskInstance.id).alias("number")
        )
        for row in self._rows(counts.group_by(TaskInstance.queue, TaskInstance.state).dicts()):
            state = TaskState(row["state"])
            waiting[row["queue"]] += row["number"] * (state in _WAITING_IN_QUEUE)
            running[row["queue"]] += row["number"] * (state is TaskState.RUNNING)
        loads = self.queue_loads()
        named = {task.queue for dag in self.dags() for task in dag.spec.tasks}
        return [
            QueueView(
                name=name,
                waiting=waiting[name],
                running=running[name],
                agents=loads.get(name, QueueLoad()).agents,
            )
            for name in sorted(named | set(loads) | set(+waiting) | set(+running))
        ]

    # -- requests --------------------------------------------------------------------------

    def request(self, kind: str, arguments: Mapping[str, Any], *, actor: str, at: datetime) -> int:
        """Ask the dispatcher for something; the id under which :meth:`intent` finds the request.

        *kind* is trigger, pause or unpause; *actor* (``user <name>``) is for the audit.
        """
        values = {"kind": kind, "arguments": {**arguments, "actor": actor}, "created_at": at}
        with errors_translated(self._database):
            return int(Intent.insert(values).execute(self._database))

    def intent(self, intent_id: int) -> IntentView:
        """The request of this id. Raises :class:`UnknownName`."""
        for row in self._rows(Intent.select().where(Intent.id == intent_id)):
            return _intent_view(row)
        raise UnknownName(f"request {intent_id}: expected a known request; it may be long done")

    # -- behind them -----------------------------------------------------------------------

    def _rows(self, query: Query) -> Iterable[Any]:
        with errors_translated(self._database):
            return list(query.execute(self._database))

    def _count(self, query: Any) -> int:
        with errors_translated(self._database):
            return int(query.count(self._database))

    def _spec(self, version_pk: int) -> DagSpec:
        query = DagVersion.select(DagVersion.spec).where(DagVersion.id == version_pk)
        return next(DagSpec.from_json(row.spec) for row in self._rows(query))

    def _unfinished(self, *columns: Any) -> Any:
        """Task instances of runs that have not ended: few, however long the history."""
        runs = DagRun.select(DagRun.id).where(DagRun.state.in_(_ACTIVE_RUN))
        return TaskInstance.select(*columns).where(TaskInstance.run.in_(runs))

    def _explained(
        self, run: RunView, rows: list[Any], context: list[Any], now: datetime
    ) -> list[TaskView]:
        """*rows* with the reasons why they wait; *context* has their upstream tasks too."""
        if run.state in RUN_TERMINAL:
            return [_task_view(row, row.reason) for row in rows]
        around, loads = self.surroundings(run), self.queue_loads()
        specs = {task.task_id: task for task in self._spec(run.version_pk).tasks}
        states = {row.task_id: row.state for row in context}
        past = self._past(run)

        def reason(row: Any) -> str:
            spec = specs[row.task_id]
            waiter = Waiter(
                state=row.state,
                queue=row.queue,
                upstream={name: states[name] for name in spec.upstream},
                past=past.get(row.task_id, "") if spec.depends_on_past else "",
                failures=row.failures,
                retries=spec.retries,
                not_before=row.not_before,
                stored=row.reason,
                takes=shape_of(spec.resources),
            )
            load = loads.get(row.queue, QueueLoad())
            return why_waiting(waiter, around, load, now) or str(row.reason)

        return [_task_view(row, reason(row)) for row in rows]

    def _all_active_tasks(self) -> int:
        return self._count(self._unfinished().where(TaskInstance.state.in_(sorted(ACTIVE))))

    def _past(self, run: RunView) -> Mapping[str, str]:
        """What became of tasks that have not succeeded in the run before *run*."""
        query: Any = TaskInstance.select(TaskInstance.task_id, TaskInstance.state, DagRun.run_id)
        before = query.join(DagRun).where(
            DagRun.id == run.previous_pk, TaskInstance.state.not_in(sorted(GOOD_ENDS))
        )
        return {
            row["task_id"]: f"it is {TaskState(row['state'])} in {row['run_id']}"
            for row in self._rows(before.dicts())
        }

    def _last_scheduled(self) -> Mapping[str, LastScheduled]:
        with errors_translated(self._database):
            return last_scheduled(self._database)

    def _refuse_requested(self, text: str, dag_id: str | None, run_id: str) -> None:
        query = Intent.select().where(Intent.kind == "trigger").order_by(Intent.id.desc())
        for intent in map(_intent_view, self._rows(query.limit(_SEARCHED))):
            asked = intent.arguments
            if asked.get("run_id") != run_id or dag_id not in (None, asked.get("dag_id")):
                continue
            if not intent.done:
                raise UnknownName(
                    f"run {text!r}: it was requested, but no dispatcher has created it yet; "
                    "is `flow dispatcher` running?"
                )
            if intent.error:
                raise UnknownName(f"run {text!r}: its trigger was refused: {intent.error}")

    def _run_remedy(self, text: str) -> str:
        recent = self.runs(limit=_SEARCHED)
        of_dag = [run for run in recent if run.dag_id == text]
        if of_dag:
            return f", got the name of a DAG; its latest run is {of_dag[0].name}"
        return nearest(text, {run.run_id for run in recent}) or "; see `flow runs list`"


def _dag_view(row: Any, last: Mapping[str, LastScheduled], source: str = "") -> DagView:
    return DagView(
        spec=DagSpec.from_json(row.version.spec),
        paused=row.paused,
        active=row.active,
        last=last[row.dag_id].interval if row.dag_id in last else None,
        source=source,
    )


def run_view(row: Any) -> RunView:
    """The view of a whole row of ``dag_run``."""
    return RunView(
        pk=row.id,
        dag_id=row.dag_id,
        run_id=row.run_id,
        state=row.state,
        conf=row.conf,
        logical_date=row.logical_date,
        created_at=row.created_at,
        start_date=row.start_date,
        end_date=row.end_date,
        version_pk=row.version_id,
        run_type=row.run_type,
        data_interval_start=row.data_interval_start,
        data_interval_end=row.data_interval_end,
        previous_pk=row.previous_pk,
    )


def _task_view(row: Any, reason: str) -> TaskView:
    copied = [name for name in TaskView.__dataclass_fields__ if name not in ("pk", "reason")]
    return TaskView(pk=row.id, reason=reason, **{name: getattr(row, name) for name in copied})


def _intent_view(row: Any) -> IntentView:
    return IntentView(
        id=row.id,
        kind=row.kind,
        arguments=row.arguments,
        done=row.done_at is not None,
        error=row.error,
    )
