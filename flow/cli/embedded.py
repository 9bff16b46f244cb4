"""Dispatcher and agents in one process: the embedded default.

``flow standalone``, ``flow dags test`` and ``flow tasks test`` are the same composition: the real
dispatcher and, for every queue, a real agent in one event loop, over a broker in memory and an
SQLite file. Nothing here decides anything about runs and tasks.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import re
import signal
from collections.abc import Callable, Collection, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ParamSpec, Self, TypeVar

from agent.service import Service
from agent.session import StateDirectory
from dispatcher.processor import ScanResult
from dispatcher.service import Dispatcher, StoreThread, Take
from dispatcher.store import Store, migrate, open_database
from dispatcher.store.reader import Reader
from flow import topology, wire
from flow.cli.wakesocket import listening
from flow.config import Config, DispatcherSettings
from flow.errors import ConfigError, FlowError
from flow.topology import QueueSpec
from flow.transport.memory import MemoryBroker
from flow.transport.port import Link, Outlet, Publication

P = ParamSpec("P")
T = TypeVar("T")

#: Seconds for the last events and output to be stored once all agents have gone.
_SETTLING = 10.0
#: Seconds for an agent to start, for those who would rather see it ready.
_STARTING = 5.0
_LOOK_AGAIN = 0.02
_MOST_OF_A_QUEUE = 40
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(Exception):
    """Somebody wants it to stop."""


class Embedded:
    """A whole flow for as long as the ``async with`` block lasts; at its end agents drain.

    The home folder of *config* is locked meanwhile, its database made or updated. *queues* get an
    agent each; ``None``: all that DAGs name, new ones too. All agents share the slots of
    *config*. *select* sees what is found in the DAG folder before it is used. With *hurry* the
    first signal kills what runs, else it lets it finish. Without *schedules* runs begin only when
    somebody asks for one.
    """

    def __init__(
        self,
        config: Config,
        *,
        queues: Collection[str] | None = None,
        select: Callable[[ScanResult], ScanResult] = lambda result: result,
        hurry: bool = False,
        schedules: bool = True,
    ) -> None:
        self._config = config
        self._queues = queues
        self._select = select
        self._hurry = hurry
        self._schedules = schedules
        self._loop = asyncio.get_running_loop()
        self._broker = MemoryBroker(on_declare=self._declared)
        self._database = open_database(config.database.url.reveal())
        self._on_reader = StoreThread("flow-commands")
        self._exits = contextlib.AsyncExitStack()
        self._agents: dict[str, asyncio.Task[None]] = {}
        self._services: list[Service] = []
        self._stopping = False
        self.signals = 0
        """How often somebody wanted it to stop."""
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self.reader = Reader(self._database)
        """To be used through :meth:`read`."""
        self.scan = Scan()
        self.folder = config.dags.folder
        """Of DAG files."""

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as exits:
            exits.push_async_callback(self._on_reader.close, self._close_database)
            exits.enter_context(_locked(self._config.home))
            await self._on_reader(migrate, self._database)
            link = await self._broker.connect("flow standalone")
            exits.push_async_callback(link.close)
            outlet = await link.outlet()
            self.link: Link = link
            exits.enter_context(listening(self._config.home, lambda: self._wake(outlet)))
            self._outlet = outlet
            for number in _SIGNALS:  # they count until the very end
                self._loop.add_signal_handler(number, self._interrupt)
                exits.callback(self._loop.remove_signal_handler, number)
            exits.push_async_callback(self._stop, self._start_dispatcher())
            for queue in self._queues or ():
                self._start_agent(queue)
            self._exits = exits.pop_all()
        return self

    async def __aexit__(self, *details: object) -> None:
        await self._exits.aclose()

    async def until_done(self, work: Coroutine[Any, Any, T]) -> T:
        """Do *work*. Raises :class:`Interrupted` when somebody wants it to stop first, and what
        ended a dispatcher or an agent that should not have ended."""
        task = self._loop.create_task(work)
        try:
            either: set[asyncio.Future[Any]] = {task, self._ended}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                self._ended.result()
            return await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def read(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call something that uses :attr:`reader`, on the reader's own thread."""
        return await self._on_reader(call, *args, **kwargs)

    def wake(self) -> None:
        """A request was written."""
        self._wake(self._outlet)

    async def settled(self, *queues: str) -> None:
        """Return once everything in these queues has been dealt with."""
        for queue in queues:
            await self._broker.settled(queue)

    async def until_served(self) -> None:
        """Return once the dispatcher knows all agents that were started so far, or one takes long
        to start."""
        names = {agent_name(queue) for queue in self._agents}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STARTING):
                while True:
                    found = await self.read(self.reader.agents)
                    if names <= {item.name for item in found if item.live}:
                        return
                    await asyncio.sleep(_LOOK_AGAIN)

    # -- the dispatcher --------------------------------------------------------------------------

    def _start_dispatcher(self) -> asyncio.Task[None]:
        store = Store(open_database(self._config.database.url.reveal()))
        config = replace(self._config, dispatcher=_for_all(self._config))
        dispatcher = Dispatcher(
            config, self._broker, store, on_scan=self._on_scan, schedules=self._schedules
        )
        return self._watched(dispatcher.run())

    async def _on_scan(self, result: ScanResult, take: Take) -> None:
        try:
            selected = self._select(result)
        except FlowError as error:  # the dispatcher would try again
            if not self._ended.done():
                self._fail(error)
            return
        await take(selected)
        self.scan.add(result, selected)

    @staticmethod
    def _wake(outlet: Outlet) -> None:
        # The future is dropped: while nobody leads, the next to lead looks by itself.
        outlet.publish(Publication(topology.EVENTS, topology.WAKE_KEY, wire.encode(wire.Wake())))

    # -- agents ----------------------------------------------------------------------------------

    def _declared(self, spec: QueueSpec) -> None:
        """The dispatcher declares every queue that a DAG names."""
        if spec.exchange == topology.TASKS and self._queues is None:
            self._start_agent(spec.key)

    def _start_agent(self, queue: str) -> None:
        if queue not in self._agents and not self._stopping:
            self._agents[queue] = self._watched(self._serve(queue))

    async def _serve(self, queue: str) -> None:
        if self._stopping:
            return
        name = agent_name(queue)
        settings = replace(self._config.agent, name=name, queues=(queue,))
        state = StateDirectory.open(self._config.home, name)
        try:
            service = Service(replace(self._config, agent=settings), self._broker, state)
            self._services.append(service)
            await service.run()
        finally:
            state.close()

    # -- the end ---------------------------------------------------------------------------------

    def _watched(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A part that must not end before it is told to."""
        task = self._loop.create_task(work)
        task.add_done_callback(self._part_ended)
        return task

    def _part_ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if not self._stopping and not self._ended.done():
            self._fail(error or FlowError("a part of flow ended unasked; see the log"))

    def _fail(self, error: BaseException) -> None:
        self._ended.set_exception(error)
        self._ended.exception()  # it may come when nobody waits any more

    def _interrupt(self) -> None:
        self.signals += 1
        if not self._ended.done():
            self._fail(Interrupted())
        self._tell_agents()

    def _tell_agents(self) -> None:
        """The first time they drain, the second time they kill; with *hurry* at once."""
        times = 2 if self._hurry and not self._stopping else 1
        self._stopping = True
        for service in self._services:
            for _ in range(times):
                service.interrupt()

    async def _stop(self, dispatcher: asyncio.Task[None]) -> None:
        """Agents first, so that what they still say is dealt with; then the dispatcher."""
        if not self._stopping:
            self._tell_agents()
        agents = self._agents.values()
        await asyncio.gather(*agents, return_exceptions=True)
        if not dispatcher.done():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SETTLING):
                    await self.settled(topology.EVENTS, topology.LOGS)
        dispatcher.cancel()
        await asyncio.gather(dispatcher, return_exceptions=True)
        for part in (dispatcher, *agents):
            error = None if part.cancelled() else part.exception()
            if error is not None:
                raise error

    def _close_database(self) -> None:
        self._database.close()


class Scan:
    """What has been read of the DAG folder and is in use."""

    def __init__(self) -> None:
        self.found: set[str] = set()
        """All DAGs that were read."""
        self.dags: set[str] = set()
        """Those in use."""
        self.errors: dict[str, str] = {}
        self.complete = False
        """Every file has been read once."""
        self._changed = asyncio.Event()

    def add(self, result: ScanResult, used: ScanResult) -> None:
        """*result* was read; what was selected of it is in use now."""
        self.found.update(dag.dag_id for parsed in result.files for dag in parsed.dags)
        self.dags.update(dag.dag_id for parsed in used.files for dag in parsed.dags)
        for parsed in result.files:
            self.errors.pop(parsed.file, None)
            if parsed.error is not None:
                self.errors[parsed.file] = parsed.error
        self.complete = self.complete or result.present is not None
        self._changed.set()

    async def until_known(self, dag_id: str) -> None:
        """Return once *dag_id* is in use, or every file has been read."""
        while dag_id not in self.dags and not self.complete:
            self._changed.clear()
            await self._changed.wait()


def _for_all(config: Config) -> DispatcherSettings:
    """A dispatcher's settings with which all agents share the slots of one: no more tasks than
    these are queued or running, and none is queued that no agent has a slot for."""
    wanted = config.dispatcher.parallelism or config.agent.slots
    most = min(wanted, config.agent.slots)
    return replace(config.dispatcher, parallelism=most, lookahead=0)


def agent_name(queue: str) -> str:
    """``local-<queue>``. A queue whose name an agent cannot have gets a hash behind it, so that no
    two queues have the same agent."""
    plain = re.sub(r"[^a-z0-9]+", "-", queue.lower()).strip("-")[:_MOST_OF_A_QUEUE].rstrip("-")
    if plain == queue:
        return f"local-{queue}"
    digest = hashlib.sha256(queue.encode()).hexdigest()[:8]
    return "-".join(part for part in ("local", plain, digest) if part)


@contextlib.contextmanager
def _locked(home: Path) -> Iterator[None]:
    """Be the only one on this home folder. Raises :class:`~flow.errors.FlowError`."""
    path = home / "standalone.lock"
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(
            f"home: expected a folder that can be written, got {home}: {error.strerror}; "
            "set FLOW_HOME to one of yours"
        ) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 20, 0).decode(errors="replace").strip()
            raise FlowError(
                f"{home}: expected no other `flow standalone` on this FLOW_HOME, got the running "
                f"process {holder or 'of another user'}; stop it, or set another FLOW_HOME"
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(lock)
