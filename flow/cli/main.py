"""``flow``: the command line, noun first."""

from __future__ import annotations

from collections.abc import Sequence

import click

from flow.cli.agents import agents
from flow.cli.board import board
from flow.cli.config import config
from flow.cli.dags import dags
from flow.cli.database import db
from flow.cli.dispatcher import dispatcher
from flow.cli.doctor import doctor
from flow.cli.grammar import Command, Group, global_options, run
from flow.cli.queues import queues
from flow.cli.rights import broker
from flow.cli.runs import runs
from flow.cli.standalone import standalone
from flow.cli.tasks import tasks
from flow.cli.variables import variables
from flow.errors import FlowError


@click.group("flow", cls=Group)
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


for _command in (
    *(standalone, db, dispatcher, dags, runs, tasks, variables),
    *(queues, agents, board, broker, config, doctor),
):
    root.add_command(_command)


def main(argv: Sequence[str] | None = None) -> int:
    """The console script ``flow``; returns its exit code."""
    return run(root, "flow", argv)


if __name__ == "__main__":
    raise SystemExit(main())
