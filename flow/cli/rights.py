"""``flow broker``: what each user may do at RabbitMQ, for people and for playbooks.

Nothing here connects to the broker: users are made and unmade on its host, by somebody with the
right to.
"""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

import click

from flow.cli.grammar import Command, Group
from flow.cli.invocation import Invocation, pass_invocation
from flow.errors import UsageError
from flow.names import AGENT, QUEUE, NameRule

if TYPE_CHECKING:
    from flow.brokerrights import Rights

#: Debian 12's. What later ones need beside is printed for those who say that they have one.
_OLDEST = "3.10"
_SECTIONS = frozenset({"broker"})


@click.group("broker", cls=Group)
def broker() -> None:
    """The users at RabbitMQ: an agent reaches its own queues, and nothing else."""


@broker.command(cls=Command)
@click.argument("name", metavar="USER")
@click.option(
    "--queue", "queues", metavar="Q", multiple=True, help="A queue of this agent; may be repeated."
)
@click.option("--dispatcher", is_flag=True, help="The user is a dispatcher's.")
@click.option("--commands", is_flag=True, help="The user is of the flow command.")
@click.option("--vhost", help="The virtual host; else that of broker.url.")
@click.option(
    "--rabbitmq",
    metavar="VERSION",
    default=_OLDEST,
    show_default=True,
    help="The broker's version: policies that it needs are named with --dispatcher.",
)
@click.option(
    "--output",
    type=click.Choice(["commands", "json"]),
    default="commands",
    show_default=True,
    help="Lines for a shell on the broker's host, or definitions to import.",
)
@pass_invocation
def rights(
    invocation: Invocation,
    name: str,
    queues: tuple[str, ...],
    *,
    dispatcher: bool,
    commands: bool,
    vhost: str | None,
    rabbitmq: str,
    output: str,
) -> None:
    """Print what gives a user of RabbitMQ exactly the rights that it needs.

    An agent's user has the agent's name. The user itself is made with `rabbitmqctl add_user USER`,
    which asks for the password.
    """
    from flow.brokerrights import agent_rights, command_rights, dispatcher_rights, policies

    _check("USER", name, AGENT)
    for queue in queues:
        _check("--queue", queue, QUEUE)
    said = [bool(queues), dispatcher, commands].count(True)
    if said != 1:
        raise UsageError(
            "broker rights: expected one of --queue, --dispatcher and --commands, got "
            f"{said} of them; an agent's user needs its queues"
        )
    if queues:
        given = agent_rights(name, queues)
    else:
        given = dispatcher_rights() if dispatcher else command_rights()
    named = policies(_version(rabbitmq)) if dispatcher else {}
    host = _vhost(invocation) if vhost is None else vhost
    if output == "json":
        print(json.dumps(_definitions(name, host, given, named), indent=1))
    else:
        for command in _commands(name, host, given, named):
            print(shlex.join(["rabbitmqctl", *command]))


@broker.command(cls=Command)
@click.argument("name", metavar="USER")
def revoke(name: str) -> None:
    """Print what shuts a user out at once, connections that it has open included.

    The tasks of an agent that is gone for good run again after `flow agents declare-dead`.
    """
    _check("USER", name, AGENT)
    for command in revocation(name):
        print(shlex.join(["rabbitmqctl", *command]))


def revocation(user: str) -> list[list[str]]:
    """What rabbitmqctl is told. Deleting a user closes its connections, but in the background, and
    not those of a node of the cluster that is away just then."""
    return [["delete_user", user], ["close_all_user_connections", user, "revoked"]]


def _commands(
    user: str, vhost: str, given: Rights, named: dict[str, dict[str, int]]
) -> list[list[str]]:
    place = ["--vhost", vhost]
    lines = [["set_permissions", *place, user, given.configure, given.write, given.read]]
    lines += [
        ["set_topic_permissions", *place, user, topic.exchange, topic.write, topic.read]
        for topic in given.topics
    ]
    lines += [
        ["set_policy", *place, "--apply-to", "queues", _POLICY, pattern, json.dumps(rules)]
        for pattern, rules in named.items()
    ]
    return lines


def _definitions(
    user: str, vhost: str, given: Rights, named: dict[str, dict[str, int]]
) -> dict[str, Any]:
    """As ``rabbitmqctl import_definitions`` reads it."""
    who = {"user": user, "vhost": vhost}
    permissions = {"configure": given.configure, "write": given.write, "read": given.read}
    return {
        "permissions": [{**who, **permissions}],
        "topic_permissions": [
            {**who, "exchange": topic.exchange, "write": topic.write, "read": topic.read}
            for topic in given.topics
        ],
        "policies": [
            {
                "vhost": vhost,
                "name": _POLICY,
                "pattern": pattern,
                "apply-to": "queues",
                "definition": rules,
                "priority": 0,
            }
            for pattern, rules in named.items()
        ],
    }


_POLICY = "flow"


def _vhost(invocation: Invocation) -> str:
    from urllib.parse import unquote, urlsplit

    path = urlsplit(invocation.config(_SECTIONS).broker.url.reveal()).path
    return unquote(path[1:]) or "/"


def _version(text: str) -> tuple[int, int]:
    major, _, rest = text.partition(".")
    minor = rest.partition(".")[0] or "0"
    if not (major.isdecimal() and minor.isdecimal()):
        raise UsageError(
            f"broker rights: --rabbitmq: expected a version such as {_OLDEST}, got {text!r}"
        )
    return int(major), int(minor)


def _check(what: str, name: str, rule: NameRule) -> None:
    problem = rule.problem(name)
    if problem is not None:
        raise UsageError(f"broker: {what}: {problem}")
