"""``python -m tests.sim``: play seeds, or replay one with its history.

The exit code is 1 when an invariant is violated; the first line then names it.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import replace

from tests.sim.coverage import Coverage
from tests.sim.faults import Fault
from tests.sim.plan import plan_of
from tests.sim.runner import Failure, play, play_all, shrink


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says; the exit code."""
    options = _parser().parse_args(arguments)
    if options.seed is not None:
        return _replay(options.seed, options.only, options.last)
    return _play(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many to play")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--stop-at-first", action="store_true", help="at the first violation")
    parser.add_argument("--complete", action="store_true", help="fail if something is not reached")
    parser.add_argument("--seed", type=int, help="replay this one, with its history")
    parser.add_argument("--only", help="of its faults, these, by number: 0,2")
    parser.add_argument("--last", default="", help="and for how long: 0:1.5,2:0.3")
    return parser


def _play(options: argparse.Namespace) -> int:
    begin = time.monotonic()
    said = [begin]

    def told(coverage: Coverage) -> None:
        if time.monotonic() > said[0] + 30.0:
            said[0] = time.monotonic()
            print(f"... {coverage.seeds} seeds", file=sys.stderr, flush=True)

    seeds = range(options.first, options.first + options.seeds)
    coverage, failures = play_all(
        seeds, jobs=options.jobs, stop_at_first=options.stop_at_first, told=told
    )
    for failure in failures:
        print(f"violated: {failure.text} (seed {failure.seed})")
    if failures and not options.stop_at_first:
        tell(shrink(failures[0]))
    elapsed = time.monotonic() - begin
    for line in coverage.summary():
        print(line)
    played = coverage.seeds + len(failures)
    print(f"{len(failures)} of {played} failed; {played / elapsed:.0f} seeds/s")
    incomplete = coverage.missing_cells() or coverage.missing_transitions()
    return 1 if failures or (options.complete and incomplete) else 0


def _replay(seed: int, only: str | None, last: str) -> int:
    plan = dict(enumerate(plan_of(seed)))
    if only is not None:
        plan = {number: plan[number] for number in map(int, filter(None, only.split(",")))}
    for number, duration in (part.split(":") for part in filter(None, last.split(","))):
        plan[int(number)] = replace(plan[int(number)], duration=float(duration))
    failure = _show(seed, list(plan.items()))
    if failure is None:
        print(f"seed {seed}: all invariants hold")
        return 0
    print(f"violated: {failure.text} (seed {seed})")
    return 1


def tell(failure: Failure) -> None:
    """A failure, made small, with its history and the command that replays it."""
    _show(failure.seed, failure.plan)
    print(f"violated: {failure.text}")
    print(f"again: {failure.command}")


def _show(
    seed: int, plan: list[tuple[int, Fault]] | tuple[tuple[int, Fault], ...]
) -> Failure | None:
    history: list[str] = []
    failure = play(seed, plan, history=history)
    for line in history:
        print(line)
    for number, fault in plan:
        print(f"fault {number}: {fault}")
    return failure


if __name__ == "__main__":
    sys.exit(main())
