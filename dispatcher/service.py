"""The dispatcher process: connect, wait to be elected, reign, and again after any doubt."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import signal
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import ParamSpec, TypeVar

from dispatcher import clock
from dispatcher.answering import Answering
from dispatcher.bundler import Bundler, Limits
from dispatcher.bundling import Bundling
from dispatcher.core.core import Core, Effects, Rules
from dispatcher.core.records import Write
from dispatcher.dagintake import DagIntake
from dispatcher.election import Inbox, elected
from dispatcher.flusher import Flusher
from dispatcher.health import Health
from dispatcher.logintake import LogIntake
from dispatcher.logstore import LogStore
from dispatcher.processor import Processor, ScanResult
from dispatcher.publisher import Publisher
from dispatcher.reign import Reign
from dispatcher.shipping import Shipping
from dispatcher.store import Store, check_schema, open_database
from flow import topology, wire
from flow.config import DISPATCHER_SECTIONS, Config, changes
from flow.errors import (
    BrokerRefused,
    ConfigError,
    DatabaseRefused,
    FlowError,
    SchemaError,
    StoreError,
    TransportError,
)
from flow.parking import Parking
from flow.sdnotify import Notifier
from flow.senders import Senders
from flow.supervision import Standing, supervised
from flow.transport.port import Broker, Link

log = logging.getLogger("flow.dispatcher")
P = ParamSpec("P")
T = TypeVar("T")

#: Seconds after SIGTERM in which a call to the database may end.
STOP_WITHIN = 10.0

#: Records what was found in the DAG folder and puts it to use.
Take = Callable[[ScanResult], Awaitable[None]]


async def take_all(result: ScanResult, take: Take) -> None:
    """What a dispatcher does with what it finds in the DAG folder."""
    await take(result)


class StoreThread:
    """Peewee is synchronous: each of these runs calls on one thread of its own, in order, with
    that thread's own database connection."""

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)

    async def __call__(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, lambda: call(*args, **kwargs))

    async def close(self, last: Callable[[], None]) -> None:
        """Run *last* on the thread, then end it. Lasts as long as a call that it is at."""
        await asyncio.wrap_future(self._executor.submit(last))
        self._executor.shutdown()


@dataclass(slots=True)
class Backoff:
    """Growing pauses between attempts; full jitter, so that many processes do not come at once."""

    shortest: float = 0.2
    longest: float = 2.0
    attempts: int = field(default=0, init=False)

    def pause(self) -> float:
        """Seconds to wait now."""
        self.attempts += 1
        ceiling = min(self.longest, self.shortest * 2.0**self.attempts)
        return random.uniform(self.shortest, ceiling)  # noqa: S311  a pause is no secret

    def reset(self) -> None:
        """It worked."""
        self.attempts = 0


