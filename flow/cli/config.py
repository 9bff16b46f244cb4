"""``flow config``: the settings as they hold for a command run here."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from flow.cli.grammar import Command, Group, output_option
from flow.cli.invocation import Invocation, pass_invocation
from flow.cli.output import print_listing
from flow.errors import ConfigError

if TYPE_CHECKING:
    from flow.config import Config


@click.group("config", cls=Group)
def config() -> None:
    """The settings."""


@config.command(cls=Command)
@output_option
@click.option("--instance", metavar="Q", default="", help="As for `flow-agent --instance Q`.")
@pass_invocation
def show(invocation: Invocation, output: str, instance: str) -> None:
    """Show every setting, and where it comes from. Passwords are masked.

    The sections of single agents are shown with --instance, and checked in any case.
    """
    from flow.config import SECTIONS, describe

    settings = invocation.config(SECTIONS, instance=instance)
    _check_instances(settings)
    rows = [
        {
            "key": f"{item.section}.{item.key}" if item.section else item.key,
            "value": item.value,
            "source": item.source,
        }
        for item in describe(settings)
    ]
    print_listing(output, ("key", "value", "source"), rows)


def _check_instances(config: Config) -> None:
    """Raise :class:`~flow.errors.ConfigError` for values that an agent would not start with: who
    checks a file before it is put in its place wants to know of them then."""
    from flow.config import AGENT_SECTIONS, load_config
    from flow.config.layers import DEFAULT_FILE, instances_in, read_file

    problems = []
    for instance in instances_in(read_file(config.file, os.environ, DEFAULT_FILE)):
        try:
            load_config(config.file, os.environ, concerns=AGENT_SECTIONS, instance=instance)
        except ConfigError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError("\n".join(problems))
