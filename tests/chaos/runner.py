"""Runs one scenario: its world, the fault, the checker, the report."""

from __future__ import annotations

import random
import shutil
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tests.chaos import checker, servers
from tests.chaos.report import Report, judged
from tests.chaos.scenario import Outcome, Scale, Scenario
from tests.chaos.world import Chaos

#: Seconds after the last task has ended in which its processes must be gone.
GONE_WITHIN = 2.0
#: What no scenario may do, even if it broke off in the middle.
HARD = ("I2", "I4", "I5")


def run(scenario: Scenario, scale: Scale, seed: int) -> Report:
    """Run *scenario* from the main thread; whatever it raises becomes its report."""
    began = time.monotonic()
    corner = servers.own() if scenario.own_services else servers.shared()
    try:
        with corner as (broker, postgres), _folder() as root:
            chaos = Chaos(root, scale, broker, postgres, random.Random(seed))
            try:
                return _run(chaos, scenario, seed, began)
            finally:
                chaos.close()
    except Exception:  # noqa: BLE001 -- whatever it is, the other scenarios are run too
        return _broken(scenario, scale, seed, began, traceback.format_exc())


def _run(chaos: Chaos, scenario: Scenario, seed: int, began: float) -> Report:
    failure: Exception | None = None
    try:
        outcome = scenario.run(chaos)
    except Exception as error:  # noqa: BLE001 -- what it left behind is still worth a look
        outcome, failure = Outcome(), error
    surviving = _survivors(chaos)
    killed = chaos.close()
    record = checker.read(chaos.postgres, chaos.ledger.lives(), chaos.kept_dags)
    verdict = checker.check(record, outcome)
    report = judged(scenario, chaos.scale, seed, time.monotonic() - began, outcome, verdict)
    problems = report.problems
    if failure is not None:
        problems = (*_told(failure), *(text for text in problems if text.startswith(HARD)))
    else:
        problems += tuple(f"I6: after the last task: {process}" for process in surviving)
        problems += tuple(f"I6: survived its agent and its keeper: {process}" for process in killed)
    return replace(report, problems=problems, logs=chaos.logs() if problems else "")


def _survivors(chaos: Chaos) -> list[str]:
    """Processes of tasks that are there after the last of these has ended."""
    end = time.monotonic() + GONE_WITHIN
    while (left := chaos.task_processes()) and time.monotonic() < end:
        time.sleep(0.02)
    return left


def _told(failure: Exception) -> Iterator[str]:
    yield f"{type(failure).__name__}: {failure}"
    for frame in traceback.extract_tb(failure.__traceback__):
        if "chaos" in frame.filename:
            yield f"  {Path(frame.filename).name}:{frame.lineno}  {frame.line}"


def _broken(scenario: Scenario, scale: Scale, seed: int, began: float, reason: str) -> Report:
    return Report(
        name=scenario.name,
        fault=scenario.fault,
        expected=scenario.expected,
        scale=scale.name,
        seed=seed,
        duration=time.monotonic() - began,
        bound=scenario.bound(scale),
        problems=tuple(reason.splitlines()),
    )


@contextmanager
def _folder() -> Iterator[Path]:
    """A short path: sockets lie below it."""
    path = Path(tempfile.mkdtemp(prefix="flow-chaos-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
