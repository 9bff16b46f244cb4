"""``flow doctor``: is this machine set up as flow needs it?"""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flow.cli.grammar import Command, output_option
from flow.cli.invocation import Invocation, pass_invocation
from flow.cli.output import print_listing
from flow.errors import UsageError

if TYPE_CHECKING:
    from flow.cli.checks.finding import Finding
    from flow.cli.checks.subjects import Who

#: Seconds for all checks together, which go on side by side.
WITHIN = 18.0
_COLUMNS = ("check", "level", "what", "remedy")


@click.command("doctor", cls=Command)
@output_option
@click.option("--dispatcher", is_flag=True, help="Check this machine's dispatcher.")
@click.option("--agent", is_flag=True, help="Check this machine's agent.")
@click.option(
    "--instance", metavar="Q", default=None, help="Check the agent `flow-agent --instance Q`."
)
@pass_invocation
def doctor(
    invocation: Invocation,
    output: str,
    dispatcher: bool,  # noqa: FBT001 - click passes options by name
    agent: bool,  # noqa: FBT001 - as above
    instance: str | None,
) -> int:
    """Check settings, broker, rights, database, clocks, disks and units, and say what to do.

    It changes nothing, and stops no task. Without options it checks the dispatcher and all agents
    that seem to be at home on this machine. Exits with 1 when it has found a problem, with 0 when
    there are warnings at most.
    """
    if dispatcher and (agent or instance is not None):
        raise UsageError("doctor: expected --dispatcher or an agent, got both; run it twice")
    from flow.cli.checks.finding import carry_out
    from flow.cli.checks.plan import plan
    from flow.reporting import LIBRARY_LOGGERS

    # They tell of each failure in words of their own, beside the finding.
    for name in LIBRARY_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    path = None if invocation.config_path is None else Path(invocation.config_path)
    whom: list[Who] | None = None
    if dispatcher or agent or instance is not None:
        whom = [None if dispatcher else instance or ""]
    found = list(carry_out(plan(path, whom), WITHIN))
    _print(output, found)
    return _tell(invocation, found)


def _print(output: str, found: list[Finding]) -> None:
    if output == "json":
        rows = [
            {"check": each.check, "level": each.level, "what": each.what, "remedy": each.remedy}
            for each in found
        ]
        print_listing(output, _COLUMNS, rows)
        return
    for each in found:
        print(each.line)


def _tell(invocation: Invocation, found: list[Finding]) -> int:
    from flow.cli.checks.finding import Level

    counts = Counter(each.level for each in found)
    problems_found, warnings = counts[Level.PROBLEM], counts[Level.WARNING]
    invocation.say(f"doctor: {_many(problems_found, 'problem')}, {_many(warnings, 'warning')}")
    return 1 if problems_found else 0


def _many(count: int, what: str) -> str:
    return f"{count or 'no'} {what}{'' if count == 1 else 's'}"
