"""``flow variables``: values that tasks read. Written straight into the database."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from flow.cli.grammar import Command, Group, output_option
from flow.cli.invocation import Invocation, pass_invocation
from flow.cli.names import name
from flow.cli.output import moment, print_listing
from flow.errors import UnknownName, UsageError, nearest

_COLUMNS = ("name", "value", "updated_at")
_LONGEST_NAME = 250
_MOST_BYTES = 256 * 1024

_name_argument = click.argument("variable", metavar="NAME", type=name)


@click.group("variables", cls=Group)
def variables() -> None:
    """Values that tasks read, as {{ var.value.NAME }} or Variable.get(NAME)."""


@variables.command("set", cls=Command)
@_name_argument
@click.argument("value", type=name)
@pass_invocation
def set_variable(invocation: Invocation, variable: str, value: str) -> None:
    """Make a variable, or give it another value; tasks see it at once."""
    from dispatcher.store import values

    if not 1 <= len(variable) <= _LONGEST_NAME:
        raise UsageError(
            f"variables set: NAME: expected 1 to {_LONGEST_NAME} characters, got {len(variable)}"
        )
    if (size := len(value.encode())) > _MOST_BYTES:
        raise UsageError(f"variables set: VALUE: expected {_MOST_BYTES} bytes or less, got {size}")
    values.set_variable(invocation.migrated_database(), variable, value, datetime.now(UTC))


@variables.command("get", cls=Command)
@_name_argument
@pass_invocation
def get_variable(invocation: Invocation, variable: str) -> None:
    """Print a variable's value, alone."""
    from dispatcher.store import values

    known = {item.name: item.value for item in values.variables(invocation.migrated_database())}
    if variable not in known:
        raise _unknown(variable, known)
    print(known[variable])


@variables.command("list", cls=Command)
@output_option
@pass_invocation
def list_variables(invocation: Invocation, output: str) -> None:
    """List all variables."""
    from dispatcher.store import values

    rows = [
        {"name": item.name, "value": item.value, "updated_at": moment(item.updated_at)}
        for item in values.variables(invocation.migrated_database())
    ]
    print_listing(output, _COLUMNS, rows)


@variables.command("delete", cls=Command)
@_name_argument
@pass_invocation
def delete_variable(invocation: Invocation, variable: str) -> None:
    """Forget a variable."""
    from dispatcher.store import values

    database = invocation.migrated_database()
    if not values.delete_variable(database, variable):
        raise _unknown(variable, {item.name: "" for item in values.variables(database)})


def _unknown(variable: str, known: dict[str, str]) -> UnknownName:
    remedy = nearest(variable, known) or "; see `flow variables list`"
    return UnknownName(f"variable {variable!r}: expected a known variable{remedy}")
