"""``flow runs``: what was triggered and what became of it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from flow.cli.grammar import Command, Group, output_option
from flow.cli.invocation import Invocation, pass_invocation
from flow.cli.names import name, run_argument
from flow.cli.output import moment, print_listing, print_object
from flow.cli.rerun import cancel

if TYPE_CHECKING:
    from dispatcher.store.views import RunView

_COLUMNS = ("run_id", "dag_id", "state", "start_date", "end_date")


@click.group("runs", cls=Group)
def runs() -> None:
    """DAG runs. RUN is DAG/RUN_ID, or a RUN_ID that only one run has."""


@runs.command("list", cls=Command)
@click.argument("dag_id", metavar="[DAG]", type=name, required=False)
@click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="At most this many.",
)
@output_option
@pass_invocation
def list_runs(invocation: Invocation, dag_id: str | None, limit: int, output: str) -> None:
    """List the latest runs, newest first."""
    reader = invocation.reader()
    if dag_id is not None:
        reader.dag(dag_id)
    found = reader.runs(dag_id, limit=limit + 1)
    print_listing(output, _COLUMNS, [_row(run) for run in found[:limit]])
    if len(found) > limit:
        invocation.say(f"only the latest {limit} runs are listed; --limit shows more")


@runs.command("show", cls=Command)
@run_argument
@output_option
@pass_invocation
def show(invocation: Invocation, run_name: str, output: str) -> None:
    """Show one run: its state, its parameters, and how many of its tasks are in which state."""
    reader = invocation.reader()
    run = reader.find_run(run_name)
    counts: dict[str, int] = {}
    for task in reader.tasks(run, datetime.now(UTC)):
        counts[task.state] = counts.get(task.state, 0) + 1
    fields = {
        **_row(run),
        "run_type": run.run_type,
        "logical_date": moment(run.logical_date),
        "data_interval_start": moment(run.data_interval_start),
        "data_interval_end": moment(run.data_interval_end),
        "created_at": moment(run.created_at),
        "conf": dict(run.conf),
        "tasks": counts,
        "reason": reader.why_run_waits(run),
    }
    print_object(output, fields)


def _row(run: RunView) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "dag_id": run.dag_id,
        "state": run.state,
        "start_date": moment(run.start_date),
        "end_date": moment(run.end_date),
    }


runs.add_command(cancel)
