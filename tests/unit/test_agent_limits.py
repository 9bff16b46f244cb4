"""What the runner does with a task that asks for limits."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.cgroups import Cgroups
from agent.core import events as on
from agent.keeper_client import Keeper, StartTask, TaskExited
from agent.operators import Preparer
from agent.output import LogSender
from agent.resources import Defaults
from agent.runner import Limits, Runner
from agent.session import StateDirectory
from flow import wire
from flow.dagspec import Resources
from tests.unit.agent_world import task
from tests.waiting import eventually

GRANT = wire.Grant(session=1, task_instance_id=1, try_number=1, token=11)
EVERYTHING = Cgroups(Path("/top"), frozenset({"memory", "cpus", "pids"}), "")


class FakeKeeper(Keeper):
    """Takes what it is told to start, and starts nothing."""

    def __init__(self) -> None:
        self.started: list[StartTask] = []

    def start(self, task: StartTask) -> None:
        os.close(task.output_fd)
        self.started.append(task)


class Bench:
    """A runner, and what it posts."""

    def __init__(self, home: Path, cgroups: Cgroups, defaults: Defaults) -> None:
        self.posted: list[on.Event] = []
        self.state = StateDirectory.open(home, "node1")
        self.background: set[asyncio.Task[None]] = set()
        self.keeper = FakeKeeper()
        self.runner = Runner(
            state=self.state,
            preparer=Preparer("node1", {}, self.state.work, (), "/bin/bash"),
            logs=LogSender(asyncio.get_running_loop(), "node1"),
            limits=Limits(kill_grace=0.1, proof=1.0, log_max_bytes=1000, resources=defaults),
            post=self.posted.append,
            spawn=lambda work: self.background.add(asyncio.ensure_future(work)),
            wall=lambda: 1.0,
            cgroups=cgroups,
        )
        self.runner._keeper = self.keeper

    def start(self, **resources: Any) -> None:
        asked = msgspec.structs.replace(task(), resources=Resources(**resources))
        self.runner.start(asked, GRANT)

    async def ended(self) -> on.ProcessEnded:
        await eventually(lambda: bool(self.posted))
        self.state.close()
        (event,) = self.posted
        assert isinstance(event, on.ProcessEnded)
        return event


async def test_a_task_that_cannot_be_held_to_its_limits_is_this_nodes_fault(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Cgroups(lacking="not delegated"), Defaults())
    bench.start(memory=1 << 30)
    ended = await bench.ended()
    assert ended.fault
    assert "the task asks for memory" in ended.error
    assert "not delegated" in ended.error
    assert bench.keeper.started == []


async def test_the_keeper_is_told_what_a_task_is_held_to(tmp_path: Path) -> None:
    bench = Bench(tmp_path, EVERYTHING, Defaults(pids=100))
    bench.start(cpus=2)
    (started,) = bench.keeper.started
    assert started.limits == {
        "memory.oom.group": "1",
        "cpu.max": "200000 100000",
        "pids.max": "100",
    }
    bench.state.close()


@pytest.mark.parametrize("whose", ["limit", ""])
async def test_what_the_keeper_has_measured_is_reported(tmp_path: Path, whose: str) -> None:
    bench = Bench(tmp_path, EVERYTHING, Defaults(memory=4 << 30))
    bench.start()
    exited = TaskExited(
        token=11,
        exit_code=None,
        signal=9,
        reason="",
        ended_at=2.0,
        duration=1.0,
        cpu=0.5,
        memory_peak=4 << 30,
        cpu_seconds=1.5,
        out_of_memory=whose,
    )
    bench.runner._on_keeper(exited)
    ended = await bench.ended()
    assert ended.out_of_memory == ("out of memory (limit 4G)" if whose else "")
    assert (ended.memory_peak, ended.cpu_seconds) == (4 << 30, 1.5)
