"""A dispatcher and an agent in one event loop, over the real broker and database, with counters."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

from agent.service import Service
from agent.session import StateDirectory
from bench.mock_agent import Session
from dispatcher.processor import ScanResult
from dispatcher.service import Dispatcher, Take
from dispatcher.store import migrate, open_database
from dispatcher.store.reader import Reader
from dispatcher.store.views import RunView
from flow import topology, wire
from flow.config import load_config
from flow.transport.amqp.broker import AmqpBroker
from flow.transport.port import Publication
from tests.budget.counting import CountingBroker, CountingStore, Counts
from tests.waiting import eventually

#: Messages that come with time, not with tasks.
BY_TIME = ("heartbeat", "marker", "probe", "hello", "configure", "wake", "pieces_wanted", "piece")


class System:
    """*home* is the FLOW_HOME of both. Nothing runs before :meth:`running`."""

    def __init__(self, home: Path, broker_url: str, database_url: str) -> None:
        self.home = home
        self.counts = Counts()
        self._url = broker_url
        (home / "dags").mkdir(parents=True)
        variables = {
            "HOME": str(home),
            "FLOW_HOME": str(home),
            "FLOW_BROKER_URL": broker_url,
            "FLOW_DATABASE_URL": database_url,
            "FLOW_AGENT_NAME": "node1",
            "FLOW_AGENT_SLOTS": "4",
            # On a busy machine an answer may take its time: nothing is to be said twice for that.
            "FLOW_AGENT_CLAIM_RESEND_INTERVAL": "60",
            # It looks at the folder at once, and then never again.
            "FLOW_DAGS_DAG_DIR_LIST_INTERVAL": "3600",
        }
        self._config = load_config(None, variables, default_file=home / "none.toml")
        self._database = open_database(database_url)
        self.reader = Reader(self._database)

    def write_dag(self, text: str) -> None:
        """The only DAG file."""
        (self.home / "dags" / "dag.py").write_text(text)

    @contextlib.asynccontextmanager
    async def running(self, *, mock: bool = False) -> AsyncIterator[None]:
        """A dispatcher that has read the DAG file, and an agent for queue ``default``: a real one,
        or with *mock* one that answers at once."""
        migrate(self._database)
        store = CountingStore(open_database(self._config.database.url.reveal()), self.counts)
        broker = CountingBroker(AmqpBroker(self._url), self.counts)
        read = asyncio.Event()

        async def take(result: ScanResult, take: Take) -> None:
            await take(result)
            read.set()

        dispatcher = Dispatcher(self._config, broker, store, on_scan=take)
        leading = asyncio.create_task(dispatcher.run())
        try:
            await read.wait()
            agent = self._mocked(broker) if mock else self._served(broker)
            async with agent:
                await eventually(lambda: bool(self.reader.agents()))
                yield
        finally:
            leading.cancel()
            await asyncio.gather(leading, return_exceptions=True)
            self._database.close()

    async def run(self, dag_id: str, run_id: str, tasks: int) -> None:
        """Trigger a run and wait for its end; all of its *tasks* must succeed."""
        request = {"dag_id": dag_id, "run_id": run_id, "conf": {}}
        self.reader.request("trigger", request, actor="test", at=datetime.now(UTC))
        link = await AmqpBroker(self._url).connect("test")
        outlet = await link.outlet()
        wake = wire.encode(wire.Wake())
        await outlet.publish(Publication(topology.EVENTS, topology.WAKE_KEY, wake))
        await link.close()
        await eventually(lambda: self.reader.run(dag_id, run_id) is not None)
        await eventually(lambda: self._run(dag_id, run_id).end_date is not None, within=90)
        rows = self.reader.tasks(self._run(dag_id, run_id), datetime.now(UTC))
        assert [row.state for row in rows] == ["success"] * tasks

    def _run(self, dag_id: str, run_id: str) -> RunView:
        run = self.reader.run(dag_id, run_id)
        assert run is not None, "it has been triggered"
        return run

    @contextlib.asynccontextmanager
    async def _served(self, broker: CountingBroker) -> AsyncIterator[None]:
        state = StateDirectory.open(self.home, "node1")
        service = Service(self._config, broker, state)
        running = asyncio.create_task(service.run())
        try:
            yield
        finally:
            service.interrupt()
            await running
            state.close()

    @contextlib.asynccontextmanager
    async def _mocked(self, broker: CountingBroker) -> AsyncIterator[None]:
        session = await Session.open(broker, "node1", ["default"], 16)
        running = asyncio.create_task(session.run())
        try:
            yield
        finally:
            await session.close()
            await running
