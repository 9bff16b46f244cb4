"""Reading what a new reign starts from."""

from __future__ import annotations

from contextlib import AbstractContextManager

from peewee import Database, SqliteDatabase, fn

from dispatcher.core.records import AgentRow, Intent, LoadedRun, RunRow, Snapshot, TaskRow
from dispatcher.store import history, models
from dispatcher.store.database import errors_translated, transaction
from dispatcher.store.rows import AGENT_LISTS, dag_query, dag_records, fetch, records, select
from flow.dagspec import DagSpec
from flow.states import RUN_TERMINAL, RunState

_UNFINISHED = sorted(set(RunState) - RUN_TERMINAL)


def load(database: Database) -> Snapshot:
    """All that is live, as it was at one moment. Raises :class:`~flow.errors.StoreError`."""
    dag, version = models.Dag, models.DagVersion
    run, task, grant, agent = models.DagRun, models.TaskInstance, models.TaskTry, models.Agent
    unfinished = run.state.in_(_UNFINISHED)
    in_use = version.id.in_(dag.select(dag.version).where(dag.active)) | version.id.in_(
        run.select(run.version).where(unfinished)
    )
    with one_moment(database):
        # Only fetched in here: the server ends a session that idles within a transaction, and
        # making the rows of a large answer takes seconds.
        dags = fetch(database, dag_query().where(dag.active))
        versions = fetch(database, version.select(version.id, version.spec).where(in_use))
        runs = fetch(database, select(run, RunRow).where(unfinished).order_by(run.id))
        of_runs = select(task, TaskRow).join(run).where(unfinished)
        tasks = fetch(database, of_runs.order_by(task.id))
        agents = fetch(database, select(agent, AgentRow).order_by(agent.name))
        last = history.last_scheduled(database)
        asked = history.followed(database, unfinished) | {each.run_pk for each in last.values()}
        past = history.without_success(database, asked)
        [(last_run,)] = fetch(database, run.select(fn.MAX(run.id)))
        [(last_token,)] = fetch(database, grant.select(fn.MAX(grant.token)))
        [(last_task,)] = fetch(database, task.select(fn.MAX(task.id)))
    return Snapshot(
        dags=tuple(dag_records(dags)),
        versions={key: DagSpec.from_json(spec) for key, spec in versions},
        runs=tuple(records(run, RunRow, runs)),
        tasks=tuple(records(task, TaskRow, tasks)),
        agents=tuple(records(agent, AgentRow, agents, **AGENT_LISTS)),
        last_scheduled=last,
        past=past,
        last_run_pk=last_run or 0,
        last_task_pk=last_task or 0,
        last_token=last_token or 0,
    )


def one_moment(database: Database) -> AbstractContextManager[None]:
    """A transaction whose queries all see the same state, whoever writes meanwhile."""
    sqlite = isinstance(database, SqliteDatabase)
    return transaction(database, "DEFERRED" if sqlite else "REPEATABLE READ")


def pending_intents(database: Database) -> list[Intent]:
    """Requests that nobody has dealt with, oldest first."""
    intent = models.Intent
    query = select(intent, Intent).where(intent.done_at.is_null()).order_by(intent.id)
    with errors_translated(database):
        answer = fetch(database, query)
    return list(records(intent, Intent, answer))


def load_run(database: Database, dag_id: str, run_id: str) -> LoadedRun | None:
    """One run with all its task instances, ended or not; ``None`` if there is none."""
    run, task, version = models.DagRun, models.TaskInstance, models.DagVersion
    named = (run.dag_id == dag_id) & (run.run_id == run_id)
    with one_moment(database):
        runs = fetch(database, select(run, RunRow).where(named))
        tasks = fetch(database, select(task, TaskRow).join(run).where(named).order_by(task.id))
        specs = fetch(database, version.select(version.spec).join(run).where(named))
        past = history.without_success(database, history.followed(database, named))
    for row in records(run, RunRow, runs):
        return LoadedRun(
            run=row,
            tasks=tuple(records(task, TaskRow, tasks)),
            spec=DagSpec.from_json(specs[0][0]),
            past=past.get(row.previous_pk or 0, frozenset()),
        )
    return None


def owner_of_try(
    database: Database, task_pk: int, try_number: int, token: int
) -> tuple[int, str] | None:
    """The run of a try that was granted *token*, and the agent it was granted to; ``None`` if there
    was no such try."""
    task, grant = models.TaskInstance, models.TaskTry
    query = (
        task.select(task.run, grant.agent)
        .join(grant)
        .where(task.id == task_pk, grant.try_number == try_number, grant.token == token)
    )
    with errors_translated(database):
        answer = fetch(database, query)
    return (answer[0][0], answer[0][1]) if answer else None
