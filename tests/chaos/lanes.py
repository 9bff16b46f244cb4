"""One scenario after the other; with the default leases, those that mostly wait side by side."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.report import Report
from tests.chaos.runner import run
from tests.chaos.scenario import Scale, Scenario

LANES = 4
"""Scenarios at a time that mostly wait; each has services of its own."""


def run_all(scenarios: Sequence[Scenario], scale: Scale, seed: int) -> Iterator[Report]:
    """Run them; each report as soon as it is there. Call it from the main thread."""
    beside = [scenario for scenario in scenarios if scale.full and scenario.waits]
    if len(beside) < 2:  # one has nobody to wait beside
        beside = []
    for scenario in scenarios:
        if scenario not in beside:
            yield run(scenario, scale, seed)
    yield from _side_by_side(beside, seed)


@dataclass(frozen=True, slots=True)
class _Lane:
    """One scenario in a process of its own."""

    scenario: Scenario
    process: subprocess.Popen[bytes]
    folder: Path

    def report(self) -> Report:
        """Once the process has ended."""
        said = (self.folder / "said").read_text(errors="replace")
        try:
            (content,) = json.loads((self.folder / "report").read_text())
        except FileNotFoundError:
            content = {
                "name": self.scenario.name,
                "fault": self.scenario.fault,
                "expected": self.scenario.expected,
                "problems": [f"its process ended with {self.process.returncode}"],
            }
        report = Report.from_json(content)
        return report if report.ok else report.with_logs(said)


def _side_by_side(scenarios: Sequence[Scenario], seed: int) -> Iterator[Report]:
    waiting = list(reversed(scenarios))  # the soak, the longest by far, comes last otherwise
    running: list[_Lane] = []
    with tempfile.TemporaryDirectory(prefix="flow-chaos-") as root:
        try:
            while waiting or running:
                while waiting and len(running) < LANES:
                    running.append(_begin(waiting.pop(0), seed, Path(root)))
                for lane in [lane for lane in running if lane.process.poll() is not None]:
                    running.remove(lane)
                    yield lane.report()
                time.sleep(0.2)
        finally:
            for lane in running:
                lane.process.terminate()
                lane.process.wait()


def _begin(scenario: Scenario, seed: int, root: Path) -> _Lane:
    folder = root / scenario.name
    folder.mkdir()
    command = ["setpriv", "--pdeathsig=TERM", "--", sys.executable, "-m", "tests.chaos", "--full"]
    command += ["--only", scenario.name, "--seed", str(seed), "--json", str(folder / "report")]
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("FLOW_TEST_")
    }
    with (folder / "said").open("wb") as said:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said
        )
    return _Lane(scenario, process, folder)
