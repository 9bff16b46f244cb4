"""``flow agents``: who runs tasks, and who never will again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from flow.cli.grammar import Command, Group, output_option
from flow.cli.invocation import Invocation, pass_invocation
from flow.cli.maintenance import configure, drain, resume
from flow.cli.names import name
from flow.cli.output import moment, print_listing, print_object
from flow.cli.requests import ask
from flow.sizes import shown

if TYPE_CHECKING:
    from dispatcher.store.views import AgentDetail, RunningTask

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
            "state": agent.hold or agent.state,
            "last_heartbeat": moment(agent.last_heartbeat),
        }
        for agent in found
    ]
    for agent in found:
        if agent.hold == "suspended":
            invocation.warn(f"agent {agent.name} is suspended: {agent.suspended}")
        if agent.drained:
            invocation.warn(f"agent {agent.name} is drained: {agent.drained}")
    print_listing(output, _COLUMNS, rows)


@agents.command("show", cls=Command)
@click.argument("agent", metavar="NODE", type=name)
@output_option
@pass_invocation
def show(invocation: Invocation, agent: str, output: str) -> None:
    """Show one agent: its state and why, what its node has, and what it runs."""
    found = invocation.reader().agent(agent)
    tasks = [_task_row(task) for task in found.tasks]
    if output == "json":
        print_object(output, {**_facts(found), "tasks": tasks})
        return
    print_object(output, _in_words(_facts(found)))
    if tasks:
        print()
        print_listing(output, tuple(tasks[0]), tasks)


def _in_words(facts: dict[str, Any]) -> dict[str, Any]:
    """For people: figures that belong together on one line, and none for what is not the case."""
    busy, gpus_busy, share = (facts.pop(name) for name in ("busy", "gpus_busy", "gpu_share"))
    facts["slots"] = f"{busy} of {facts['slots']} busy"
    facts["cores"] = facts["cores"] or None
    facts["memory"] = shown(facts["memory"]) if facts["memory"] else None
    if gpus := facts["gpus"]:
        places = f"{gpus_busy} of {len(gpus) * share} busy"
        facts["gpus"] = f"{', '.join(gpus)} ({places}{f', {share} on each' if share > 1 else ''})"
    nothing: tuple[Any, ...] = (None, "", [])
    return {name: value for name, value in facts.items() if value not in nothing}


def _facts(found: AgentDetail) -> dict[str, Any]:
    view = found.agent
    queues = found.wanted_queues
    return {
        "name": view.name,
        "state": view.hold or view.state,
        "suspended": view.suspended,
        "drained": view.drained,
        "session": found.session,
        "since": moment(found.since),
        "last_heartbeat": moment(view.last_heartbeat),
        "software": found.software,
        "queues": list(view.queues),
        "wanted_queues": None if queues is None else list(queues),
        "slots": view.slots,
        "wanted_slots": found.wanted_slots,
        "busy": view.busy,
        "cores": found.cores,
        "memory": found.memory,
        "gpus": list(view.gpus),
        "gpu_share": view.gpu_share,
        "gpus_busy": view.gpus_busy,
        "limits": found.limits,
    }


def _task_row(task: RunningTask) -> dict[str, Any]:
    return {
        "run": task.run,
        "task_id": task.task_id,
        "map_index": task.map_index,
        "try_number": task.try_number,
        "slots": task.slots,
        "gpus": task.gpus,
        "since": moment(task.since),
    }


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


for _command in (drain, resume, configure):
    agents.add_command(_command)
