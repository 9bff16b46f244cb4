"""Tasks as processes: what the core starts and kills, through the keeper, with their output."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent import keeper_client
from agent.cgroups import Cgroups, prove_empty
from agent.core import events as on
from agent.disk import is_fault, told
from agent.gpus import GpusTaken, close
from agent.jobs import read_outcome
from agent.keeper_client import Keeper, KeeperEvent, StartTask
from agent.operators import (
    CannotPrepare,
    Command,
    NotHere,
    Preparer,
    remove_private,
    remove_quickly,
)
from agent.output import LogSender, TaskLog
from agent.processes import Proof, prove_dead
from agent.resources import Defaults, Held, held_to
from agent.session import StateDirectory
from agent.taskserver import TaskServer
from flow.errors import FlowError
from flow.wire import Answer, Grant, Task

log = logging.getLogger(__name__)

#: Seconds a result waits for the last of its output to be handed over.
OUTPUT_WAIT = 1.0
#: Seconds of one attempt to prove earlier processes dead; attempts go on until one succeeds.
PROOF_TIMEOUT = 15.0
#: Seconds between two tries to write a new session down.
SESSION_RETRY = 2.0

Spawn = Callable[[Coroutine[Any, Any, None]], None]
"""Runs a coroutine in the background; its failure ends the agent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What bounds a task's end and its output."""

    kill_grace: float
    """Seconds between SIGTERM and SIGKILL."""
    proof: float
    """Seconds in which the keeper must prove the processes of a session dead."""
    log_max_bytes: int
    resources: Defaults = field(default_factory=Defaults)
    """For tasks that do not say what they may use."""


@dataclass(slots=True)
class _Run:
    """A token that has been given to the keeper."""

    task: Task
    token: int
    command: Command
    held: Held
    log: TaskLog
    release: Callable[[], None]
    """Called once when nothing of it is left."""
    started_at: float = 0.0


