"""``flow agents``: who runs tasks, and who never will again."""

from __future__ import annotations

import click

from flow.cli.grammar import Command, Group, output_option
from flow.cli.invocation import Invocation, pass_invocation
from flow.cli.names import name
from flow.cli.output import moment, print_listing
from flow.cli.requests import ask

_COLUMNS = ("name", "queues", "slots", "busy", "state", "last_heartbeat")


@click.group("agents", cls=Group)
def agents() -> None:
    """The agents on the nodes."""


@agents.command("list", cls=Command)
@output_option
@pass_invocation
def list_agents(invocation: Invocation, output: str) -> None:
    """List every agent ever seen, as the dispatcher knows it."""
    found = invocation.reader().agents()
    rows = [
        {
            "name": agent.name,
            "queues": list(agent.queues),
            "slots": agent.slots,
            "busy": agent.busy,
            "state": "suspended" if agent.on_hold else agent.state,
            "last_heartbeat": moment(agent.last_heartbeat),
        }
        for agent in found
    ]
    for agent in found:
        if agent.on_hold:
            invocation.warn(f"agent {agent.name} is suspended: {agent.suspended}")
    print_listing(output, _COLUMNS, rows)


@agents.command("declare-dead", cls=Command)
@click.argument("agent", metavar="NODE", type=name)
@pass_invocation
def declare_dead(invocation: Invocation, agent: str) -> None:
    """Vouch that nothing of a silent agent runs any more: its tasks run again at once.

    That is what tasks with on_agent_lost="wait" wait for when their node is gone for good. Make
    sure that it is: if the node still runs a task, two copies of it run side by side.
    """
    if ask(invocation, invocation.reader(), "declare_dead", {"agent": agent}).done:
        invocation.say(f"agent {agent}: declared dead")
