"""``flow dags``: what can run, and asking for it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from flow.cli.grammar import Command, Group, output_option
from flow.cli.invocation import Invocation, pass_invocation
from flow.cli.names import dag_argument
from flow.cli.output import moment, print_listing, print_object
from flow.cli.requests import ask
from flow.cli.trial import test_dag
from flow.cli.trigger import trigger
from flow.cli.upcoming import next_run, upcoming

if TYPE_CHECKING:
    from dispatcher.store.views import DagView

_COLUMNS = ("dag_id", "paused", "schedule", "next_run", "owner", "file")
_TASK_FIELDS = ("task_id", "operator", "queue", "upstream", "retries", "owner")


@click.group("dags", cls=Group)
def dags() -> None:
    """DAGs, as the dispatcher last read them from their files."""


@dags.command("list", cls=Command)
@output_option
@pass_invocation
def list_dags(invocation: Invocation, output: str) -> None:
    """List the active DAGs."""
    reader = invocation.reader()
    found = reader.dags()
    print_listing(output, _COLUMNS, [_row(dag) for dag in found])
    errors = len(reader.dag_errors())
    if errors:
        noun = "file" if errors == 1 else "files"
        invocation.warn(f"{errors} {noun} cannot be read; see `flow dags errors`")


@dags.command("show", cls=Command)
@dag_argument
@click.option("--source", is_flag=True, help="Print the text of its file instead.")
@output_option
@pass_invocation
def show(invocation: Invocation, dag_id: str, *, source: bool, output: str) -> None:
    """Show one DAG with its tasks."""
    dag = invocation.reader().dag(dag_id)
    if source:
        print(dag.source, end="" if dag.source.endswith("\n") else "\n")
        return
    if not dag.active:
        invocation.warn(f"its file {dag.spec.file} no longer holds dag {dag_id!r}")
    if output == "json":
        print_object(output, {**_details(dag), "tasks": _tasks(dag)})
    else:
        print_object(output, _details(dag))
        print()
        print_listing(output, _TASK_FIELDS, _tasks(dag))


@dags.command("errors", cls=Command)
@output_option
@pass_invocation
def list_errors(invocation: Invocation, output: str) -> None:
    """List the DAG files that cannot be read, and why."""
    rows = [
        {"file": error.file, "message": error.message, "at": moment(error.at)}
        for error in invocation.reader().dag_errors()
    ]
    print_listing(output, ("file", "message", "at"), rows)


@dags.command(cls=Command)
@dag_argument
@pass_invocation
def pause(invocation: Invocation, dag_id: str) -> None:
    """Start no more tasks of a DAG; what runs goes on."""
    _set_paused(invocation, dag_id, "pause")


@dags.command(cls=Command)
@dag_argument
@pass_invocation
def unpause(invocation: Invocation, dag_id: str) -> None:
    """Let a paused DAG go on."""
    _set_paused(invocation, dag_id, "unpause")


dags.add_command(trigger)
dags.add_command(upcoming)
dags.add_command(test_dag)


def _set_paused(invocation: Invocation, dag_id: str, kind: str) -> None:
    reader = invocation.reader()
    dag = reader.dag(dag_id)
    if ask(invocation, reader, kind, {"dag_id": dag.dag_id}).done:
        invocation.say(f"dag {dag.dag_id} is {kind}d")


def _row(dag: DagView) -> dict[str, Any]:
    return {
        "dag_id": dag.dag_id,
        "paused": dag.paused,
        "schedule": dag.spec.schedule,
        "next_run": next_run(dag, datetime.now(UTC)),
        "owner": dag.spec.owner,
        "file": dag.spec.file,
    }


def _details(dag: DagView) -> dict[str, Any]:
    spec = dag.spec
    return {
        **_row(dag),
        "active": dag.active,
        "description": spec.description,
        "tags": list(spec.tags),
        "start_date": spec.start_date,
        "end_date": spec.end_date,
        "timezone": spec.timezone,
        "catchup": spec.catchup,
        "max_active_runs": spec.max_active_runs,
        "max_active_tasks": spec.max_active_tasks,
    }


def _tasks(dag: DagView) -> list[dict[str, Any]]:
    rows = [{name: getattr(task, name) for name in _TASK_FIELDS} for task in dag.spec.tasks]
    return [{**row, "upstream": list(row["upstream"])} for row in rows]