class Dispatcher:
    """At most one reign at a time. *on_scan* stands between the DAG folder and the database: it
    may leave things out, and knows when what it took is in use. Without *schedules* runs begin
    only when somebody asks for one."""

    def __init__(
        self,
        config: Config,
        broker: Broker,
        store: Store,
        *,
        on_scan: Callable[[ScanResult, Take], Awaitable[None]] = take_all,
        schedules: bool = True,
    ) -> None:
        self._config = config
        self._broker = broker
        self._store = store
        self._on_scan = on_scan
        self._rules = rules_of(config, schedules=schedules)
        self._writer = StoreThread("flow-writer")
        self._reader = StoreThread("flow-reader")
        self._blobs = StoreThread("flow-bundles")
        # Kept from reign to reign: what was hashed once is not hashed again.
        limits = Limits(file=config.dags.bundle_file_max_bytes, bundle=config.dags.bundle_max_bytes)
        self._bundler = Bundler(config.dags.folder, limits)
        self._logs = LogStore(config.logs.folder)
        self._parking = Parking(config.home / "parked")
        self._offences: Counter[str] = Counter()
        self._backoff = Backoff()
        self.health = Health()
        self.name = config.dispatcher.name or f"{socket.gethostname()}-{os.getpid()}"

    async def run(self) -> None:
        """Lead whenever the broker chooses this process, until cancelled.

        Raises :class:`BrokerRefused` or :class:`DatabaseRefused` when the very first attempt is
        refused: that is a matter of configuration, not of waiting.
        """
        await self._until_usable()
        served = False
        try:
            while True:
                try:
                    await self._renew_database()
                    async with self._link() as link:
                        served = True
                        await self._lead(link)
                except BrokerRefused as error:
                    if not served:
                        raise
                    await self._wait(error)
                except FlowError as error:
                    await self._wait(error)
                except ExceptionGroup:
                    # What a duty of the reign did not foresee. The next reign starts from the
                    # database; an event that does it again is parked (Reign).
                    log.exception("a bug in flow ended this reign")
                    await asyncio.sleep(self._backoff.pause())
        finally:
            for thread in (self._writer, self._reader, self._blobs):
                await thread.close(self._store.close)

    async def _until_usable(self) -> None:
        while True:
            try:
                await self._writer(check_schema, self._store.database)
            except (DatabaseRefused, SchemaError):
                raise
            except StoreError as error:
                await self._wait(error)
            else:
                return

    async def _renew_database(self) -> None:
        """Before each election. One who cannot write stands aside: being elected, it would only
        hand the events back, again and again. And where one connection has broken, so have the
        others as a rule, which each would notice only in use, at the cost of another reign."""
        for thread in (self._writer, self._reader, self._blobs):
            await thread(self._store.close)
        await self._writer(check_schema, self._store.database)

    async def _wait(self, error: FlowError) -> None:
        self.health.waits(error)
        pause = self._backoff.pause()
        log.warning("%s; trying again in %.1f s", error, pause)
        await asyncio.sleep(pause)

    @contextlib.asynccontextmanager
    async def _link(self) -> AsyncIterator[Link]:
        link = await self._broker.connect(f"flow dispatcher {self.name}")
        try:
            yield link
        finally:
            await link.close()

    async def _lead(self, link: Link) -> None:
        outlet = await link.outlet()
        self.health.stands_by()
        inbox = await elected(link, outlet, self.name)
        self.health.begins()
        with self.health.asking():
            epoch = await self._writer(self._store.begin_reign, self.name, clock.now().wall)
        with self.health.asking():
            snapshot = await self._writer(self._store.load)
        core = Core(snapshot, reign=epoch, rules=self._rules, now=clock.now())
        publisher = Publisher(link, outlet, epoch)
        await publisher.declare({task.queue for dag in snapshot.dags for task in dag.spec.tasks})

        async def commit(writes: Sequence[Write]) -> None:
            with self.health.asking():
                await self._writer(self._store.commit, epoch, writes)

        answering = Answering(self._store, self._reader, publisher.reply)

        def carry_out(effects: Effects) -> None:
            publisher.carry_out(effects)
            answering.take(effects.lookups)

        flusher = Flusher(commit, carry_out)
        shipping = Shipping(await link.outlet(), self._store, self._blobs)
        reign = Reign(
            core,
            flusher,
            publisher,
            clock.now,
            self._parking,
            self._offences,
            shipping=shipping,
            senders=Senders(self._config.dispatcher.verify_users, link.user),
        )
        reign.add(core.begin(clock.now()))
        log.info(
            "leads: epoch %d, %d unfinished runs, %d agents known",
            epoch,
            len(snapshot.runs),
            len(snapshot.agents),
        )
        self._backoff.reset()
        self.health.leads(epoch, core, lambda: clock.now().mono)
        try:
            await self._all_duties(reign, flusher, publisher, answering, link, inbox, epoch=epoch)
        finally:
            self.health.ends()
            await publisher.close()

    async def _all_duties(
        self,
        reign: Reign,
        flusher: Flusher,
        publisher: Publisher,
        answering: Answering,
        link: Link,
        inbox: Inbox,
        *,
        epoch: int,
    ) -> None:
        logs = Inbox()
        await link.consume(topology.LOGS, logs.put, prefetch=64)
        try:
            async with asyncio.TaskGroup() as duties:
                duties.create_task(flusher.run())
                duties.create_task(reign.intake(inbox))
                duties.create_task(reign.timers())
                duties.create_task(reign.touching())
                duties.create_task(
                    reign.reconciling(link, self._config.dispatcher.reconcile_interval)
                )
                duties.create_task(self._read_intents(reign))
                bundling = self._bundling(epoch)
                duties.create_task(self._process_dags(reign, publisher, bundling, epoch))
                duties.create_task(bundling.pruning())
                duties.create_task(reign.shipping.run())
                duties.create_task(answering.run())
                duties.create_task(self._keep_logs(reign, logs))
                duties.create_task(_end_with(link))
        except ExceptionGroup as group:
            expected, bugs = group.split(FlowError)
            if bugs is not None or expected is None:
                raise
            raise _first(expected) from None

    async def _read_intents(self, reign: Reign) -> None:
        """A wake-up message, or the poll that makes up for a lost one."""
        while True:
            reign.intents_wanted.clear()
            intents = await self._reader(self._store.pending_intents)
            if intents:
                loaded = {
                    intent: await self._reader(self._store.load_run, dag_id, run_id)
                    for intent, (dag_id, run_id) in reign.core.wanted_runs(intents).items()
                }
                reign.add(reign.core.request(intents, clock.now(), loaded))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._config.dispatcher.intent_poll_interval):
                    await reign.intents_wanted.wait()

    def _bundling(self, epoch: int) -> Bundling:
        return Bundling(
            self._bundler,
            store=self._store,
            on_thread=self._blobs,
            on_writer=self._writer,
            epoch=epoch,
            wall=lambda: clock.now().wall,
        )

    async def _process_dags(
        self, reign: Reign, publisher: Publisher, bundling: Bundling, epoch: int
    ) -> None:
        settings = self._config.dags
        processor = Processor(
            settings.folder,
            python=settings.python,
            default_timezone=self._config.core.default_timezone,
            list_interval=settings.dag_dir_list_interval,
            min_file_process_interval=settings.min_file_process_interval,
            parse_timeout=settings.parse_timeout,
            processes=settings.parsing_processes,
            max_active_runs=self._config.dispatcher.max_active_runs_per_dag,
            max_active_tasks=self._config.dispatcher.max_active_tasks_per_dag,
            bundle=bundling.current,
        )

        intake = DagIntake(
            store=self._store,
            on_writer=self._writer,
            epoch=epoch,
            publisher=publisher,
            changed=reign.dags_changed,
            wall=lambda: clock.now().wall,
        )
        await processor.run(lambda result: self._on_scan(result, intake.take))

    async def _keep_logs(self, reign: Reign, inbox: Inbox) -> None:
        async def owner(chunk: wire.LogChunk) -> tuple[int, str] | None:
            found = reign.core.log_owner(chunk)
            if found is None:
                found = await self._reader(
                    self._store.owner_of_try, chunk.task_instance_id, chunk.try_number, chunk.token
                )
            return found

        senders = Senders(self._config.dispatcher.verify_users)
        await LogIntake(self._logs, owner, senders).run(inbox)


