"""``flow-agent``: the process that runs tasks on a node."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from flow.cli.grammar import Command, run
from flow.cli.invocation import Invocation, pass_invocation

if TYPE_CHECKING:
    from flow.config import Config


@click.command("flow-agent", cls=Command)
@click.option(
    "--queue", "queues", metavar="Q", multiple=True, help="A queue to serve; may be repeated."
)
@click.option(
    "--instance",
    metavar="Q",
    default="",
    help="One of several agents of this machine, for queue Q: settings in [agents.Q].",
)
@click.option("--slots", metavar="N", type=int, help="Tasks that run at the same time.")
@click.option("--name", metavar="NAME", help="Unique among all agents: a-z, 0-9 and -.")
@pass_invocation
def agent(
    invocation: Invocation,
    queues: tuple[str, ...],
    instance: str,
    slots: int | None,
    name: str | None,
) -> int:
    """Run an agent until it is told to stop.

    The first SIGTERM or SIGINT drains it: running tasks finish. A second one kills them.
    SIGHUP has it read its settings again, without touching tasks.
    Without --queue it serves the queues of its settings, by default only `default`.
    """
    import asyncio

    from agent.service import agent_name
    from agent.service import run as serve
    from flow.cli.broker import tls_of
    from flow.config import AGENT_SECTIONS
    from flow.reporting import setup_logging
    from flow.transport.amqp import AmqpBroker

    given = (
        ("agent.queues", "--queue", queues or None),
        ("agent.slots", "--slots", slots),
        ("agent.name", "--name", name),
    )
    options = {path: (option, value) for path, option, value in given if value is not None}
    instance = unescaped(instance)
    config = invocation.config(AGENT_SECTIONS, options, instance=instance)
    setup_logging("agent", invocation.log_level)
    broker = AmqpBroker(config.broker.url.with_user(agent_name(config)).reveal(), tls_of(config))

    def reread() -> Config:
        return invocation.reread(AGENT_SECTIONS, options, instance=instance)

    return asyncio.run(serve(config, broker, read=reread))


def unescaped(instance: str) -> str:
    r"""What *instance* was before systemd-escape(1) made ``\x2d`` of a ``-``. A name of a queue
    needs no escaping, so that most are as they were typed."""
    return re.sub(r"\\x([0-9a-f]{2})", lambda found: chr(int(found[1], 16)), instance)


def main(argv: Sequence[str] | None = None) -> int:
    """The console script ``flow-agent``; returns its exit code."""
    return run(agent, "flow-agent", argv)


if __name__ == "__main__":
    raise SystemExit(main())
