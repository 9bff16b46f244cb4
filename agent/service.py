"""The agent as a process: the core in the event loop, around it what carries its effects out."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import random
import re
import secrets
import signal
import socket
import time
import uuid
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import replace
from importlib import metadata
from typing import Any

import msgspec

from agent.cache import CodeCache
from agent.cgroups import Cgroups, claim
from agent.connection import AgentConnection
from agent.core import Core, Identity, Settings
from agent.core import effects as do
from agent.core import events as on
from agent.disk import probe
from agent.facts import look
from agent.fetching import Fetcher
from agent.gpus import Gpus
from agent.health import Seen, standing
from agent.interpreters import Interpreters
from agent.operators import Preparer
from agent.output import LogSender
from agent.reloading import reread
from agent.resources import Defaults
from agent.runner import Limits, Runner
from agent.session import StateDirectory, boot_id, home_id
from agent.spool import Spool
from agent.spooling import Spooling
from agent.starter import Starter
from flow import wire
from flow.config import Config
from flow.parking import Parking
from flow.sdnotify import Notifier
from flow.supervision import Standing, supervised
from flow.transport.port import Broker

log = logging.getLogger(__name__)

#: Seconds for the last output at the end of a drain.
LAST_OUTPUT = 2.0
_PR_SET_DUMPABLE = 4
_MAX_NAME = 60
_LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


async def run(config: Config, broker: Broker, *, read: Callable[[], Config]) -> int:
    """Be an agent on *broker* until a signal or a fatal error; return the exit code. *read*
    gives the settings as they are now, when SIGHUP asks for that.

    Raises :class:`~flow.errors.FlowError`: :class:`~agent.session.NameTaken` when an agent of this
    name runs on this FLOW_HOME, :class:`~flow.errors.BrokerRefused` when the broker refuses the
    first connection, :class:`~flow.errors.ConfigError` for a state directory that is of no use.
    """
    hide_environment()
    notifier = Notifier.take(os.environ)
    state = StateDirectory.open(config.home, agent_name(config))
    loop = asyncio.get_running_loop()
    try:
        service = Service(config, broker, state)
        async with supervised(notifier, service.standing) as supervision:

            def reload() -> None:
                with supervision.reload():
                    service.reload(read)

            def interrupt() -> None:
                service.interrupt()
                supervision.look()

            service.on_session = supervision.look
            loop.add_signal_handler(signal.SIGHUP, reload)
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, interrupt)
            return await service.run()
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.remove_signal_handler(number)
        state.close()


def agent_name(config: Config) -> str:
    """What the agent is called: as it is told, else after its host and what it was started for."""
    return config.agent.name or default_name((config.instance or config.agent.queues[0],))


def default_name(queues: tuple[str, ...]) -> str:
    """``<short host name>-<first queue>``, with only what an agent's name may have."""
    raw = f"{socket.gethostname().partition('.')[0]}-{queues[0]}"
    return re.sub(r"[^a-z0-9]+", "-", raw.lower()).strip("-")[:_MAX_NAME].rstrip("-") or "agent"