def rules_of(config: Config, *, schedules: bool = True) -> Rules:
    """The settings that the core's rules read."""
    return Rules(
        schedules=schedules,
        lookahead=config.dispatcher.lookahead,
        parallelism=config.dispatcher.parallelism,
        grace=config.lease.grace,
        heartbeat_interval=config.lease.heartbeat_interval,
        lost_after=3 * config.lease.heartbeat_interval,
    )


async def run(config: Config, broker: Broker, *, read: Callable[[], Config]) -> int:
    """Run a dispatcher on *broker* until SIGTERM or SIGINT; the exit code of the process. *read*
    gives the settings as they are now, when SIGHUP asks which of them have changed."""
    notifier = Notifier.take(os.environ)
    store = Store(open_database(config.database.url.reveal()))
    dispatcher = Dispatcher(config, broker, store)
    stopping = False

    def standing() -> Standing:
        now = dispatcher.health.standing()
        return replace(now, status="stopping", stopping=True, takes_time=False) if stopping else now

    leading = asyncio.ensure_future(dispatcher.run())
    loop = asyncio.get_running_loop()
    async with supervised(notifier, standing) as supervision:

        def stop() -> None:
            nonlocal stopping
            stopping = True
            supervision.look()
            leading.cancel()
            loop.call_later(STOP_WITHIN, _give_up)

        def reload() -> None:
            with supervision.reload():
                _compare(config, read)

        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, stop)
        loop.add_signal_handler(signal.SIGHUP, reload)
        try:
            await leading
        except asyncio.CancelledError:
            log.info("stopped")
    return 0


def _give_up() -> None:
    """A call that the database does not answer keeps its thread, and that the interpreter, for as
    long as it likes. Nothing is lost: a dispatcher may be killed at any moment."""
    log.warning("stopped without an answer of the database")
    os._exit(0)


def _compare(config: Config, read: Callable[[], Config]) -> None:
    """Say what a reload would change. Rules and limits are a reign's from its first moment, so all
    of it needs a restart, which costs a dispatcher's users a second."""
    problems: list[str] = []
    changed: tuple[str, ...] = ()
    try:
        changed = changes(config, read(), concerns=DISPATCHER_SECTIONS, live=()).restart
    except ConfigError as error:
        problems = str(error).splitlines()
    for problem in problems:
        log.error("a start with these settings would fail: %s", problem)
    if changed:
        log.warning("%s changed: that needs a restart", ", ".join(changed))
    elif not problems:
        log.info("settings read again: nothing has changed")


async def _end_with(link: Link) -> None:
    raise TransportError(await link.wait_closed())


def _first(errors: ExceptionGroup[FlowError]) -> FlowError:
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, ExceptionGroup) else error
