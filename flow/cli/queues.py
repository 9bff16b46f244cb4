"""``flow queues``: where tasks wait."""

from __future__ import annotations

import click

from flow.cli.grammar import Command, Group, output_option
from flow.cli.invocation import Invocation, pass_invocation
from flow.cli.output import print_listing

_COLUMNS = ("name", "waiting", "running", "agents")


@click.group("queues", cls=Group)
def queues() -> None:
    """The queues that tasks are pinned to."""


@queues.command("list", cls=Command)
@output_option
@pass_invocation
def list_queues(invocation: Invocation, output: str) -> None:
    """List the queues of all active DAGs, live agents and unfinished tasks."""
    rows = []
    for queue in invocation.reader().queues():
        rows.append({name: getattr(queue, name) for name in _COLUMNS})
        if queue.agents == 0:
            invocation.warn(f"queue {queue.name}: 0 agents")
    print_listing(output, _COLUMNS, rows)
