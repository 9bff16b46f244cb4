"""Daemons under a service manager: what they say to it, and when."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psycopg2
import pytest_asyncio

from agent.processes import marked
from agent.service import default_name
from dispatcher.store import migrate, open_database
from flow import wire
from tests.integration.agent_harness import FakeDispatcher
from tests.integration.manager import Manager
from tests.proxy import Proxy
from tests.waiting import eventually

MakeManager = Callable[..., Manager]
NAME = default_name(("q1",))


@pytest_asyncio.fixture
async def dispatcher(broker_url: str) -> AsyncIterator[FakeDispatcher]:
    async with FakeDispatcher(broker_url) as made:
        yield made


@pytest_asyncio.fixture
async def make_manager(tmp_path: Path) -> AsyncIterator[MakeManager]:
    made: list[Manager] = []

    def make(**more: float) -> Manager:
        folder = tmp_path / f"unit{len(made)}"
        folder.mkdir()
        made.append(Manager(folder, **more))
        return made[-1]

    yield make
    for manager in made:
        await manager.close()


def settings(manager: Manager, text: str) -> Path:
    """The unit's settings file, written anew."""
    path = manager.folder / "flow.toml"
    path.write_text(text)
    return path


async def start_agent(manager: Manager, url: str, text: str, **environ: str) -> Manager:
    path = settings(manager, text)
    return await manager.start(
        *("flow.cli.agent", "--instance", "q1", "--config", str(path)),
        FLOW_HOME=str(manager.folder / "home"),
        FLOW_BROKER_URL=url,
        **environ,
    )


def marks(manager: Manager) -> list[int]:
    """The agent's keeper."""
    (state,) = (manager.folder / "home" / "agents").iterdir()
    text = (state / "session.json").read_text()
    state_id = text.partition('"state_id": "')[2].partition('"')[0]
    return [found.process.pid for found in marked(state_id) if found.keeper]


def in_order(wanted: list[str], said: list[str]) -> bool:
    """Whether *wanted* were said in that order, whatever else was."""
    rest = iter(said)
    return all(line in rest for line in wanted)


async def test_an_agent_tells_of_its_start_its_work_and_its_drain(
    make_manager: MakeManager, dispatcher: FakeDispatcher, broker_url: str, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    manager = await start_agent(make_manager(), broker_url, "[agent]\nslots = 4\n")
    await manager.shows("0/4 slots busy, queue q1")
    hello = await dispatcher.heard(wire.Hello)
    assert (hello.agent, hello.queues) == (NAME, ("q1",))
    number = await dispatcher.submit(f"until test -e {gate}; do sleep 0.05; done")
    await manager.shows("1/4 slots busy, queue q1")
    manager.signal(signal.SIGTERM)
    await manager.shows("draining, 1 task left")
    extensions = manager.lines.count("EXTEND_TIMEOUT_USEC=30000000")
    await manager.hears("EXTEND_TIMEOUT_USEC=30000000", extensions + 1)
    await manager.hears("WATCHDOG=1", manager.lines.count("WATCHDOG=1") + 2)
    gate.touch()
    assert (await dispatcher.result(number)).state == "success"
    assert await manager.ended() == 0
    order = [
        "READY=1",
        "STATUS=0/4 slots busy, queue q1",
        "STATUS=1/4 slots busy, queue q1",
        "STOPPING=1",
        "STATUS=draining, 1 task left",
    ]
    assert in_order(order, manager.news)
    assert manager.lines.count("READY=1") == 1


async def test_an_agent_is_ready_without_a_broker_and_says_what_it_waits_for(
    make_manager: MakeManager, dispatcher: FakeDispatcher, broker_url: str
) -> None:
    async with Proxy.to(broker_url) as proxy:
        proxy.refuse()
        manager = await start_agent(
            make_manager(), proxy.through(broker_url), "[agent]\nslots = 4\n"
        )
        await manager.hears("READY=1")
        await manager.shows("waiting for the broker: ")
        await manager.hears("WATCHDOG=1", 5)
        await proxy.accept()
        await manager.shows("0/4 slots busy, queue q1")
        await dispatcher.heard(wire.Hello)


async def test_no_task_learns_of_the_socket_or_of_credentials(
    make_manager: MakeManager, dispatcher: FakeDispatcher, broker_url: str, tmp_path: Path
) -> None:
    (tmp_path / "broker-password").write_text("\n")
    text = '[agent]\npass_env = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "CREDENTIALS_DIRECTORY", "X"]\n'
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path), "X": "passed"}
    await start_agent(make_manager(), broker_url, text, **environ)
    number = await dispatcher.submit("env; cat /proc/$PPID/environ | tr '\\0' '\\n'")
    assert (await dispatcher.result(number)).state == "success"
    await eventually(lambda: dispatcher.log_ended(number))
    said = dispatcher.text(number)
    assert "X=passed" in said
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "CREDENTIALS_DIRECTORY"):
        assert name not in said


