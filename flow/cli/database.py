"""``flow db``: the database's schema."""

from __future__ import annotations

import click

from flow.cli.grammar import Command, Group
from flow.cli.invocation import Invocation, pass_invocation


@click.group("db", cls=Group)
def db() -> None:
    """The database's schema."""


@db.command(cls=Command)
@pass_invocation
def migrate(invocation: Invocation) -> None:
    """Bring the schema up to date; two at once are safe.

    Prints the migrations it applied.
    """
    from dispatcher.store import migrate as apply_missing

    applied = apply_missing(invocation.database())
    for name in applied:
        print(name)
    if not applied:
        invocation.say("the database is up to date")


@db.command(cls=Command)
@pass_invocation
def check(invocation: Invocation) -> None:
    """Exit with 0 when the schema is this release's, else with 5."""
    from dispatcher.store import check_schema

    check_schema(invocation.database())
    invocation.say("the database is up to date")
