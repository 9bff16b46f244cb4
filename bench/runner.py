"""A whole bench run: rounds of turns, every sample written down as soon as it is there.

A failure costs one workload of one turn: it is written into the raw data like a sample, said
aloud, and the contender starts afresh for the rest.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pika.exceptions
import psycopg2

from bench import processes
from bench.contender import Contender, ContenderFailed, Sample
from bench.flow_system import ROOT
from bench.registry import Workload
from bench.services import Services
from bench.turn import Turn
from flow.errors import FlowError

SLOTS = 4
_LIMIT_PATIENCE = 120
_LOOK = 1.0
#: What ends one workload of one turn and nothing else. An assertion is a promise that the harness
#: or a contender has not kept.
FAILURES = (
    ContenderFailed,
    AssertionError,
    OSError,
    subprocess.SubprocessError,
    psycopg2.Error,
    pika.exceptions.AMQPError,
    FlowError,
)


@dataclass(slots=True)
class Record:
    """The raw data of a run, in *folder*."""

    folder: Path
    failures: list[Sample] = field(default_factory=list)

    def add(self, sample: Sample) -> None:
        """Append *sample*."""
        with (self.folder / "raw.jsonl").open("a") as file:
            file.write(json.dumps(asdict(sample)) + "\n")
        if sample.metrics:
            shown = " ".join(f"{n}={v:.4g}" for n, v in list(sample.metrics.items())[:3])
        else:
            shown = f"FAILED: {sample.note}"
            self.failures.append(sample)
        where = f"round {sample.round + 1}: {sample.contender:8} {sample.workload:4} {sample.case}"
        print(f"{where}: {shown}", flush=True)


@dataclass(slots=True)
class Runner:
    """What to run, and where to keep it."""

    services: Services
    record: Record
    contenders: Sequence[Contender]
    workloads: Sequence[Workload]
    limits: Sequence[str]
    quick: bool = False

    def round(self, number: int) -> None:
        """One turn for each, one after the other."""
        for contender in self.contenders:
            taken = [w for w in self.workloads if self._takes(contender, w, number)]
            together: Sequence[Workload] = [w for w in taken if not w.alone]
            while together:
                together = self._turn(contender, together, number)
            for workload in (w for w in taken if w.alone):
                self._turn(contender, [workload], number)
        for limit in self.limits:
            self.record.add(self._limit(limit, number))

    def _takes(self, contender: Contender, workload: Workload, number: int) -> bool:
        if workload.rounds is not None and number >= workload.rounds:
            return False
        if not workload.peers and not contender.name.startswith("flow"):
            return False
        return not contender.refuses(workload.name)

    def _turn(
        self, contender: Contender, workloads: Sequence[Workload], number: int
    ) -> Sequence[Workload]:
        """Run *workloads* on one start of *contender*; those that are left after a failure. One
        that does not even start fails all of them."""
        started, done = False, 0
        with self.services.site(SLOTS) as site:
            turn = Turn(contender, site, self.services, number, self.quick)
            self.record.add(turn.sample("machine", "before a turn", {"others_pct": others()}))
            try:
                if workloads[0].started:
                    contender.start(site)
                started = True
                for workload in workloads:
                    done += 1
                    for sample in workload.measure(turn):
                        self.record.add(sample)
            except FAILURES as error:
                failed = [workloads[done - 1]] if started else workloads
                self._failed(turn, failed, error)
            finally:
                contender.stop()
        return workloads[done:] if started else []

    def _failed(self, turn: Turn, workloads: Sequence[Workload], error: Exception) -> None:
        text = f"{type(error).__name__}: {error}"
        for workload in workloads:
            self.record.add(turn.sample(workload.name, "-", {}, note=text.splitlines()[0]))
            title = f"{turn.contender.name} {workload.name} round {turn.round + 1}"
            with (self.record.folder / "failures.log").open("a") as file:
                file.write(f"=== {title}\n{text}\n")

    def _limit(self, name: str, number: int) -> Sample:
        with self.services.site(SLOTS) as site:
            command = [sys.executable, "-m", f"bench.limits.{name}"]
            done = subprocess.run(
                [*command, site.broker_url, site.database_url],
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=_LIMIT_PATIENCE,
                check=False,
            )
        if done.returncode:
            note = f"exit code {done.returncode}: {done.stderr[-300:]}"
            return Sample("limit", name, "limit", number, {}, note=note)
        return Sample("limit", name, "limit", number, json.loads(done.stdout))


def others() -> float:
    """How much of the machine is used while nothing is measured and the services idle, in percent
    over a second."""
    begun, spent = time.monotonic(), processes.machine_ms()
    time.sleep(_LOOK)
    whole = 1000 * (time.monotonic() - begun) * (os.cpu_count() or 1)
    return 100 * (processes.machine_ms() - spent) / whole


def read(folder: Path) -> Iterator[Sample]:
    """The samples of a run. Raises OSError, ValueError or TypeError for what is none."""
    with (folder / "raw.jsonl").open() as file:
        for line in file:
            yield Sample(**json.loads(line))
