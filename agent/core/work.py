"""The agent's book of work: claims, running tasks, results, releases.

A token is in at most one of ``running``, ``results`` and ``releases``. Everything that must reach
the dispatcher has a ``due`` time and is sent again and again until it is answered.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from msgspec.structs import replace

from agent.core import effects as do
from agent.core.asks import Asks
from agent.core.devices import Devices
from agent.core.ending import judge
from agent.core.events import Delivered, Outcome, ProcessEnded, ProcessStarted, Spooled
from agent.core.settings import Settings
from flow import wire

Key = tuple[int, int]
"""(task instance, try)"""

#: How many ended tokens are remembered, to know a late grant for what it is.
REMEMBERED = 10_000


@dataclass(slots=True)
class Claimed:
    """A delivery that has been, or is to be, claimed. ``handle`` is None once its link is gone."""

    task: wire.Task
    handle: int | None
    due: float
    again: bool = False
    """Delivered once more while its claim was pending: the answer may be to an earlier message."""


@dataclass(slots=True)
class Running:
    """A token whose processes may exist. ``session`` is the one that was granted it."""

    task: wire.Task
    session: int
    handle: int | None
    grant: wire.Grant
    gpus: tuple[str, ...] = ()
    stopping: bool = False
    """Somebody wants it to end, and it has been told."""
    started: wire.Started | None = None
    """What is still to be told of its process, at ``started_due``."""
    started_due: float = 0.0


@dataclass(slots=True)
class Result:
    """The end of a token, until the dispatcher has answered it."""

    message: wire.Finished
    handle: int | None
    due: float
    spooled: bool = False
    """It may be sent: writing it has been tried."""
    on_disk: bool = False

    @property
    def key(self) -> Key:
        return self.message.task_instance_id, self.message.try_number


@dataclass(slots=True)
class Returned:
    """A token given back, until the dispatcher has answered."""

    message: wire.Release
    due: float


class Work:
    """What the agent has in hand. Methods append what is to be done to ``out``."""

    def __init__(self, settings: Settings, spooled: tuple[wire.Finished, ...]) -> None:
        self.claims: dict[Key, Claimed] = {}
        self.running: dict[int, Running] = {}
        self.results = {
            finished.token: Result(finished, None, 0.0, spooled=True, on_disk=True)
            for finished in spooled
        }
        self.releases: dict[int, Returned] = {}
        self.asks = Asks(settings.name, settings.result_interval)
        self.devices = Devices(settings.gpus, settings.gpu_share)
        self._ended: dict[int, int] = {}
        """By task instance, for those that ended last: the latest token that ended here."""
        self._forgotten = 0
        """No token above this one has ended here and is not in ``_ended``."""
        self._settings = settings

    def reconfigure(self, settings: Settings) -> None:
        """From now on go by *settings*. What runs beyond fewer slots goes on."""
        self._settings = settings

    # -- deliveries and answers ----------------------------------------------------------------

    def delivered(self, event: Delivered, now: float, out: list[do.Effect]) -> None:
        """Adopt a message whose try this process knows; claim any other at once."""
        key = (event.task.task_instance_id, event.task.try_number)
        known = self._holder(key)
        if known is None:
            self.claims[key] = Claimed(event.task, event.handle, now)
        elif isinstance(known, Result) and known.spooled:
            out.append(do.Ack(event.handle))
        else:
            if known.handle is not None:
                out.append(do.Ack(known.handle))
            known.handle = event.handle
            if isinstance(known, Claimed):
                known.again = True

    def offered(self, task: wire.Task, now: float) -> None:
        """The dispatcher rings the bell at this agent: as with a message, but there is none to be
        settled. Claimed also where nothing may start, since the answer brings it to another."""
        key = (task.task_instance_id, task.try_number)
        if self._holder(key) is None:
            self.claims[key] = Claimed(task, None, now)

    def granted(
        self, grant: wire.Grant, now: float, out: list[do.Effect], *, session: int, refusal: str
    ) -> None:
        """Start the task if its claim is pending, or if it was handed over; otherwise give the
        token back. *refusal*: why nothing may start now, or ``""``."""
        if self._repeat(grant.token, now):
            return
        key = (grant.task_instance_id, grant.try_number)
        claim = self.claims.get(key)
        # Without a claim, a grant is told from a late copy by what is remembered.
        if claim is None and grant.task is not None and grant.token > self._forgotten:
            claim = Claimed(grant.task, None, now)
        if claim is None:
            self._return(grant.task_instance_id, grant.token, "no claim is pending", now)
            return
        if grant.token <= self._ended.get(grant.task_instance_id, 0):
            return  # a late copy of an older answer; a claim's own answer is still to come
        self.claims.pop(key, None)
        gpus = self.devices.choose(claim.task.resources.gpus, self._given())
        if refusal := refusal or self._obstacle(grant, claim.task, gpus):
            self._return(grant.task_instance_id, grant.token, refusal, now)
            if claim.handle is not None:
                out.append(do.Ack(claim.handle))
            return
        run = Running(claim.task, session, claim.handle, grant, gpus or ())
        self.running[grant.token] = run
        out.append(do.Start(run.task, grant, run.gpus))

    def denied(self, deny: wire.Deny, now: float, out: list[do.Effect]) -> None:
        """Forget the claim; its message has no further use. But one that was delivered again may
        have been put back and published since: nothing orders that message and this answer, which
        come through two queues. So it is claimed once more."""
        key = (deny.task_instance_id, deny.try_number)
        claim = self.claims.get(key)
        if claim is None:
            return
        if claim.again:
            claim.again, claim.due = False, now
            return
        del self.claims[key]
        if claim.handle is not None:
            out.append(do.Ack(claim.handle))

    def answered(self, token: int, out: list[do.Effect]) -> None:
        """The dispatcher has dealt with a result or a release."""
        self.releases.pop(token, None)
        result = self.results.pop(token, None)
        if result is not None:
            out.append(do.DropSpool(token))
            if result.handle is not None:
                out.append(do.Ack(result.handle))

    def stop(self, token: int, reason: str, out: list[do.Effect]) -> None:
        """Somebody wants the task to end. Said again until it has; told to it once."""
        run = self.running.get(token)
        if run is not None and not run.stopping:
            run.stopping = True
            out.append(do.Kill(token, self._settings.kill_grace, reason))

    # -- what happens here ---------------------------------------------------------------------

    def ready(self, token: int, now: float, out: list[do.Effect], *, refusal: str) -> None:
        """What the token's start waited for is there. *refusal*: why nothing may start now."""
        run = self.running.get(token)
        if run is None:
            return
        if not refusal:
            out.append(do.Start(run.task, run.grant, run.gpus))
            return
        del self.running[token]
        self._return(run.task.task_instance_id, token, refusal, now)
        if run.handle is not None:
            out.append(do.Ack(run.handle))

    def process_started(self, event: ProcessStarted, now: float) -> None:
        """Its process is there."""
        run = self.running.get(event.token)
        if run is None:
            return
        run.started_due = now + self._settings.started_after
        run.started = wire.Started(
            agent=self._settings.name,
            session=0,
            task_instance_id=run.task.task_instance_id,
            token=event.token,
            pid=event.pid,
            started_at=event.started_at,
        )

    def process_ended(
        self, event: ProcessEnded, now: float, out: list[do.Effect], *, session: int | None
    ) -> None:
        """Turn the end into a result to spool, or into a release. Tokens that a lapse has
        dropped are nobody's business any more: the next hello released them."""
        run = self.running.pop(event.token, None)
        if run is None:
            return
        task = run.task
        self.devices.elsewhere.update(event.gpus_taken)
        self._remember(task.task_instance_id, event.token)
        ending = judge(task, event, lapsed=run.session != session)
        if ending.state == "released":
            self._return(task.task_instance_id, event.token, ending.reason, now, fault=ending.fault)
            if run.handle is not None:
                out.append(do.Ack(run.handle))
            return
        told = ending.told or Outcome("failed")
        finished = wire.Finished(
            agent=self._settings.name,
            session=run.session,
            task_instance_id=task.task_instance_id,
            try_number=task.try_number,
            token=event.token,
            state=ending.state,
            exit_code=event.exit_code,
            reason=ending.reason,
            started_at=event.started_at,
            ended_at=event.ended_at,
            follow=told.follow,
            stop=told.stop,
            final=told.final,
            xcom=dict(told.xcom),
            memory_peak=event.memory_peak,
            cpu_seconds=event.cpu_seconds,
        )
        self.results[event.token] = Result(finished, run.handle, now)
        out.append(do.Spool(finished))

    def spooled(self, event: Spooled, now: float, out: list[do.Effect]) -> None:
        """The result may be sent now. One that cannot be written is sent all the same: holding
        it back would lose it for certain, sending it loses it only if this agent dies too."""
        result = self.results.get(event.token)
        if result is None:
            # It was answered while it was being written once more.
            out.append(do.DropSpool(event.token))
            return
        if not result.spooled:
            result.spooled, result.due = True, now
        result.on_disk = not event.error
        if event.error:
            text = f"result of token {event.token} is not on disk: {event.error}"
            out.append(do.Report("error", text))

    def spool_again(self, out: list[do.Effect]) -> None:
        """The disk takes something again: results that it did not take are still wanted there."""
        out.extend(
            do.Spool(result.message)
            for result in self.results.values()
            if result.spooled and not result.on_disk
        )

    def confirmed(self, token: int, out: list[do.Effect]) -> None:
        """The broker has the result: the task's message has done its service."""
        result = self.results.get(token)
        if result is not None and result.handle is not None:
            out.append(do.Ack(result.handle))
            result.handle = None

    # -- the connection and the session --------------------------------------------------------

    def link_lost(self) -> None:
        """Deliveries went back to their queues; work goes on without them."""
        holders: list[Claimed | Running | Result] = [*self.claims.values()]
        holders += [*self.running.values(), *self.results.values()]
        for holder in holders:
            holder.handle = None

    def lapse(self, *, spare: bool) -> frozenset[int]:
        """Forget all that the session's end ends; return the tokens that are kept running."""
        kept = {
            token: run
            for token, run in self.running.items()
            if spare and run.task.on_agent_lost == "wait"
        }
        for token, run in self.running.items():
            if token not in kept:
                self._remember(run.task.task_instance_id, token)
        self.running = kept
        self.claims.clear()
        self.releases.clear()
        self.link_lost()
        return frozenset(kept)

    # -- sending -------------------------------------------------------------------------------

    def resend_all(self, now: float) -> None:
        """A hello was confirmed on a new link: repeat what is unanswered."""
        items: list[Claimed | Result | Returned] = [*self.claims.values()]
        items += [*self.results.values(), *self.releases.values()]
        for item in items:
            item.due = now
        self.asks.resend_all(now)

    def due(self, now: float, *, session: int, draining: bool) -> Iterator[wire.Event]:
        """The messages to send now; each is due again after its interval."""
        for result in self.results.values():
            if result.spooled and result.due <= now:
                result.due = now + self._settings.result_interval
                yield replace(result.message, session=session)
        for returned in self.releases.values():
            if returned.due <= now:
                returned.due = now + self._settings.result_interval
                yield replace(returned.message, session=session)
        for run in self.running.values():
            if run.started is not None and run.started_due <= now:
                yield replace(run.started, session=session)
                run.started = None
        yield from self.asks.due(now, session=session, live=self.running.__contains__)
        free = 0 if draining else self._settings.slots - self.busy
        for claim in self.claims.values():
            if claim.due <= now:
                claim.due = now + self._settings.claim_interval
                yield self._claim(claim.task, session, max(0, free))
            free -= claim.task.resources.slots

    def next_due(self) -> float | None:
        """When :meth:`due` next has something."""
        times = [result.due for result in self.results.values() if result.spooled]
        times += [returned.due for returned in self.releases.values()]
        times += [claim.due for claim in self.claims.values()]
        times += [run.started_due for run in self.running.values() if run.started is not None]
        times += self.asks.next_due()
        return min(times, default=None)

    @property
    def busy(self) -> int:
        """Slots that are taken."""
        return sum(run.task.resources.slots for run in self.running.values())

    @property
    def free_gpus(self) -> int:
        """How many different devices a task could be given."""
        return self.devices.free(self._given())

    @property
    def unanswered(self) -> bool:
        """Something still waits for the dispatcher's answer."""
        return bool(self.claims or self.results or self.releases)

    def _claim(self, task: wire.Task, session: int, free: int) -> wire.Claim:
        return wire.Claim(
            agent=self._settings.name,
            session=session,
            task_instance_id=task.task_instance_id,
            try_number=task.try_number,
            queue=task.queue,
            free_slots=free,
            free_gpus=self.free_gpus,
        )

    # -- inside --------------------------------------------------------------------------------

    def _holder(self, key: Key) -> Claimed | Running | Result | None:
        if key in self.claims:
            return self.claims[key]
        for run in self.running.values():
            if (run.task.task_instance_id, run.task.try_number) == key:
                return run
        return next((result for result in self.results.values() if result.key == key), None)

    def _repeat(self, token: int, now: float) -> bool:
        """Whether *token* is known; its result or release, if any, is then sent again."""
        if token in self.results:
            self.results[token].due = now
        elif token in self.releases:
            self.releases[token].due = now
        return token in self.running or token in self.results or token in self.releases

    def _given(self) -> list[tuple[str, ...]]:
        return [run.gpus for run in self.running.values()]

    def _obstacle(self, grant: wire.Grant, task: wire.Task, gpus: tuple[str, ...] | None) -> str:
        for token, run in self.running.items():
            if run.task.task_instance_id == grant.task_instance_id:
                return f"token {token} of this task instance still runs here"
        free = self._settings.slots - self.busy
        if task.resources.slots > free:
            return "no slot is free" if free <= 0 else f"only {free} slots are free"
        if gpus is None:
            return f"of {task.resources.gpus} GPUs only {self.free_gpus} are free"
        return ""

    def _return(
        self, task_instance_id: int, token: int, reason: str, now: float, *, fault: bool = False
    ) -> None:
        self._remember(task_instance_id, token)
        message = wire.Release(
            agent=self._settings.name,
            session=0,
            task_instance_id=task_instance_id,
            token=token,
            reason=reason,
            fault=fault,
        )
        self.releases[token] = Returned(message, now)

    def _remember(self, task_instance_id: int, token: int) -> None:
        self._ended[task_instance_id] = max(token, self._ended.pop(task_instance_id, 0))
        if len(self._ended) > REMEMBERED:
            oldest = next(iter(self._ended))
            self._forgotten = max(self._forgotten, self._ended.pop(oldest))