def hide_environment() -> None:
    """Keep tasks, which run as the same user, from reading this process's environment and memory:
    the broker's password may be there (prctl(2), PR_SET_DUMPABLE)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        log.warning("tasks may read this agent's environment: %s", os.strerror(ctypes.get_errno()))


def boottime() -> float:
    """CLOCK_BOOTTIME in seconds: unlike CLOCK_MONOTONIC it goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Service:
    """One agent. :meth:`run` may be called once."""

    def __init__(self, config: Config, broker: Broker, state: StateDirectory) -> None:
        self._loop = asyncio.get_running_loop()
        spool = Spool(state.spool)
        self._state = state
        name = state.path.name
        facts = look(config.agent.gpus, path=os.environ.get("PATH"))
        settings = replace(_settings(name, config), gpus=facts.gpus)
        cgroups = claim()
        log.info("%s", cgroups.told())
        self._identity = replace(_identity(state, cgroups), cores=facts.cores, memory=facts.memory)
        self._core = Core(settings, self._identity, spool.load())
        self._logs = LogSender(self._loop, name)
        self._runner = Runner(
            state=state,
            preparer=Preparer.find(
                name,
                dict(os.environ),
                state.work,
                config.agent.pass_env,
                interpreters=Interpreters.of(config.agent.python, config.agent.python_for),
                xcom_max_bytes=config.xcom.max_bytes,
                gpus=Gpus(
                    config.home / "gpus",
                    tuple(device.id for device in facts.gpus),
                    config.agent.gpu_share,
                ),
                warm=config.agent.warm,
            ),
            logs=self._logs,
            limits=_limits(config),
            post=self.post,
            spawn=self._spawn,
            wall=time.time,
            cgroups=cgroups,
        )
        cache = CodeCache(config.home / "cache", config.agent.cache_max_bytes)
        self._written = (state.spool, state.work, config.home / "cache")
        """What must take something before the agent may start anything."""
        self._fetcher = Fetcher(
            cache, agent=name, session=lambda: self._core.session, send=self._ask_for_pieces
        )
        self._starter = Starter(
            runner=self._runner,
            cache=cache,
            fetcher=self._fetcher,
            post=self.post,
            spawn=self._spawn,
            wall=time.time,
        )
        self._connection = AgentConnection(
            broker=broker,
            settings=settings,
            logs=self._logs,
            parking=Parking(state.parked),
            post=self.post,
            jitter=random.random,
            suffix=lambda: secrets.token_hex(6),
            on_piece=self._fetcher.arrived,
        )
        self._config = config
        self.on_session: Callable[[], None] = lambda: None
        """Called when a session has begun."""
        self._drains_since: float | None = None
        self._stopped: asyncio.Future[int] = self._loop.create_future()
        self._waiting: deque[on.Event] = deque()
        self._stepping = False
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        spooling = Spooling(spool, self.post, self._spawn)
        self._performers: dict[type, Callable[[Any], None]] = {
            do.Send: self._send,
            do.Ack: lambda effect: self._connection.ack(effect.handle),
            do.Consume: lambda _: self._spawn(self._connection.consume()),
            do.Serve: lambda effect: self._connection.serve(effect.queues, effect.slots),
            do.Reconnect: lambda _: self._connection.reconnect(),
            do.Start: lambda effect: self._starter.start(effect.task, effect.grant, effect.gpus),
            do.Relay: lambda effect: self._runner.relay(effect.request, effect.answer),
            do.Kill: lambda effect: self._starter.kill(effect.token, effect.grace, effect.reason),
            do.Fence: self._begin_fence,
            do.SetDeadline: lambda effect: self._runner.set_deadline(effect.at),
            do.Spool: lambda effect: spooling.write(effect.result),
            do.DropSpool: lambda effect: spooling.drop(effect.token),
            do.Probe: lambda _: self._spawn(self._probe()),
            do.ProbeGpus: lambda effect: self._runner.probe_gpus(effect.gpus),
            do.Report: lambda effect: log.log(_LEVELS[effect.level], "%s", effect.text),
            do.Stop: self._stop,
        }

    async def run(self) -> int:
        """Run until stopped; what still runs then is killed. Return the exit code."""
        self._spawn(self._connection.run())
        self._perform(self._core.start())
        try:
            return await self._stopped
        finally:
            await self._end()

    def interrupt(self) -> None:
        """Somebody wants it to stop: the first time it drains, the second time it kills what runs,
        the third time it stops at once."""
        if self._drains_since is None:
            self._drains_since = boottime()
        self.post(on.Interrupt())

    def reload(self, read: Callable[[], Config]) -> None:
        """Go by the settings that *read* gives, as far as that is possible without a restart."""
        found = reread(self._config, read)
        if found is None or not found.live:
            return
        self._config = config = found.config
        self._runner.reconfigure(
            replace(
                self._runner.preparer,
                pass_env=config.agent.pass_env,
                interpreters=Interpreters.of(config.agent.python, config.agent.python_for),
                xcom_max_bytes=config.xcom.max_bytes,
                warm=config.agent.warm,
            ),
            _limits(config),
        )
        new = _settings(self._state.path.name, config)
        self.post(
            on.Reconfigured(
                queues=new.queues if "agent.queues" in found.live else None,
                slots=new.slots if "agent.slots" in found.live else None,
                kill_grace=new.kill_grace,
                drain_timeout=new.drain_timeout,
                claim_interval=new.claim_interval,
            )
        )

    def standing(self) -> Standing:
        """For the service manager; also asks the keeper for a sign of life."""
        core, now = self._core, boottime()
        wanted = core.wake_at()
        since = self._drains_since
        return standing(
            Seen(
                tasks=len(core.work.running),
                busy=core.work.busy,
                slots=core.settings.slots,
                queues=core.settings.queues,
                session=core.session,
                fenced=core.fenced,
                greeted=core.greeted,
                link=core.link,
                connection=self._connection.status,
                refused=self._connection.refused,
                suspended=core.suspended,
                drained=core.drained,
                draining=None if since is None else now - since,
                drain_timeout=self._config.agent.drain_timeout,
                late=0.0 if wanted is None else now - wanted,
                keeper_silence=self._runner.keeper_silence(),
            )
        )

    def post(self, event: on.Event) -> None:
        """Let the core take *event* and do what it says, at once unless it is busy."""
        self._waiting.append(event)
        if self._stepping:
            return
        self._stepping = True
        try:
            while self._waiting:
                self._perform(self._core.step(self._waiting.popleft(), boottime()))
        except Exception as error:  # noqa: BLE001 -- half of a step was done: no further one may follow
            self._fail(error)
        finally:
            self._stepping = False
        self._set_timer()

    # -- effects -------------------------------------------------------------------------------

    def _perform(self, effects: list[do.Effect]) -> None:
        for effect in effects:
            self._performers[type(effect)](effect)

    def _send(self, effect: do.Send) -> None:
        message = effect.message
        if isinstance(message, wire.Heartbeat):
            message = msgspec.structs.replace(message, load=round(os.getloadavg()[0], 2))
        self._connection.publish(effect.ref, message, effect.expiration)

    def _ask_for_pieces(self, message: wire.PiecesWanted) -> None:
        # Without a reference of the core's: it is asked again until the pieces come.
        asked = msgspec.structs.replace(message, incarnation=self._identity.incarnation)
        self._connection.publish(0, asked, None)

    def _begin_fence(self, effect: do.Fence) -> None:
        self._starter.forget()
        self._spawn(self._fence(effect))

    async def _fence(self, effect: do.Fence) -> None:
        session = await self._runner.fence(effect.above)
        log.info("session %d of agent %s begins", session, self._state.path.name)
        self.post(on.Fenced(session))
        self.on_session()

    async def _probe(self) -> None:
        self.post(on.Probed(await asyncio.to_thread(probe, self._written)))

    def _stop(self, effect: do.Stop) -> None:
        if not self._stopped.done():
            log.info("%s", effect.reason)
            self._stopped.set_result(effect.code)

    # -- background ----------------------------------------------------------------------------

    def _set_timer(self) -> None:
        at = self._core.wake_at()
        if at is None:
            return  # a tick too many does no harm
        when = self._loop.time() + max(0.0, at - boottime())
        if self._timer is not None:
            if self._timer.when() <= when:
                return  # likewise: at its tick the next one is set
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.post(on.Tick())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._spawned_done)

    def _spawned_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            if not self._core.stopped:
                # By nobody here: an agent must not go on with a part missing.
                self._fail(RuntimeError(f"{task.get_coro()!r} was cancelled"))
            return
        error = task.exception()
        if error is not None:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """End the agent: whoever started it sees why, and may start it again."""
        self._core.stopped = True
        if not self._stopped.done():
            self._stopped.set_exception(error)

    async def _end(self) -> None:
        """Tasks first, so that nothing runs when the connection, and with it the lease, ends;
        then their last output; the connection, with what it still has to send, last."""
        if self._timer is not None:
            self._timer.cancel()
        self._core.stopped = True
        self._starter.close()
        await self._runner.stop()
        await self._logs.finish(LAST_OUTPUT)
        for task in list(self._tasks):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*self._tasks, return_exceptions=True)


