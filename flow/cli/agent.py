"""``flow-agent``: the process that runs tasks on a node."""

from __future__ import annotations

from collections.abc import Sequence

import click

from flow.cli.grammar import Command, run
from flow.cli.invocation import Invocation, pass_invocation


@click.command("flow-agent", cls=Command)
@click.option(
    "--queue", "queues", metavar="Q", multiple=True, help="A queue to serve; may be repeated."
)
@click.option("--slots", metavar="N", type=int, help="Tasks that run at the same time.")
@click.option("--name", metavar="NAME", help="Unique among all agents: a-z, 0-9 and -.")
@pass_invocation
def agent(
    invocation: Invocation, queues: tuple[str, ...], slots: int | None, name: str | None
) -> int:
    """Run an agent until it is told to stop.

    The first SIGTERM or SIGINT drains it: running tasks finish. A second one kills them.
    Without --queue it serves the queues of its settings, by default only `default`.
    """
    import asyncio

    from agent.service import run as serve
    from flow.config import AGENT_SECTIONS
    from flow.reporting import setup_logging
    from flow.transport.amqp import AmqpBroker

    given = (
        ("agent.queues", "--queue", queues or None),
        ("agent.slots", "--slots", slots),
        ("agent.name", "--name", name),
    )
    options = {path: (option, value) for path, option, value in given if value is not None}
    config = invocation.config(AGENT_SECTIONS, options)
    setup_logging("agent", invocation.log_level)
    return asyncio.run(serve(config, AmqpBroker(config.broker.url.reveal())))


def main(argv: Sequence[str] | None = None) -> int:
    """The console script ``flow-agent``; returns its exit code."""
    return run(agent, "flow-agent", argv)


if __name__ == "__main__":
    raise SystemExit(main())
