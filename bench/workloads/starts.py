"""W13: from a command to what it is for."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

from bench.contender import ContenderFailed, Graph, Sample, stamp
from bench.flow_contender import Trigger, dag_file
from bench.flow_system import FlowSystem
from bench.graphs import none
from bench.turn import Turn

_REPEATS = 5


def w13(turn: Turn, system: FlowSystem) -> Iterator[Sample]:
    """``flow --help``, ``flow standalone`` and ``flow-agent`` to their first task, each started
    several times, with bytecode compiled and files in the page cache."""
    stamps = system.site.folder / "first"
    system.write_dag("first", dag_file(Graph("first", none(1), stamp(stamps)), 1))
    cases: dict[str, Callable[[], Mapping[str, float]]] = {
        "flow --help": lambda: _help(system),
        "flow standalone, first task": lambda: _standalone(system, stamps),
        "flow-agent, first task": _agent_case(system, stamps),
    }
    for case, measure in cases.items():
        measure()  # the first has what is cold
        for _ in range(turn.size(_REPEATS, 1)):
            yield turn.sample("W13", case, measure())


def _help(system: FlowSystem) -> dict[str, float]:
    begun, cpu = time.time(), _children_cpu()
    system.flow("--help")
    return {"start_s": time.time() - begun, "start_cpu_ms": _children_cpu() - cpu}


def _standalone(system: FlowSystem, stamps: Path) -> dict[str, float]:
    """With a database of an earlier start, as on any day but the first."""
    stamps.unlink(missing_ok=True)
    environment = system.environment("alone", FLOW_DAGS_FOLDER=str(system.dags))
    environment.pop("FLOW_BROKER_URL")
    command = ["flow", "standalone", "--run", "first"]
    begun, cpu = time.time(), _children_cpu()
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode:
        raise ContenderFailed(f"flow standalone: {done.stdout}{done.stderr}")
    return {"start_s": _first(stamps) - begun, "whole_cpu_ms": _children_cpu() - cpu}


def _agent_case(system: FlowSystem, stamps: Path) -> Callable[[], Mapping[str, float]]:
    """The task waits already, so that the agent's own start is all that is waited for."""
    system.flow("db", "migrate")
    system.start_dispatcher()
    system.wait_known(["first"])
    queued = "SELECT count(*) FROM task_instance WHERE state = 'queued'"

    def measure() -> Mapping[str, float]:
        stamps.unlink(missing_ok=True)
        with closing(Trigger(system.site.database_url, system.site.broker_url)) as trigger:
            trigger("first")
        system.wait(lambda: system.query(queued)[0][0] == 1, "a task that waits")
        begun = time.time()
        agent = system.start_agent("node1", 1, "default")
        system.wait(lambda: stamps.exists() and bool(stamps.read_text()), "the first task")
        first = _first(stamps)
        system.end(agent)
        return {"start_s": first - begun}

    return measure


def _first(stamps: Path) -> float:
    """When the only task ran."""
    (line,) = stamps.read_text().splitlines()
    return float(line.split()[1])


def _children_cpu() -> float:
    """Milliseconds of CPU of all children that were waited for."""
    times = os.times()
    return 1000 * (times.children_user + times.children_system)
