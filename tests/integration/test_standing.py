"""What a dispatcher does about its database before it stands for election."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import psycopg2
import pytest
from peewee import Database

from dispatcher.service import Dispatcher
from dispatcher.store import Store, migrate, open_database
from dispatcher.store.models import Bundle
from dispatcher.store.reader import Reader
from flow.config import load_config
from flow.transport.memory import MemoryBroker, MemoryLink
from tests.proxy import Proxy
from tests.waiting import eventually

LEADS = "leads: epoch"


class Broker(MemoryBroker):
    """Keeps the links of the dispatcher."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[MemoryLink] = []

    async def connect(self, name: str) -> MemoryLink:
        link = await super().connect(name)
        self.links.append(link)
        return link


@contextlib.asynccontextmanager
async def leading(home: Path, url: str, broker: Broker) -> AsyncIterator[Database]:
    """A dispatcher that looks at everything ten times a second; a connection to its database."""
    variables = {
        "FLOW_HOME": str(home),
        "FLOW_DATABASE_URL": url,
        "FLOW_DISPATCHER_INTENT_POLL_INTERVAL": "0.1",
        "FLOW_DAGS_DAG_DIR_LIST_INTERVAL": "0.1",
    }
    config = load_config(None, variables, default_file=home / "none.toml")
    config.dags.folder.mkdir(parents=True, exist_ok=True)
    database = open_database(url)
    await asyncio.to_thread(migrate, database)
    dispatcher = asyncio.create_task(Dispatcher(config, broker, Store(open_database(url))).run())
    try:
        yield database
    finally:
        database.close()
        dispatcher.cancel()
        await asyncio.gather(dispatcher, return_exceptions=True)


async def test_a_dispatcher_without_its_database_does_not_stand_for_election(
    tmp_path: Path, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "flow.dispatcher")
    broker, proxy = Broker(), Proxy.to(postgres_url)
    async with proxy, leading(tmp_path, proxy.through(postgres_url), broker):
        await eventually(lambda: caplog.text.count(LEADS) == 1)
        proxy.refuse()
        proxy.cut()
        await eventually(lambda: caplog.text.count("is it running?") >= 3)
        assert len(broker.links) == 1
        await proxy.accept()
        await eventually(lambda: caplog.text.count(LEADS) == 2)
        assert len(broker.links) == 2


async def test_sessions_that_postgres_ends_together_cost_one_reign_together(
    tmp_path: Path, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "flow.dispatcher")
    async with leading(tmp_path, postgres_url, Broker()) as database:
        await eventually(lambda: caplog.text.count(LEADS) == 1)
        await used(tmp_path, database, "one")
        database.close()  # it is one of the sessions
        end_sessions(postgres_url)
        await eventually(lambda: caplog.text.count(LEADS) == 2)
        await used(tmp_path, database, "two")
        assert caplog.text.count(LEADS) == 2


async def used(home: Path, database: Database, name: str) -> None:
    """Return once the dispatcher has read a request, written its refusal, and stored a bundle:
    one connection each."""
    before = Bundle.select().count(database)
    now = datetime.now(UTC)
    request = Reader(database).request("pause", {"dag_id": name}, actor="test", at=now)
    (home / "dags" / f"{name}.txt").write_text(name)
    (home / "dags" / f"{name}.py").write_text("")
    await eventually(lambda: Reader(database).intent(request).done)
    await eventually(lambda: Bundle.select().count(database) > before)


def end_sessions(url: str) -> None:
    connection = psycopg2.connect(url)
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE"
                " datname = current_database() AND pid <> pg_backend_pid()"
                " AND application_name = 'flow'"
            )
    finally:
        connection.close()
