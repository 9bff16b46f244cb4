"""``flow agents``: who runs tasks."""

from __future__ import annotations

import click

from flow.cli.grammar import Command, Group, output_option
from flow.cli.invocation import Invocation, pass_invocation
from flow.cli.output import moment, print_listing

_COLUMNS = ("name", "queues", "slots", "busy", "state", "last_heartbeat")


@click.group("agents", cls=Group)
def agents() -> None:
    """The agents on the nodes."""


@agents.command("list", cls=Command)
@output_option
@pass_invocation
def list_agents(invocation: Invocation, output: str) -> None:
    """List every agent ever seen, as the dispatcher knows it."""
    rows = [
        {
            "name": agent.name,
            "queues": list(agent.queues),
            "slots": agent.slots,
            "busy": agent.busy,
            "state": agent.state,
            "last_heartbeat": moment(agent.last_heartbeat),
        }
        for agent in invocation.reader().agents()
    ]
    print_listing(output, _COLUMNS, rows)
