"""What runs that have ended mean for those to come. All of it is read within the caller's
transaction."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from peewee import Database

from dispatcher.core.past import GOOD_ENDS
from dispatcher.core.records import LastScheduled, RunType
from dispatcher.store.fields import UtcField
from dispatcher.store.models import Dag, DagRun, TaskInstance
from dispatcher.store.rows import chunks, fetch
from flow.schedules import Interval
from flow.states import RUN_TERMINAL

_ENDED = sorted(RUN_TERMINAL)


def last_scheduled(database: Database) -> dict[str, LastScheduled]:
    """Per DAG, active or not, its run by schedule with the latest logical date: an index entry
    each, however long the history."""
    run, other = DagRun, DagRun.alias()
    latest = (
        other.select(other.id)
        .where(other.dag_id == Dag.dag_id, other.run_type == RunType.SCHEDULED)
        .order_by(other.logical_date.desc())
        .limit(1)
    )
    chosen = (Dag.dag_id, run.id, run.data_interval_start, run.data_interval_end)
    query: Any = Dag.select(*chosen).join(run, on=(run.id == latest))
    moment = UtcField().python_value
    found = {}
    for dag_id, run_pk, start, end in fetch(database, query):
        begin, until = moment(start), moment(end)
        if begin is not None and until is not None:
            found[dag_id] = LastScheduled(run_pk=run_pk, interval=Interval(begin, until))
    return found


def followed(database: Database, runs: Any) -> set[int]:
    """The runs before those that the condition *runs* selects."""
    previous = DagRun.previous_pk
    query = DagRun.select(previous).where(runs, previous.is_null(is_null=False))
    return {run_pk for (run_pk,) in fetch(database, query)}


def without_success(database: Database, run_pks: Iterable[int]) -> dict[int, frozenset[str]]:
    """Of those of the runs that have ended: the tasks that did not succeed, if any."""
    bad = TaskInstance.state.not_in(sorted(GOOD_ENDS))
    tasks: Any = TaskInstance.select(TaskInstance.run, TaskInstance.task_id).join(DagRun)
    found: dict[int, set[str]] = {}
    for chunk in chunks(sorted(run_pks)):
        query = tasks.where(bad, DagRun.state.in_(_ENDED), DagRun.id.in_(chunk))
        for run_pk, task_id in fetch(database, query):
            found.setdefault(run_pk, set()).add(task_id)
    return {run_pk: frozenset(names) for run_pk, names in found.items()}
