"""The agent's process around the real agent core: what ``agent.service`` and its parts do."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from agent.core import Core, Identity, Settings
from agent.core import effects as do
from agent.core import events as on
from agent.core.devices import Device
from flow import topology, wire
from flow.errors import TransportError, Unroutable
from tests.sim.connection import AgentConnection
from tests.sim.keeper import Keeper
from tests.sim.ledger import TaskProcess
from tests.sim.link import Delivery
from tests.sim.messages import Out
from tests.sim.process import Process
from tests.sim.schedule import Timer

if TYPE_CHECKING:
    from tests.sim.node import Node


class Agent:
    """One agent process, from its start to its end."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.world = node.world
        self.process = Process(node.schedule, node.rng)
        self.core = Core(
            _settings(node),
            Identity(
                home_id=node.home,
                boot_id=f"boot {node.boots}",
                incarnation=f"{node.home}/{node.incarnations}",
                software="sim",
            ),
            tuple(node.disk.spool[token] for token in sorted(node.disk.spool)),
        )
        self._connection = AgentConnection(self)
        self._keeper: Keeper | None = None
        self._proven = False
        self._proof_wanted: Callable[[], None] | None = None
        self._bundles: set[str] = set()
        self._waiting: dict[int, tuple[wire.Task, wire.Grant]] = {}
        self._events: deque[on.Event] = deque()
        self._stepping = False
        self._timer: Timer | None = None
        self._timer_at: float | None = None
        self._ending = False
        self._performers: dict[type, Callable[[Any], None]] = {
            do.Send: self._send,
            do.Ack: lambda effect: self._connection.ack(effect.handle),
            do.Consume: lambda _: self._connection.consume(),
            do.Serve: lambda effect: self._connection.serve(effect.queues, effect.slots),
            do.Reconnect: lambda _: self._connection.reconnect(),
            do.Start: lambda effect: self._start(effect.task, effect.grant, effect.gpus),
            do.Kill: self._kill,
            do.Fence: self._begin_fence,
            do.SetDeadline: lambda effect: self._command("deadline", effect.at),
            do.Spool: lambda effect: self._write(effect.result),
            do.DropSpool: self._drop,
            do.Probe: lambda _: self._probe(),
            do.ProbeGpus: lambda effect: self._probe_gpus(effect.gpus),
            do.Report: lambda effect: self.world.note("report", node.name, effect.text),
            do.Stop: self._stop,
        }

    @property
    def name(self) -> str:
        return self.node.name

    def begin(self) -> None:
        """Its first moment."""
        self.process.receive(self._begin)

    def interrupt(self) -> None:
        """SIGTERM."""
        self.process.receive(lambda: self.post(on.Interrupt()))

    def reload(self, queues: tuple[str, ...], slots: int) -> None:
        """SIGHUP, with other settings to read."""
        self.process.receive(lambda: self.post(on.Reconfigured(queues=queues, slots=slots)))

    def _begin(self) -> None:
        self._connection.connect()
        self._perform(self.core.start())

    def post(self, event: on.Event) -> None:
        """Let the core take *event* and do what it says, at once unless it is busy."""
        self._events.append(event)
        if self._stepping or self._ending:
            return
        self._stepping = True
        try:
            while self._events:
                taken = self._events.popleft()
                self._perform(self.core.step(taken, self.node.boottime()))
        finally:
            self._stepping = False
        self._set_timer()

    def _perform(self, effects: list[do.Effect]) -> None:
        for effect in effects:
            self._performers[type(effect)](effect)

    def _set_timer(self) -> None:
        at = self.core.wake_at()
        if at == self._timer_at and self._timer is not None and self._timer.call is not None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = None, at
        if at is not None:
            when = self.node.true_time(at)
            self._timer = self.process.at(when, lambda: self.post(on.Tick()))

    # -- messages ------------------------------------------------------------------------------

    def _send(self, effect: do.Send) -> None:
        message = effect.message
        if self.node.untold and isinstance(message, wire.Hello | wire.Heartbeat):
            message = replace(message, terms=None)
        if isinstance(message, wire.Finished):
            self.world.oracle.told(self, message.token)
        out = Out(
            topology.EVENTS, _key(message.agent, message.kind), message, True, effect.expiration
        )
        self._connection.publish(out, partial(self._published, effect.ref, message.kind))
        self.world.step(_SENT[message.kind], self.name, message)

    def _published(self, ref: int, kind: str, error: TransportError | None) -> None:
        if error is None:
            if kind in _CONFIRMED:
                self.world.step(_CONFIRMED[kind], self.name, ref)
            self.post(on.Confirmed(ref))
        elif isinstance(error, Unroutable):
            self.post(on.Refused(ref, "no dispatcher has made its events queue yet"))

    def on_control(self, delivery: Delivery) -> None:
        """A reply has arrived."""
        message = delivery.message.body
        if self._connection.live:
            step = _RECEIVED.get(type(message))
            if step is not None and message.session == self.core.session:
                self.world.step(step, self.name, message)
            self.post(on.Received(message))
        delivery.ack()

    def on_task(self, handle: int, task: wire.Task) -> None:
        """A task's message has arrived."""
        self.world.step("delivered", self.name, task.task_instance_id)
        known = self.core.work.running.values()
        adopted = any(run.task.task_instance_id == task.task_instance_id for run in known)
        self.post(on.Delivered(handle, task))
        if adopted:
            self.world.step("adopted", self.name, task.task_instance_id)

    # -- disk ----------------------------------------------------------------------------------

    def _write(self, result: wire.Finished) -> None:
        delay = self.node.rng.uniform(0.001, 0.05)

        def written() -> None:
            if self.node.disk.full:
                self.world.oracle.unwritten(result.token)
                self.post(on.Spooled(result.token, "No space left on device"))
                return
            self.node.disk.spool[result.token] = result
            self.world.step("spooled", self.name, result.token)
            self.post(on.Spooled(result.token))

        self.process.after(delay, written)

    def _drop(self, effect: do.DropSpool) -> None:
        delay = self.node.rng.uniform(0.001, 0.05)

        def drop() -> None:
            self.node.disk.spool.pop(effect.token, None)

        self.process.after(delay, drop)

    def _probe(self) -> None:
        error = "No space left on device" if self.node.disk.full else ""
        self.process.after(0.01, lambda: self.post(on.Probed(error)))

    def _probe_gpus(self, gpus: tuple[str, ...]) -> None:
        free = tuple(gpu for gpu in gpus if gpu not in self.node.gpus_elsewhere)
        if free:
            self.post(on.GpusFree(free))

    # -- sessions ------------------------------------------------------------------------------

    def _begin_fence(self, effect: do.Fence) -> None:
        if effect.reason != "start":
            self.world.step("lapse", self.name, effect.reason)
            self.world.oracle.lapsed(self, effect.reason)
        waiting, self._waiting = self._waiting, {}
        for token in waiting:
            now = self._wall()
            error = "the session ended while the task waited for its bundle"
            self.post(on.ProcessEnded(token, now, now, error=error, fault=True))
        self.world.step("fence begun", self.name, effect.reason)
        fence = partial(self._fence, effect.above)
        self.process.after(0.0, fence)

    def _fence(self, above: int) -> None:
        if self._keeper is None:
            self.node.prove_dead(partial(self.process.receive, partial(self._new_session, above)))
            return
        if self._proven:
            self._new_session(above)
            return
        self._command("deadline", 0.0)
        self._proof_wanted = partial(self._new_session, above)

    def _new_session(self, above: int) -> None:
        self._proof_wanted = None
        disk = self.node.disk
        if disk.full:  # the counter cannot be written
            self.process.after(0.2, partial(self._new_session, above))
            return
        delay = self.node.rng.uniform(0.001, 0.05)

        def written() -> None:
            session = disk.next_session(above)
            if self._keeper is not None:
                self._proven = False
                self._command("session")
                self._fenced(session)
            else:
                self.node.prove_dead(partial(self.process.receive, partial(self._launch, session)))

        self.process.after(delay, written)

    def _launch(self, session: int) -> None:
        def launched() -> None:
            self._proven = False
            self._keeper = self.node.keeper = Keeper(self.node, self.keeper_says)
            self._fenced(session)

        self.process.after(self.node.rng.uniform(0.01, 0.05), launched)

    def _fenced(self, session: int) -> None:
        self.world.step("fence done", self.name, session)
        self.post(on.Fenced(session))

    # -- tasks ---------------------------------------------------------------------------------

    def _start(self, task: wire.Task, grant: wire.Grant, gpus: tuple[str, ...]) -> None:
        self.world.oracle.check_start(self, grant.token)
        if task.bundle is not None and task.bundle not in self._bundles:
            self._waiting[grant.token] = (task, grant)
            self.process.after(
                self.node.rng.uniform(0.01, 0.3), partial(self._fetched, task.bundle)
            )
        elif self._keeper is None:
            self._refuse(grant.token, "there is no keeper")
        elif self.node.disk.full:
            self.post(on.DiskFailed("No space left on device"))
            self._refuse(grant.token, "No space left on device")
        elif self.world.workload.refuses(task):
            self._refuse(grant.token, "it cannot be started here")
        else:
            self._start_with(task, grant, gpus)

    def _start_with(self, task: wire.Task, grant: wire.Grant, gpus: tuple[str, ...]) -> None:
        taken = tuple(gpu for gpu in gpus if gpu in self.node.gpus_elsewhere)
        if not taken:
            self._command("start", task, grant, gpus)
            return
        now = self._wall()
        ended = on.ProcessEnded(grant.token, now, now, error="in use", gpus_taken=taken)
        self.process.after(0.001, lambda: self.post(ended))

    def _fetched(self, bundle: str) -> None:
        self._bundles.add(bundle)
        for token in list(self._waiting):
            if self._waiting.pop(token, None) is not None:
                self.post(on.Ready(token))

    def _refuse(self, token: int, error: str) -> None:
        now = self._wall()
        ended = on.ProcessEnded(token, now, now, error=error, fault=True)
        self.process.after(0.001, lambda: self.post(ended))

    def _kill(self, effect: do.Kill) -> None:
        if self._waiting.pop(effect.token, None) is None:
            self._command("kill", effect.token, effect.grace, effect.reason)
            return
        now = self._wall()
        self.post(on.ProcessEnded(effect.token, now, now, signal=15, killed=effect.reason))

    def _command(self, name: str, *arguments: object) -> None:
        if self._keeper is not None:
            self._keeper.command(name, *arguments)

    def keeper_says(self, keeper: Keeper, word: str, *arguments: Any) -> None:
        """Something from the keeper's side of the pipe."""
        self.process.receive(partial(self._on_keeper, keeper, word, *arguments))

    def _on_keeper(self, keeper: Keeper, word: str, *arguments: Any) -> None:
        if keeper is not self._keeper:
            return
        match word:
            case "started":
                self.post(on.ProcessStarted(arguments[0], 4711, self._wall()))
            case "start_failed":
                now = self._wall()
                self.post(on.ProcessEnded(arguments[0], now, now, error=arguments[1]))
            case "exited":
                self.process.after(
                    self.node.rng.uniform(0.0, 0.05), partial(self._exited, *arguments)
                )
            case "lapsed":
                self.post(on.LeaseFired("the keeper's deadline passed"))
            case "dead":
                self._proven = True
                self._go_on()
            case "lost":
                self._keeper = self.node.keeper = None
                self.post(on.LeaseFired("the keeper died", spared_nothing=True))
                self._go_on()
                self._leave()
            case "gone":
                self._leave()

    def _go_on(self) -> None:
        wanted, self._proof_wanted = self._proof_wanted, None
        if wanted is not None:
            wanted()

    def _exited(self, process: TaskProcess) -> None:
        outcome = self.world.workload.outcome(process)
        ended = on.ProcessEnded(
            token=process.token,
            started_at=self._wall(process.started),
            ended_at=self._wall(process.ended),
            exit_code=process.exit_code if process.signal is None else None,
            signal=process.signal,
            killed=process.reason,
            outcome=outcome if process.signal is None else None,
        )
        self.world.step("process ended", self.name, process.token)
        self.post(ended)

    def _wall(self, moment: float | None = None) -> float:
        return self.world.true_wall(self.node.schedule.now if moment is None else moment)

    # -- the end -------------------------------------------------------------------------------

    def _stop(self, effect: do.Stop) -> None:
        self.world.step("stopped", self.name, effect.reason)
        self._end(restart_after=self.node.rng.uniform(0.1, 1.0))

    def _end(self, *, restart_after: float) -> None:
        """Tasks first, then the connection; then it is gone."""
        if self._ending:
            return
        self.core.stopped = self._ending = True
        self._restart_after = restart_after
        self._waiting.clear()
        if self._keeper is not None and self._keeper.process.alive:
            self._command("shutdown")
        else:
            self.process.after(0.0, self._leave)

    def _leave(self) -> None:
        if self._ending:
            self._connection.close()
            self.process.kill()
            self.node.agent_ended(restart_after=self._restart_after)