async def test_an_agent_whose_keeper_stands_still_is_not_alive(
    make_manager: MakeManager, dispatcher: FakeDispatcher, broker_url: str
) -> None:
    manager = await start_agent(make_manager(), broker_url, "")
    await manager.shows("0/")
    (keeper,) = marks(manager)
    os.kill(keeper, signal.SIGSTOP)
    stuck = "no progress: the keeper has not answered for 5 s"
    await eventually(lambda: stuck in manager.log.read_text())
    said = manager.lines.count("WATCHDOG=1")
    os.kill(keeper, signal.SIGCONT)
    await manager.hears("WATCHDOG=1", said + 2)
    assert dispatcher.events


async def test_a_stopped_agent_gives_no_sign_of_life(
    make_manager: MakeManager, dispatcher: FakeDispatcher, broker_url: str
) -> None:
    manager = await start_agent(make_manager(), broker_url, "")
    await manager.hears("WATCHDOG=1", 3)
    manager.signal(signal.SIGSTOP)
    async with asyncio.timeout(20):
        for before in itertools.count():  # until what was on its way is read
            said = len(manager.lines)
            await asyncio.sleep(1.0)  # five signs of life
            if len(manager.lines) == said:
                break
            assert before < 3
    manager.signal(signal.SIGCONT)
    await manager.hears("WATCHDOG=1", manager.lines.count("WATCHDOG=1") + 2)
    assert dispatcher.events


# -- reload ------------------------------------------------------------------------------------


