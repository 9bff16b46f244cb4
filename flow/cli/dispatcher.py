"""``flow dispatcher``: the process that decides what runs next."""

from __future__ import annotations

import click

from flow.cli.grammar import Command
from flow.cli.invocation import Invocation, pass_invocation


@click.command("dispatcher", cls=Command)
@pass_invocation
def dispatcher(invocation: Invocation) -> int:
    """Run a dispatcher until SIGTERM or SIGINT.

    Several may run: one leads, the others stand by.
    """
    import asyncio

    from dispatcher.service import run
    from flow.config import DISPATCHER_SECTIONS
    from flow.reporting import setup_logging

    config = invocation.config(DISPATCHER_SECTIONS)
    setup_logging("dispatcher", invocation.log_level)
    return asyncio.run(run(config))
