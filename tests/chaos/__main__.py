"""``python -m tests.chaos [--full] [--short] [--only NAME ...] [--seed N] [--list] [--json FILE]``

Real agents and dispatchers on a real RabbitMQ and Postgres, hurt in one way after the other; one
line each. Exit code 1 when an invariant or a bound did not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.faults import SCENARIOS
from tests.chaos.lanes import run_all
from tests.chaos.report import Report
from tests.chaos.scenario import FULL, QUICK, Scenario


def main(arguments: Sequence[str]) -> int:
    """The command line; see the module's docstring."""
    options = _parse(arguments)
    chosen = [
        scenario
        for scenario in SCENARIOS
        if (not options.only or scenario.name in options.only)
        and (not options.short or scenario.short)
    ]
    if unknown := set(options.only) - {scenario.name for scenario in SCENARIOS}:
        print(f"chaos: no such scenario: {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    if options.list:
        for scenario in chosen:
            print(f"{scenario.name:<28}  {scenario.fault}: {scenario.expected}")
        return 0
    if "FLOW_TEST_BROKER_URL" not in os.environ:
        again = [sys.executable, "-m", "tests.services", "run", "--", sys.executable]
        os.execv(sys.executable, [*again, "-m", "tests.chaos", *arguments])  # noqa: S606 -- itself
    return _run(chosen, options)


def _run(chosen: Sequence[Scenario], options: argparse.Namespace) -> int:
    began = time.monotonic()
    reports: list[Report] = []
    for report in run_all(chosen, FULL if options.full else QUICK, options.seed):
        print(report.line(), flush=True)
        if report.logs:
            print(report.logs, file=sys.stderr, flush=True)
        reports.append(report)
    if options.json:
        options.json.write_text(json.dumps([report.as_json() for report in reports], indent=1))
    failed = [report.name for report in reports if not report.ok]
    tasks, starts = (sum(getattr(r, name) for r in reports) for name in ("tasks", "starts"))
    lost, twice = (sum(getattr(r, name) for r in reports) for name in ("lost", "twice"))
    minutes = (time.monotonic() - began) / 60
    print(
        f"{len(reports)} faults, {len(failed)} failed, in {minutes:.1f} min: "
        f"{tasks} tasks, {starts} starts, lost {lost}, twice {twice}"
    )
    for name in failed:
        print(f"again: make chaos ONLY={name}", file=sys.stderr)
    return int(bool(failed))


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--full", action="store_true", help="default leases and outage lengths")
    parser.add_argument("--short", action="store_true", help="only what `make test` runs")
    parser.add_argument("--only", metavar="NAME", nargs="+", default=[], help="only these")
    parser.add_argument("--seed", type=int, default=1, help="of all that is left to chance")
    parser.add_argument("--list", action="store_true", help="name the scenarios")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the reports there")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
