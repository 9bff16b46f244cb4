"""``flow dags next``: the runs that a schedule will make."""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from flow.cli.grammar import Command, output_option
from flow.cli.invocation import Invocation, pass_invocation
from flow.cli.names import dag_argument
from flow.cli.output import moment, print_listing
from flow.errors import DagError
from flow.schedules import Interval, Schedule

if TYPE_CHECKING:
    from dispatcher.store.views import DagView

_COLUMNS = ("logical_date", "due", "logical_date_local", "due_local")


@click.command("next", cls=Command)
@dag_argument
@click.option(
    "-n",
    "number",
    metavar="N",
    type=click.IntRange(1, 1000),
    default=10,
    show_default=True,
    help="So many.",
)
@output_option
@pass_invocation
def upcoming(invocation: Invocation, dag_id: str, number: int, output: str) -> None:
    """List the next runs of a DAG's schedule, in UTC and in its time zone."""
    dag = invocation.reader().dag(dag_id)
    schedule = Schedule.of(dag.spec)
    rows: list[dict[str, Any]] = []
    if schedule is None:
        invocation.say(f"dag {dag_id} has no schedule; it runs when triggered")
    elif not dag.active:
        invocation.warn(f"its file {dag.spec.file} no longer holds dag {dag_id!r}")
    else:
        found = islice(schedule.upcoming(dag.last, datetime.now(UTC)), number)
        rows = [_row(interval, schedule.zone) for interval in found]
        if dag.paused:
            invocation.warn(f"dag {dag_id} is paused: it runs none of these before it is unpaused")
    print_listing(output, _COLUMNS, rows)


def next_run(dag: DagView, now: datetime) -> str | None:
    """When the next run of the schedule is due; ``None`` without one, or while there will be
    none."""
    try:
        schedule = Schedule.of(dag.spec) if dag.active and not dag.paused else None
    except DagError:  # `flow dags next` says why
        return None
    interval = schedule.next(dag.last, now) if schedule is not None else None
    return moment(interval.end) if interval is not None else None


def _row(interval: Interval, zone: tzinfo) -> dict[str, Any]:
    return {
        "logical_date": moment(interval.start),
        "data_interval_start": moment(interval.start),
        "data_interval_end": moment(interval.end),
        "due": moment(interval.end),
        "logical_date_local": _local(interval.start, zone),
        "due_local": _local(interval.end, zone),
    }


def _local(at: datetime, zone: tzinfo) -> str:
    return at.astimezone(zone).isoformat(timespec="microseconds")
