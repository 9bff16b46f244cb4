"""``flow dispatcher``: the process that decides what runs next."""

from __future__ import annotations

import click

from flow.cli.grammar import Command
from flow.cli.invocation import Invocation, pass_invocation
from flow.errors import FlowError


@click.command("dispatcher", cls=Command)
@pass_invocation
def dispatcher(invocation: Invocation) -> int:
    """Run a dispatcher until SIGTERM or SIGINT.

    Several may run: one leads, the others stand by. SIGHUP has it say which settings have
    changed since it was started.
    """
    import asyncio

    from dispatcher.service import run
    from flow.cli.broker import tls_of
    from flow.cli.wakesocket import ring
    from flow.config import DISPATCHER_SECTIONS
    from flow.reporting import setup_logging
    from flow.transport.amqp import AmqpBroker

    config = invocation.config(DISPATCHER_SECTIONS)
    if config.database.is_sqlite and ring(config.home) is None:
        # Two brokers over one database would each elect a leader.
        raise FlowError(
            f"{config.home}: expected no `flow standalone` on this FLOW_HOME, got a running one; "
            "stop it, or set another FLOW_HOME"
        )
    setup_logging("dispatcher", invocation.log_level)
    broker = AmqpBroker(config.broker.url.reveal(), tls_of(config))
    return asyncio.run(run(config, broker, read=lambda: invocation.reread(DISPATCHER_SECTIONS)))
