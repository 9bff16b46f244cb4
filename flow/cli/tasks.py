"""``flow tasks``: the task instances of a run, and their output."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from flow.cli.grammar import Command, Group, output_option
from flow.cli.invocation import Invocation, pass_invocation
from flow.cli.names import run_argument, task_argument
from flow.cli.output import moment, print_listing, print_object
from flow.cli.rerun import clear
from flow.cli.trial import test_task
from flow.errors import UnknownName
from flow.sizes import shown

if TYPE_CHECKING:
    from dispatcher.store.reader import Reader
    from dispatcher.store.views import RunView, TaskView, TryView

_COLUMNS = (
    *("task_id", "map_index", "state", "try_number", "queue", "agent"),
    *("start_date", "end_date", "reason"),
)
_TRY_COLUMNS = (
    *("try_number", "agent", "opened_at", "closed_at", "outcome", "exit_code"),
    *("memory_peak", "cpu_seconds", "reason"),
)


@click.group("tasks", cls=Group)
def tasks() -> None:
    """Task instances. RUN is DAG/RUN_ID, or a RUN_ID that only one run has."""


@tasks.command("list", cls=Command)
@run_argument
@output_option
@pass_invocation
def list_tasks(invocation: Invocation, run_name: str, output: str) -> None:
    """List the tasks of a run, with the reason why each waits or failed."""
    reader = invocation.reader()
    run = reader.find_run(run_name)
    print_tasks(output, reader.tasks(run, datetime.now(UTC)))
    waits = reader.why_run_waits(run)
    if waits:
        invocation.say(f"run {run.name}: {waits}")


@tasks.command("show", cls=Command)
@run_argument
@task_argument
@output_option
@pass_invocation
def show(invocation: Invocation, run_name: str, task_id: str, output: str) -> None:
    """Show one task of a run with its tries: what became of each, and what it used."""
    reader = invocation.reader()
    run = reader.find_run(run_name)
    task = reader.task(run, task_id, datetime.now(UTC))
    tries = [_try_row(item) for item in reader.tries(task)]
    fields = {"run": run.name, **_row(task)}
    if output == "json":
        print_object(output, {**fields, "tries": tries})
        return
    print_object(output, fields)
    if tries:
        for row in tries:
            row["memory_peak"] = row["memory_peak"] and shown(row["memory_peak"])
        print()
        print_listing(output, _TRY_COLUMNS, tries)


@tasks.command("logs", cls=Command)
@run_argument
@task_argument
@click.option("-f", "--follow", is_flag=True, help="Go on until the task has ended.")
@click.option(
    "--try",
    "try_number",
    metavar="N",
    type=click.IntRange(min=1),
    help="This try, instead of the latest.",
)
@pass_invocation
def logs(
    invocation: Invocation, run_name: str, task_id: str, *, follow: bool, try_number: int | None
) -> None:
    """Print what a task has written, stdout and stderr together."""
    reader = invocation.reader()
    run = reader.find_run(run_name)
    task = reader.task(run, task_id, datetime.now(UTC))
    _check_try(reader, run, task, try_number)
    if follow:
        from flow.cli.follow import follow_log

        follow_log(invocation, reader, run, task_id, try_number)
    else:
        _print_stored(invocation, reader, run, task, try_number)


tasks.add_command(test_task)


def print_tasks(output: str, found: Iterable[TaskView]) -> None:
    """Print task instances as a listing."""
    print_listing(output, _COLUMNS, [_row(task) for task in found])


def _row(task: TaskView) -> dict[str, Any]:
    row = {name: getattr(task, name) for name in _COLUMNS}
    return row | {name: moment(row[name]) for name in ("start_date", "end_date")}


def _try_row(item: TryView) -> dict[str, Any]:
    row = {name: getattr(item, name) for name in _TRY_COLUMNS}
    return row | {name: moment(row[name]) for name in ("opened_at", "closed_at")}


def _check_try(reader: Reader, run: RunView, task: TaskView, try_number: int | None) -> None:
    known = [item.try_number for item in reader.tries(task)]
    if try_number is not None and try_number not in known:
        there = ", ".join(map(str, known)) or "none yet"
        raise UnknownName(
            f"task {task.task_id!r} of run {run.name}: expected one of its tries ({there}), "
            f"got {try_number}"
        )


def _print_stored(
    invocation: Invocation, reader: Reader, run: RunView, task: TaskView, try_number: int | None
) -> None:
    from dispatcher.logstore import LogStore

    tries = reader.tries(task)
    if not tries:
        invocation.say(f"{task.task_id}: {task.state}, not started: {task.reason}")
        return
    shown = try_number or tries[-1].try_number
    folder = invocation.config().logs.folder
    output = LogStore(folder).read(run.pk, task.pk, shown)
    if output is None:
        invocation.say(f"{task.task_id}: no output of try {shown} is stored in {folder}")
        return
    sys.stdout.flush()
    sys.stdout.buffer.write(output)
    sys.stdout.buffer.flush()
    if len(tries) > 1 and try_number is None:
        invocation.say(f"{task.task_id}: this was try {shown}; --try shows an earlier one")


tasks.add_command(clear)