def _settings(name: str, config: Config) -> Settings:
    agent, lease = config.agent, config.lease
    return Settings(
        name=name,
        queues=agent.queues,
        slots=agent.slots,
        gpu_share=agent.gpu_share,
        heartbeat_interval=lease.heartbeat_interval,
        lease=lease.duration,
        margin=lease.margin,
        grace=lease.grace,
        kill_grace=agent.kill_grace,
        drain_timeout=agent.drain_timeout,
        claim_interval=agent.claim_resend_interval,
    )


def _limits(config: Config) -> Limits:
    return Limits(
        kill_grace=config.agent.kill_grace,
        proof=config.lease.margin,
        log_max_bytes=config.agent.log_max_bytes,
        resources=Defaults(
            memory=config.agent.task_memory,
            cpus=config.agent.task_cpus,
            pids=config.agent.task_pids,
            run_without_limits=config.agent.run_without_limits,
        ),
    )


def _identity(state: StateDirectory, cgroups: Cgroups) -> Identity:
    try:
        version = metadata.version("flow-dispatch")
    except metadata.PackageNotFoundError:  # run from a checkout
        version = "checkout"
    return Identity(
        home_id=home_id(state),
        boot_id=boot_id(),
        incarnation=uuid.uuid4().hex,
        software=f"flow-dispatch {version}",
        limits=cgroups.complete,
    )
