"""``flow``: the command line, noun first."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

import click

from flow.cli.grammar import Command, Group, global_options, run
from flow.errors import FlowError

#: Where each command is, and the line that stands for it in the help of all, so that none of them
#: costs the others its imports.
COMMANDS = {
    "agents": ("flow.cli.agents:agents", "The agents on the nodes."),
    "board": (
        "flow.cli.board:board",
        "Show agents, queues, runs and failures, live, until q or Ctrl-C.",
    ),
    "broker": (
        "flow.cli.rights:broker",
        "The users at RabbitMQ: an agent reaches its own queues, and nothing else.",
    ),
    "config": ("flow.cli.config:config", "The settings."),
    "dags": ("flow.cli.dags:dags", "DAGs, as the dispatcher last read them from their files."),
    "db": ("flow.cli.database:db", "The database's schema."),
    "dispatcher": (
        "flow.cli.dispatcher:dispatcher",
        "Run a dispatcher until SIGTERM or SIGINT.",
    ),
    "doctor": (
        "flow.cli.doctor:doctor",
        "Check settings, broker, rights, database, clocks, disks and units, and say what to do.",
    ),
    "queues": ("flow.cli.queues:queues", "The queues that tasks are pinned to."),
    "runs": ("flow.cli.runs:runs", "DAG runs."),
    "standalone": (
        "flow.cli.standalone:standalone",
        "Run a dispatcher and agents in this process, with an SQLite database in FLOW_HOME.",
    ),
    "tasks": ("flow.cli.tasks:tasks", "Task instances."),
    "variables": (
        "flow.cli.variables:variables",
        "Values that tasks read, as {{ var.value.NAME }} or Variable.get(NAME).",
    ),
}


class Later(click.Command):
    """Stands for a command that is imported when it is used."""

    def __init__(self, name: str, place: str, text: str) -> None:
        super().__init__(name, help=text)
        self._place = place

    def load(self) -> click.Command:
        """The command."""
        module, _, name = self._place.partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command


class Program(Group):
    """``flow`` itself."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return name, command.load() if isinstance(command, Later) else command, rest


@click.group("flow", cls=Program)
@global_options
def root() -> None:
    """Run workflows on named machines.

    stdout carries only the result, everything else goes to stderr. Exit codes: 0 success,
    1 the run or the operation failed, 2 usage, 3 configuration, 4 broker, 5 database,
    6 unknown or ambiguous name, 130 interrupted.
    """


@root.command(cls=Command)
def version() -> None:
    """Print flow's version."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as version_of

    try:
        print(version_of("flow-dispatch"))
    except PackageNotFoundError as error:
        raise FlowError(
            "version: expected flow-dispatch to be installed, got a bare checkout; "
            "run `pip install -e .` in it"
        ) from error


for _name, (_place, _help) in COMMANDS.items():
    root.add_command(Later(_name, _place, _help))


def main(argv: Sequence[str] | None = None) -> int:
    """The console script ``flow``; returns its exit code."""
    return run(root, "flow", argv)


if __name__ == "__main__":
    raise SystemExit(main())
