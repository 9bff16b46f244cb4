"""Runs by schedule: each interval that is due gets one run, whoever leads.

A run is named after its logical date, and the latest one of each DAG is known from the database:
so neither a restart nor a second dispatcher repeats one. What a DAG has to catch up stays
arithmetic; only as many runs exist as may be active.
"""

from __future__ import annotations

from datetime import UTC

from dispatcher.core.records import DagRow
from dispatcher.core.runs import create_run
from dispatcher.core.state import Effects, Instant, State
from flow.schedules import Interval

ACTOR = "schedule"
#: How the names of runs by schedule begin, and of no others.
SCHEDULED = "scheduled__"


def advance(state: State, now: Instant, out: Effects) -> None:
    """Create the runs that are due, and know when to look again."""
    agenda = state.agenda
    agenda.look_at(now.wall, now.mono)
    unsettled, agenda.unsettled = agenda.unsettled, set()
    for dag_id in sorted(unsettled):
        _settle(state, dag_id, now)
    # First all that is due, then their next entries: a DAG that is far behind, with runs that end
    # at once, must not keep everything else waiting.
    for dag_id in agenda.take_due(now.wall):
        _catch_up(state, state.dags[dag_id], now, out)
        _settle(state, dag_id, now)
    out.notes += agenda.problems
    agenda.problems.clear()


def run_id_of(interval: Interval) -> str:
    """The name of the run of *interval*."""
    return f"{SCHEDULED}{interval.start.astimezone(UTC).isoformat()}"


def _settle(state: State, dag_id: str, now: Instant) -> None:
    """Make the DAG's entry in the agenda anew."""
    dag = state.dags.get(dag_id)
    interval = None
    if dag is not None and dag.active and not dag.paused and state.rules.schedules:
        interval = state.agenda.next_interval(dag, now.wall) if _room(state, dag) > 0 else None
    state.agenda.enter(dag_id, interval.end if interval is not None else None)


def _catch_up(state: State, dag: DagRow, now: Instant, out: Effects) -> None:
    # The room now is the most for one go, even where runs end at once.
    for _ in range(_room(state, dag)):
        interval = state.agenda.next_interval(dag, now.wall)
        if interval is None or interval.end > now.wall:
            return
        run_id = run_id_of(interval)
        create_run(state, dag.dag_id, run_id, {}, now, out, actor=ACTOR, interval=interval)
        out.notes.append(f"run {dag.dag_id}/{run_id} is due")


def _room(state: State, dag: DagRow) -> int:
    """How many more runs of the DAG may exist unfinished, for a schedule to create them."""
    queued = len(state.waiting_runs.get(dag.dag_id, ()))
    return dag.spec.max_active_runs - state.active_runs.get(dag.dag_id, 0) - queued
