"""Devices with real agents and processes: who sees which, and that two agents never share one."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from agent.gpus import Gpus
from agent.processes import marked
from flow import wire
from flow.dagspec import Resources
from tests.integration.agent_harness import SHORT_LEASE, AgentProcess, FakeDispatcher
from tests.waiting import eventually

ONE = Resources(gpus=1)
SHOW = 'echo "$CUDA_VISIBLE_DEVICES;$HIP_VISIBLE_DEVICES;$FLOW_GPUS"'


@pytest.fixture
async def dispatcher(broker_url: str) -> AsyncIterator[FakeDispatcher]:
    async with FakeDispatcher(broker_url) as dispatcher:
        yield dispatcher


@pytest.fixture
async def started(
    tmp_path: Path, broker_url: str, dispatcher: FakeDispatcher
) -> AsyncIterator[list[AgentProcess]]:
    """Two agents of one machine that may have the same two devices; only the first one runs."""
    agents = [
        AgentProcess(tmp_path, broker_url, name=name, **SHORT_LEASE, FLOW_AGENT_GPUS=gpus)
        for name, gpus in (("node1", "7,8"), ("node1-small", "7"))
    ]
    await agents[0].start()
    await dispatcher.heard(wire.Hello)
    yield agents
    for agent in agents:
        if agent.process is not None:
            await agent.kill()
            await eventually(partial(_none_left, agent.state_id))


def _none_left(state_id: str) -> bool:
    return not marked(state_id)


def until(path: Path) -> str:
    """Goes on until somebody makes *path*, whatever signal comes, in a process of its own, too."""
    wait = f"trap '' TERM; until [ -e {path} ]; do sleep 0.05; done"
    return f'{SHOW}; (setsid sh -c "{wait}" &); {wait}'


@pytest.mark.usefixtures("started")
async def test_hello_says_which_devices_there_are(dispatcher: FakeDispatcher) -> None:
    hello = await dispatcher.heard(wire.Hello)
    assert (hello.gpus, hello.gpu_share) == (("7", "8"), 1)
    assert hello.cores == len(os.sched_getaffinity(0))
    assert hello.memory > 2**28


@pytest.mark.usefixtures("started")
async def test_tasks_side_by_side_see_a_device_each_and_others_none(
    dispatcher: FakeDispatcher, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    numbers = [await dispatcher.submit(until(go), resources=ONE) for _ in range(2)]
    without = await dispatcher.submit(SHOW)
    assert (await dispatcher.result(without)).state == "success"
    await eventually(lambda: all(dispatcher.text(number) for number in numbers))
    go.touch()
    for number in numbers:
        await dispatcher.result(number)
    await eventually(lambda: all(map(dispatcher.log_ended, [*numbers, without])))
    assert sorted(map(dispatcher.text, numbers)) == ["7;7;7\n", "8;8;8\n"]
    assert dispatcher.text(without) == ";-1;\n"


async def test_a_device_that_another_agent_of_the_machine_uses_is_not_given(
    started: list[AgentProcess], dispatcher: FakeDispatcher, tmp_path: Path
) -> None:
    _, second = started
    go = tmp_path / "go"
    number = await dispatcher.submit(until(go), resources=ONE)
    await dispatcher.heard(wire.Started, task_instance_id=number)
    await second.start("--queue", "small")
    await dispatcher.heard(wire.Hello, agent="node1-small")
    refused = await dispatcher.submit(SHOW, resources=ONE, queue="small")
    release = await dispatcher.heard(wire.Release, task_instance_id=refused)
    assert (release.reason, release.fault) == ("another agent of this node uses GPU 7", False)
    await dispatcher.heard(wire.Heartbeat, agent="node1-small", free_gpus=0)
    go.touch()
    await eventually(lambda: dispatcher.of(wire.Heartbeat, agent="node1-small")[-1].free_gpus == 1)


async def test_a_device_stays_locked_until_the_processes_of_a_killed_agent_are_dead(
    started: list[AgentProcess], dispatcher: FakeDispatcher, tmp_path: Path
) -> None:
    agent, _ = started
    number = await dispatcher.submit(until(tmp_path / "never"), resources=ONE)
    await dispatcher.heard(wire.Started, task_instance_id=number)
    await eventually(lambda: agent.task_processes() >= 2)
    locks = Gpus(tmp_path / "gpus", ("7", "8"))
    assert locks.free(["7", "8"]) == ("8",)
    keeper = next(found.process.pid for found in marked(agent.state_id) if found.keeper)
    os.kill(keeper, signal.SIGSTOP)
    await agent.kill()
    assert agent.task_processes() >= 2
    assert locks.free(["7"]) == (), "nobody has ended its task yet"
    os.kill(keeper, signal.SIGCONT)
    await eventually(lambda: locks.free(["7"]) == ("7",))
    assert agent.task_processes() == 0
