"""Bundles on a real agent over a real broker: fetched once, waited for, and never in the way."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from flow import wire
from flow.bundle import PIECE_BYTES, Manifest, ShippedFile, digest_of
from tests.integration.agent_harness import SHORT_LEASE, AgentProcess, FakeDispatcher
from tests.proxy import Proxy
from tests.waiting import eventually

MakeAgent = Callable[..., AgentProcess]


class Shop(FakeDispatcher):
    """Serves bundles too, as long as ``open``."""

    def __init__(self, broker_url: str) -> None:
        super().__init__(broker_url)
        self.contents: dict[str, bytes] = {}
        self.open = True

    def bundle(self, **files: str) -> str:
        """Files by name; those called ``x_...`` are programs."""
        contents = {name: text.encode() for name, text in files.items()}
        manifest = Manifest.of(
            ShippedFile(name, digest_of(content), len(content), name.startswith("x_"))
            for name, content in contents.items()
        )
        for content in (manifest.encode(), *contents.values()):
            self.contents[digest_of(content)] = content
        return digest_of(manifest.encode())

    def _answer(self, event: wire.Event) -> None:
        if not isinstance(event, wire.PiecesWanted):
            super()._answer(event)
        elif self.open:
            for name in event.pieces:
                self.reply(event.agent, self._piece(event.session, name))

    def _piece(self, session: int, name: wire.PieceName) -> wire.Reply:
        digest, number = name.digest, name.number
        content = self.contents.get(digest)
        if content is None:
            return wire.NoPiece(session=session, digest=digest, number=number)
        data = content[number * PIECE_BYTES : (number + 1) * PIECE_BYTES]
        return wire.Piece(
            session=session, digest=digest, number=number, size=len(content), data=data
        )

    async def granted_token(self, number: int) -> int:
        await eventually(lambda: (number, 1) in self.granted)
        return self.granted[number, 1].token


@pytest_asyncio.fixture
async def shop(broker_url: str) -> AsyncIterator[Shop]:
    async with Shop(broker_url) as made:
        yield made


@pytest_asyncio.fixture
async def make_agent(broker_url: str, tmp_path: Path) -> AsyncIterator[MakeAgent]:
    made: list[AgentProcess] = []

    def make(url: str = broker_url, **env: str) -> AgentProcess:
        made.append(AgentProcess(tmp_path, url, **env))
        return made[-1]

    yield make
    for agent in made:
        if agent.process is not None:
            await agent.kill()


async def output(shop: Shop, number: int) -> str:
    await eventually(lambda: shop.log_ended(number))
    return shop.text(number)


async def test_a_task_finds_its_bundle_and_the_next_one_fetches_nothing(
    make_agent: MakeAgent, shop: Shop, tmp_path: Path
) -> None:
    agent = await make_agent().start()
    bundle = shop.bundle(x_run="#!/bin/sh\necho ran $(cat $FLOW_DAG_FOLDER/data)\n", data="it")
    first = await shop.submit("$FLOW_DAG_FOLDER/x_run; pwd", bundle=bundle, dag_file="a.py")
    assert (await shop.result(first)).state == "success"
    said, cwd = (await output(shop, first)).splitlines()
    assert said == "ran it"
    assert cwd.startswith(str(agent.state / "work"))
    asked = len(shop.of(wire.PiecesWanted))
    second = await shop.submit("echo $FLOW_DAG_FOLDER", bundle=bundle)
    assert (await shop.result(second)).state == "success"
    folder = tmp_path / "cache" / "trees" / bundle / "dags"
    assert await output(shop, second) == f"{folder}\n"
    # Nor does another process of the agent.
    agent.signal(signal.SIGTERM)
    assert await agent.ended() == 0
    await agent.start()
    third = await shop.submit("$FLOW_DAG_FOLDER/x_run", bundle=bundle)
    assert (await shop.result(third)).state == "success"
    assert len(shop.of(wire.PiecesWanted)) == asked


async def test_a_large_file_arrives_whole_and_a_small_one_of_another_bundle_meanwhile(
    make_agent: MakeAgent, shop: Shop
) -> None:
    await make_agent().start()
    large, small = shop.bundle(data="0123456789" * 400_000), shop.bundle(data="small")
    first = await shop.submit("sha256sum < $FLOW_DAG_FOLDER/data", bundle=large)
    second = await shop.submit("cat $FLOW_DAG_FOLDER/data", bundle=small)
    # Megabytes are synced here, for which a disk that the other tests use may take its time.
    assert (await shop.result(first, 60.0)).state == "success"
    assert (await shop.result(second)).state == "success"
    assert (await output(shop, first)).startswith(digest_of(b"0123456789" * 400_000))
    assert await output(shop, second) == "small"


async def test_a_waiting_task_holds_its_slot_and_its_token_and_others_go_on(
    make_agent: MakeAgent, shop: Shop
) -> None:
    shop.open = False
    await make_agent(FLOW_AGENT_SLOTS="2", **SHORT_LEASE).start()
    bundle = shop.bundle(data="it")
    waiting = await shop.submit("cat $FLOW_DAG_FOLDER/data", bundle=bundle)
    token = await shop.granted_token(waiting)
    await shop.heard(wire.PiecesWanted)
    other = await shop.submit("true")
    assert (await shop.result(other)).state == "success"
    # For longer than a lease, and asked for again.
    await eventually(lambda: len(shop.of(wire.PiecesWanted)) >= 2)
    assert shop.of(wire.Heartbeat)[-1].tokens == (token,)
    assert not shop.of(wire.Started, task_instance_id=waiting)
    shop.open = True
    assert (await shop.result(waiting)).token == token
    assert await output(shop, waiting) == "it"


async def test_a_lost_connection_costs_time_only(
    make_agent: MakeAgent, shop: Shop, broker_url: str
) -> None:
    async with Proxy.to(broker_url) as proxy:
        shop.open = False
        await make_agent(proxy.through(broker_url)).start()
        waiting = await shop.submit("cat $FLOW_DAG_FOLDER/data", bundle=shop.bundle(data="it"))
        token = await shop.granted_token(waiting)
        await shop.heard(wire.PiecesWanted)
        proxy.cut()
        await eventually(lambda: len(shop.of(wire.Hello)) == 2)
        shop.open = True
        assert (await shop.result(waiting)).token == token
        assert await output(shop, waiting) == "it"


async def test_content_that_is_not_what_it_says_gives_the_token_back_with_the_reason(
    make_agent: MakeAgent, shop: Shop
) -> None:
    await make_agent().start()
    bundle = shop.bundle(helper="good")
    shop.contents[digest_of(b"good")] = b"evil"
    number = await shop.submit("cat $FLOW_DAG_FOLDER/helper", bundle=bundle)
    release = await shop.heard(wire.Release)
    assert release.fault
    assert release.reason.startswith(
        f"cannot start here: bundle {bundle[:12]}: file 'helper': expected content with SHA-256"
    )
    assert release.reason.removeprefix("cannot start here: ") in await output(shop, number)
    shop.contents[digest_of(b"good")] = b"good"
    again = await shop.submit("cat $FLOW_DAG_FOLDER/helper", bundle=bundle)
    assert (await shop.result(again)).state == "success"


async def test_a_bundle_that_is_gone_gives_the_token_back(
    make_agent: MakeAgent, shop: Shop
) -> None:
    await make_agent().start()
    await shop.submit("true", bundle="f" * 64)
    release = await shop.heard(wire.Release)
    assert release.fault
    assert release.reason == (
        "cannot start here: bundle ffffffffffff: manifest: "
        "expected the dispatcher to have it, got none; run the DAG anew"
    )


async def test_a_task_that_waits_can_be_stopped(make_agent: MakeAgent, shop: Shop) -> None:
    shop.open = False
    await make_agent().start()
    number = await shop.submit("true", bundle=shop.bundle(data="it"))
    token = await shop.granted_token(number)
    claim = await shop.heard(wire.PiecesWanted)
    shop.reply("node1", wire.Stop(session=claim.session, token=token, reason="cancelled by ann"))
    result = await shop.result(number)
    assert (result.state, result.reason) == ("failed", "cancelled by ann")
    shop.open = True
    after = await shop.submit("true", bundle=shop.bundle(data="it"))
    assert (await shop.result(after)).state == "success"
    assert not shop.of(wire.Started, task_instance_id=number)


@pytest.mark.parametrize("on_agent_lost", ["rerun", "wait"])
async def test_a_lapse_ends_the_waiting_and_nothing_starts_under_the_old_token(
    make_agent: MakeAgent, shop: Shop, broker_url: str, on_agent_lost: str
) -> None:
    async with Proxy.to(broker_url) as proxy:
        shop.open = False
        agent = await make_agent(proxy.through(broker_url), **SHORT_LEASE).start()
        bundle = shop.bundle(data="it")
        number = await shop.submit("true", bundle=bundle, on_agent_lost=on_agent_lost)
        await shop.granted_token(number)
        await shop.heard(wire.PiecesWanted)
        proxy.refuse()
        proxy.cut()
        shop.open = True
        await eventually(lambda: "session 1 is over" in agent.stderr)
        await proxy.accept()
        hello = await shop.heard(wire.Hello, session=2)
        assert hello.kept == ()
        result = await shop.result(number)
        assert result.session == 2


async def test_a_drain_gives_back_what_still_waits(make_agent: MakeAgent, shop: Shop) -> None:
    shop.open = False
    agent = await make_agent().start()
    number = await shop.submit("true", bundle=shop.bundle(data="it"))
    token = await shop.granted_token(number)
    await shop.heard(wire.PiecesWanted)
    agent.signal(signal.SIGTERM)
    await eventually(lambda: "draining: 1 tasks" in agent.stderr)
    shop.open = True
    release = await shop.heard(wire.Release)
    assert (release.token, release.fault, release.reason) == (token, False, "the agent drains")
    assert await agent.ended() == 0
    await shop.heard(wire.Goodbye)


async def test_a_second_signal_does_not_wait_for_a_bundle(
    make_agent: MakeAgent, shop: Shop
) -> None:
    shop.open = False
    agent = await make_agent().start()
    await shop.submit("true", bundle=shop.bundle(data="it"))
    await shop.heard(wire.PiecesWanted)
    for _ in range(2):
        agent.signal(signal.SIGTERM)
        await eventually(lambda: "draining: 1 tasks" in agent.stderr)
    release = await shop.heard(wire.Release)
    assert not release.fault
    assert await agent.ended() == 130