class Runner:
    """Starts, ends and reports processes. What happens to them goes to *post*."""

    def __init__(
        self,
        *,
        state: StateDirectory,
        preparer: Preparer,
        logs: LogSender,
        limits: Limits,
        post: Callable[[on.Event], None],
        spawn: Spawn,
        wall: Callable[[], float],
        cgroups: Cgroups | None = None,
    ) -> None:
        self._state = state
        self._cgroups = cgroups or Cgroups()
        self._preparer = preparer
        self._logs = logs
        self._limits = limits
        self._post = post
        self._spawn = spawn
        self._wall = wall
        self._runs: dict[int, _Run] = {}
        self._orphans: list[_Run] = []
        """Of a keeper that died: not proven dead yet."""
        self._server = TaskServer(post, spawn)
        self._keeper: Keeper | None = None
        self._proven = asyncio.Event()

    async def fence(self, above: int) -> int:
        """End every process of the sessions so far, except what the keeper was told to keep, and
        prove it; begin the next session, above all so far and above *above*, and return it."""
        keeper = self._keeper
        if keeper is not None and not keeper.lost.done():
            keeper.set_deadline(0.0)
            proven = asyncio.ensure_future(self._proven.wait())
            either: set[asyncio.Future[Any]] = {proven, keeper.lost}
            await asyncio.wait(
                either, timeout=self._limits.proof, return_when=asyncio.FIRST_COMPLETED
            )
            proven.cancel()
            if not self._proven.is_set() and not keeper.lost.done():
                log.error("the keeper proves nothing (is it stopped?); it is killed with its tasks")
                keeper.destroy()
                await keeper.lost
        orphaned = keeper is None or keeper.lost.done()
        if orphaned:
            # Before anything that may take long: nobody else ends them with their lease.
            await self._prove_dead(self._state.session + 1)
        session = await self._next_session(above)
        if keeper is not None and not keeper.lost.done():
            self._proven.clear()
            keeper.begin_session(session)
            return session
        if not orphaned:
            await self._prove_dead(session)
        self._proven.clear()
        self._keeper = await Keeper.launch(
            state_id=self._state.state_id,
            session=session,
            on_event=self._on_keeper,
            cgroups=self._cgroups.top,
        )
        self._keeper.lost.add_done_callback(self._on_keeper_lost)
        return session

    async def _next_session(self, above: int) -> int:
        """On a disk that takes nothing the agent waits: no session, so no hello and no tasks."""
        said = ""
        while True:
            try:
                return await asyncio.to_thread(self._state.next_session, above)
            except OSError as error:
                problem = told(error)
            if problem != said:
                said = problem
                log.error("no session can begin: %s; trying again until it can", problem)
            await asyncio.sleep(SESSION_RETRY)

    def keeper_silence(self) -> float:
        """Ask the keeper for a sign of life; for how many seconds it has owed the last one."""
        if self._keeper is None:
            return 0.0
        silence = self._keeper.silence
        self._keeper.ping()
        return silence

    @property
    def preparer(self) -> Preparer:
        """What makes commands of tasks."""
        return self._preparer

    def reconfigure(self, preparer: Preparer, limits: Limits) -> None:
        """Start what starts from now on so. What runs keeps what it was started with."""
        self._preparer, self._limits = preparer, limits

    def set_deadline(self, at: float) -> None:
        """Tell the keeper when the lease ends."""
        if self._keeper is not None:
            self._keeper.set_deadline(at)

    def start(
        self,
        task: Task,
        grant: Grant,
        dag_folder: Path | None = None,
        release: Callable[[], None] = lambda: None,
        *,
        gpus: tuple[str, ...] = (),
    ) -> None:
        """Start the task with *gpus* for its own; ProcessStarted and ProcessEnded follow. *release*
        is called once, when nothing of the task uses *dag_folder* any more."""
        if task.operator == "empty":
            release()
            self._finish_empty(task, grant)
            return
        keeper = self._keeper
        locks: list[int] = []
        try:
            if keeper is None:
                raise NotHere("there is no keeper")
            held = held_to(task.resources, self._limits.resources, self._cgroups)
            command = self._preparer.prepare(task, grant, dag_folder)
            if command.job is not None:
                self._server.open(grant.token, command.job.socket)
            locks = self._preparer.gpus.take(gpus)
            output, end = os.pipe2(os.O_CLOEXEC)
        except (FlowError, OSError) as error:
            release()
            close(locks)
            self._server.close(grant.token)
            self._spawn(self._remove(self._preparer.folders(grant.token)))
            self.refuse(task, grant, error)
            return
        task_log = self._logs.open(task, grant.token, self._limits.log_max_bytes)
        task_log.read_from(output)
        self._runs[grant.token] = _Run(task, grant.token, command, held, task_log, release)
        keeper.start(
            StartTask(
                token=grant.token,
                argv=command.argv,
                env={**command.env, **self._preparer.gpus.environment(gpus)},
                cwd=command.cwd,
                output_fd=end,
                keep=task.on_agent_lost == "wait",
                timeout=task.execution_timeout,
                grace=self._limits.kill_grace,
                held_fds=locks,
                limits=held.files,
                warm=command.warm,
            )
        )

    def _finish_empty(self, task: Task, grant: Grant) -> None:
        """Nothing is to be done, so nothing is started."""
        self._logs.open(task, grant.token, self._limits.log_max_bytes).complete()
        now = self._wall()
        self._post(on.ProcessEnded(grant.token, now, now, exit_code=0))

    def refuse(self, task: Task, grant: Grant, error: FlowError | OSError) -> None:
        """The task cannot be started, and its log says why; ProcessEnded follows."""
        task_log = self._logs.open(task, grant.token, self._limits.log_max_bytes)
        task_log.note(f"cannot start: {error}")
        task_log.complete()
        if isinstance(error, OSError) and is_fault(error):
            self._post(on.DiskFailed(told(error)))
        now, fault = self._wall(), not isinstance(error, CannotPrepare)
        taken = error.gpus if isinstance(error, GpusTaken) else ()
        self._post(
            on.ProcessEnded(grant.token, now, now, error=str(error), fault=fault, gpus_taken=taken)
        )

    def probe_gpus(self, gpus: tuple[str, ...]) -> None:
        """See which of *gpus* other agents no longer use; GpusFree follows, if there are any."""
        try:
            free = self._preparer.gpus.free(gpus)
        except OSError as error:
            log.warning("the locks of GPUs cannot be looked at: %s", told(error))
            return
        if free:
            self._post(on.GpusFree(free))

    def relay(self, request: int, answer: Answer) -> None:
        """Give a task the answer to what it asked."""
        self._server.answer(request, answer)

    def kill(self, token: int, grace: float, reason: str) -> None:
        """End a token's whole process tree."""
        if self._keeper is not None:
            self._keeper.kill(token, grace, reason)

    async def stop(self) -> None:
        """Kill what still runs and wait until it is gone."""
        if self._keeper is not None:
            await self._keeper.stop()
        for run in self._runs.values():
            await self._tidy(run)

    # -- the keeper's side ---------------------------------------------------------------------

    def _on_keeper(self, event: KeeperEvent) -> None:
        match event:
            case keeper_client.TaskStarted():
                if run := self._runs.get(event.token):
                    run.started_at = event.started_at
                self._post(on.ProcessStarted(event.token, event.pid, event.started_at))
            case keeper_client.StartFailed():
                self._spawn(self._start_failed(event))
            case keeper_client.TaskExited():
                self._spawn(self._exited(event))
            case keeper_client.Lapsed():
                self._post(on.LeaseFired("the keeper's deadline passed"))
                for token in event.tokens:
                    if run := self._runs.pop(token, None):
                        run.log.complete()
                        self._spawn(self._tidy_when_dead(run))
            case keeper_client.ProvenDead():
                self._proven.set()
            case keeper_client.Unfit() | keeper_client.Unkillable():
                _tell(event)

    def _on_keeper_lost(self, lost: asyncio.Future[None]) -> None:
        if lost.cancelled():
            return
        log.error("the keeper died; its tasks are ended")
        for run in self._runs.values():
            run.log.complete()
            self._server.close(run.token)
        self._orphans += self._runs.values()
        self._runs.clear()
        self._post(on.LeaseFired("the keeper died", spared_nothing=True))

    async def _start_failed(self, event: keeper_client.StartFailed) -> None:
        now = self._wall()
        await self._end(on.ProcessEnded(event.token, now, now, error=event.reason))

    async def _exited(self, event: keeper_client.TaskExited) -> None:
        run = self._runs.get(event.token)
        started_at = run.started_at if run else event.ended_at - event.duration
        job = run.command.job if run else None
        outcome = await asyncio.to_thread(read_outcome, job) if job else None
        ended = on.ProcessEnded(
            token=event.token,
            started_at=started_at,
            ended_at=max(event.ended_at, started_at),
            exit_code=event.exit_code,
            signal=event.signal,
            killed=event.reason,
            out_of_memory=run.held.out_of_memory(event.out_of_memory) if run else "",
            outcome=outcome,
            memory_peak=event.memory_peak,
            cpu_seconds=event.cpu_seconds,
        )
        await self._end(ended)

    async def _end(self, ended: on.ProcessEnded) -> None:
        """Report the end once the output is out, so that who reads the result finds the log
        complete; but do not wait for a broker that is away."""
        run = self._runs.pop(ended.token, None)
        if run is not None:
            if ended.error:
                run.log.note(f"cannot start: {ended.error}")
            run.log.complete()
            if self._logs.attached and not run.log.handed_over.done():
                await asyncio.wait({run.log.handed_over}, timeout=OUTPUT_WAIT)
        self._post(ended)
        if run is not None:
            await self._tidy(run)

    async def _tidy_when_dead(self, run: _Run) -> None:
        await self._proven.wait()
        await self._tidy(run)

    async def _tidy(self, run: _Run) -> None:
        run.release()
        command = run.command
        if command.job is not None:
            self._server.close(run.token)
            if not remove_quickly(command.job.path, command.job.files):
                await self._remove([command.job.path])
        if command.private is not None and not remove_quickly(command.private):
            await self._remove([command.private])

    async def _remove(self, folders: Iterable[Path]) -> None:
        for folder in folders:
            await asyncio.to_thread(remove_private, folder)

    # -- earlier sessions ----------------------------------------------------------------------

    async def _prove_dead(self, session: int) -> None:
        """Nothing older than *session* lives on return. Without proof there is no hello."""
        while True:
            proof = await asyncio.to_thread(self._ended_before, session)
            if proof.dead:
                await asyncio.to_thread(_empty, self._state.work)
                for run in self._orphans:
                    run.release()
                self._orphans.clear()
                return
            survivors = ", ".join(proof.survivors)
            log.error("degraded: processes of an earlier session do not die: %s", survivors)

    def _ended_before(self, session: int) -> Proof:
        """Blocks."""
        known = self._state.state_id
        proof = prove_dead(known, session, PROOF_TIMEOUT)
        if not proof.dead:
            return proof
        return prove_empty(self._cgroups.top, known, session, PROOF_TIMEOUT)


def _tell(event: keeper_client.Unfit | keeper_client.Unkillable) -> None:
    """What is for people alone."""
    if isinstance(event, keeper_client.Unkillable):
        log.error("processes resist SIGKILL: %s", ", ".join(event.processes))
        return
    file = json.loads(event.about)["file"]
    log.info("%s: each of its tasks gets a fresh interpreter: %s", file, event.reason)


def _empty(folder: Path) -> None:
    for left in folder.iterdir():
        shutil.rmtree(left, ignore_errors=True)
