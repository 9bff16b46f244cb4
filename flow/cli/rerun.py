"""``flow tasks clear`` and ``flow runs cancel``: run again, and stop."""

from __future__ import annotations

from typing import Any

import click

from flow.cli.grammar import Command
from flow.cli.invocation import Invocation, pass_invocation
from flow.cli.names import name, run_argument
from flow.cli.requests import ask
from flow.errors import UsageError


@click.command("clear", cls=Command)
@run_argument
@click.argument("task_id", metavar="[TASK]", type=name, required=False)
@click.option("--downstream", is_flag=True, help="Also everything that depends on TASK.")
@click.option("--upstream", is_flag=True, help="Also everything that TASK depends on.")
@click.option("--failed", is_flag=True, help="Of these, only what has failed.")
@pass_invocation
def clear(
    invocation: Invocation,
    run_name: str,
    task_id: str | None,
    *,
    downstream: bool,
    upstream: bool,
    failed: bool,
) -> None:
    """Have TASK, or all tasks of RUN, run again, with all their retries.

    What runs is stopped first; its new copy starts only after the old one is dead.
    """
    if task_id is None and (downstream or upstream):
        flag = "--downstream" if downstream else "--upstream"
        raise UsageError(f"tasks clear: expected a TASK beside {flag}, got none")
    reader = invocation.reader()
    run = reader.find_run(run_name)
    wanted: dict[str, Any] = {
        "dag_id": run.dag_id,
        "run_id": run.run_id,
        "task_id": task_id,
        "downstream": downstream,
        "upstream": upstream,
        "failed": failed,
    }
    if ask(invocation, reader, "clear", wanted).done:
        invocation.say(f"run {run.name}: cleared {task_id or 'its tasks'}")


@click.command("cancel", cls=Command)
@run_argument
@pass_invocation
def cancel(invocation: Invocation, run_name: str) -> None:
    """Stop RUN: kill what runs, skip what has not begun. Its state becomes failed."""
    reader = invocation.reader()
    run = reader.find_run(run_name)
    wanted = {"dag_id": run.dag_id, "run_id": run.run_id}
    if ask(invocation, reader, "cancel", wanted).done:
        invocation.say(f"run {run.name}: cancelled")
