"""``flow config``: the settings as they hold for a command run here."""

from __future__ import annotations

import click

from flow.cli.grammar import Command, Group, output_option
from flow.cli.invocation import Invocation, pass_invocation
from flow.cli.output import print_listing


@click.group("config", cls=Group)
def config() -> None:
    """The settings."""


@config.command(cls=Command)
@output_option
@click.option("--instance", metavar="Q", default="", help="As for `flow-agent --instance Q`.")
@pass_invocation
def show(invocation: Invocation, output: str, instance: str) -> None:
    """Show every setting, and where it comes from. Passwords are masked."""
    from flow.config import SECTIONS, describe

    settings = invocation.config(SECTIONS, instance=instance)
    rows = [
        {
            "key": f"{item.section}.{item.key}" if item.section else item.key,
            "value": item.value,
            "source": item.source,
        }
        for item in describe(settings)
    ]
    print_listing(output, ("key", "value", "source"), rows)