async def test_a_reload_changes_queues_and_slots_and_touches_no_task(
    make_manager: MakeManager, dispatcher: FakeDispatcher, broker_url: str, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    manager = await start_agent(make_manager(), broker_url, "[agent]\nslots = 4\n")
    await manager.shows("0/4 slots busy")
    number = await dispatcher.submit(f"until test -e {gate}; do sleep 0.05; done; echo done")
    await dispatcher.heard(wire.Started, task_instance_id=number)
    settings(manager, '[agents.q1]\nslots = 2\nqueues = ["q1", "q2"]\ndrain_timeout = 77\n')
    manager.signal(signal.SIGHUP)
    hello = await dispatcher.heard(wire.Hello, slots=2)
    assert (hello.queues, hello.session, hello.kept) == (("q1", "q2"), 1, ())
    await manager.shows("1/2 slots busy, queues q1, q2")
    second = await dispatcher.submit("echo hello", queue="q2")
    assert (await dispatcher.result(second)).state == "success"
    gate.touch()
    result = await dispatcher.result(number)
    assert (result.state, result.session) == ("success", 1)
    await eventually(lambda: dispatcher.log_ended(number))
    assert dispatcher.text(number) == "done\n"
    assert in_order(["READY=1", "RELOADING=1", "READY=1"], manager.news)
    changed = "settings reloaded: agent.queues, agent.slots, agent.drain_timeout changed"
    assert changed in manager.log.read_text()


async def test_a_queue_that_was_removed_is_no_longer_served(
    make_manager: MakeManager, dispatcher: FakeDispatcher, broker_url: str
) -> None:
    text = '[agents.q1]\nqueues = ["q1", "q2"]\n'
    manager = await start_agent(make_manager(), broker_url, text)
    await dispatcher.heard(wire.Hello)
    settings(manager, "")
    manager.signal(signal.SIGHUP)
    await dispatcher.heard(wire.Hello, queues=("q1",))
    await dispatcher.submit("true", queue="q2")
    first = await dispatcher.submit("true")
    await dispatcher.result(first)
    assert await dispatcher.waiting("q2") == 1


async def test_a_wrong_setting_leaves_the_old_ones_in_force(
    make_manager: MakeManager, dispatcher: FakeDispatcher, broker_url: str
) -> None:
    manager = await start_agent(make_manager(), broker_url, "[agent]\nslots = 4\n")
    await manager.shows("0/4 slots busy")
    path = settings(manager, '[agent]\nslots = "four"\n')
    manager.signal(signal.SIGHUP)
    await manager.hears("READY=1", 2)
    problem = f"the old ones hold: {path}:2: agent.slots: expected a whole number"
    await eventually(lambda: problem in manager.log.read_text())
    settings(manager, '[agent]\nslots = 3\n[agents.q1]\nname = "other"\n')
    manager.signal(signal.SIGHUP)
    await manager.shows("0/3 slots busy, queue q1")
    assert "agent.name changed: that needs a restart" in manager.log.read_text()
    assert {event.agent for event in dispatcher.events} == {NAME}


# -- the dispatcher ----------------------------------------------------------------------------


async def start_dispatcher(manager: Manager, broker: str, database: str) -> Manager:
    path = settings(manager, "[dispatcher]\nreconcile_interval = 5\n")
    (manager.folder / "home" / "dags").mkdir(parents=True)
    return await manager.start(
        *("flow.cli.main", "dispatcher", "--config", str(path)),
        FLOW_HOME=str(manager.folder / "home"),
        FLOW_BROKER_URL=broker,
        FLOW_DATABASE_URL=database,
    )


async def migrated(url: str) -> str:
    database = open_database(url)
    try:
        await asyncio.to_thread(migrate, database)
    finally:
        database.close()
    return url


async def test_dispatchers_tell_who_leads_who_stands_by_and_of_their_stop(
    make_manager: MakeManager, broker_url: str, postgres_url: str
) -> None:
    database = await migrated(postgres_url)
    leader = await start_dispatcher(make_manager(), broker_url, database)
    await leader.shows("leads: epoch 1, 0 running, 0 agents")
    second = await start_dispatcher(make_manager(), broker_url, database)
    await second.shows("stands by")
    await second.hears("WATCHDOG=1", 3)
    assert in_order(["READY=1", "STATUS=leads: epoch 1, 0 running, 0 agents"], leader.news)
    settings(leader, "[dispatcher]\nreconcile_interval = 6\n")
    leader.signal(signal.SIGHUP)
    needs = "dispatcher.reconcile_interval changed: that needs a restart"
    await eventually(lambda: needs in leader.log.read_text())
    await leader.hears("READY=1", 2)
    leader.signal(signal.SIGTERM)
    assert await leader.ended() == 0
    assert in_order(["RELOADING=1", "READY=1", "STOPPING=1", "STATUS=stopping"], leader.news)
    await second.shows("leads: epoch 2")


async def test_a_dispatcher_is_ready_without_database_and_without_broker(
    make_manager: MakeManager, broker_url: str, postgres_url: str
) -> None:
    url = await migrated(postgres_url)
    async with Proxy.to(url) as database, Proxy.to(broker_url) as broker:
        database.refuse()
        broker.refuse()
        manager = await start_dispatcher(
            make_manager(), broker.through(broker_url), database.through(url)
        )
        await manager.hears("READY=1")
        await manager.shows("waiting for the database: ")
        await database.accept()
        await manager.shows("waiting for the broker: ")
        await manager.hears("WATCHDOG=1", 3)
        await broker.accept()
        await manager.shows("leads: epoch 1")


async def test_a_leader_stops_in_time_although_its_database_says_nothing(
    make_manager: MakeManager, broker_url: str, postgres_url: str
) -> None:
    url = await migrated(postgres_url)
    manager = await start_dispatcher(make_manager(), broker_url, url)
    await manager.shows("leads: epoch 1")
    with contextlib.closing(psycopg2.connect(url)) as other, other.cursor() as cursor:
        # Every commit waits for this.
        cursor.execute("SELECT epoch FROM leader FOR UPDATE")
        await eventually(lambda: "the database has not answered for" in manager.status)
        manager.signal(signal.SIGTERM)
        assert await manager.ended() == 0
    assert "stopped without an answer of the database" in manager.log.read_text()