def _settings(node: Node) -> Settings:
    pace = node.world.pace
    return Settings(
        name=node.name,
        queues=node.queues,
        slots=node.slots,
        gpus=tuple(Device(gpu) for gpu in node.gpus),
        gpu_share=node.world.gpu_share,
        heartbeat_interval=pace.heartbeat,
        lease=pace.lease,
        margin=pace.margin,
        grace=pace.grace,
        kill_grace=0.5,
        drain_timeout=4.0,
        claim_interval=node.world.claim_interval,
        started_after=0.05,
        result_interval=0.9,
        hello_interval=0.3,
        ended_pause=0.8,
        probe_interval=0.8,
        answer_wait=2.0,
        hurried_wait=0.5,
    )


def _key(agent: str, kind: str) -> str:
    return f"{agent}.{kind}"


_SENT = {
    "hello": "hello sent",
    "claim": "claim sent",
    "heartbeat": "heartbeat sent",
    "started": "started sent",
    "finished": "finished sent",
    "release": "release sent",
    "goodbye": "goodbye sent",
    "ask": "ask sent",
}
_CONFIRMED = {"hello": "hello confirmed", "heartbeat": "heartbeat confirmed"}
_RECEIVED: dict[type, str] = {
    wire.Grant: "grant received",
    wire.Deny: "deny received",
    wire.Stop: "stop received",
    wire.Answered: "answered",
    wire.SessionEnded: "session ended",
    wire.Configure: "configured",
}
