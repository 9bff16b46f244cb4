"""Session, lease and connection: when the agent may speak, start and stay.

The lease's rule, the one that must not break: nothing is sent, confirmed or started once ``L - M``
seconds have passed since the *sending* of the last hello or heartbeat that the broker confirmed.
``step`` looks at the clock before it looks at the event.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from msgspec.structs import replace

from agent.core import effects as do
from agent.core import events as on
from agent.core import words
from agent.core.departure import Departure, Step
from agent.core.ending import STOPPED
from agent.core.settings import Identity, Settings
from agent.core.suspension import Suspension
from agent.core.work import Work
from flow import wire


class Core:
    """One agent. Begin with :meth:`start`, then :meth:`step` for everything that happens, and a
    ``Tick`` when :meth:`wake_at` says so. Times are CLOCK_BOOTTIME in seconds."""

    def __init__(
        self, settings: Settings, identity: Identity, spooled: tuple[wire.Finished, ...] = ()
    ) -> None:
        self.session = 0
        self.fenced = True
        """Between sessions: everything older is being killed and proven dead."""
        self.deadline: float | None = None
        """When the lease ends. None before the session's first confirmed hello."""
        self.link = False
        self.greeted = False
        """The broker has confirmed a hello on this link: everything else may follow it."""
        self.stopped = False
        self.work = Work(settings, spooled)
        self._settings = settings
        self._own = settings
        """Those of its node, before what people want in their place."""
        self._terms = wire.Terms()
        """What the dispatcher said last that people want."""
        self._identity = identity
        self._departure: Departure | None = None
        self._suspension = Suspension(settings.probe_interval)
        self._consuming = False
        self._outdated = False
        """The connection serves queues or slots that have changed since."""
        self._held_from: float | None = None
        """Some moment before the broker began to hold this link's publishers back."""
        self._held = False
        self._hello_due: float | None = None
        self._postponed = ""
        """Why the dispatcher last wanted the hello later."""
        self._hello_sent = 0.0
        self._hello_not_before = 0.0
        self._heartbeat_due = 0.0
        self._refs = 0
        self._sent: dict[int, tuple[wire.Event, float]] = {}
        self._out: list[do.Effect] = []
        self._takers: dict[type, Callable[[Any, float], None]] = {
            on.Fenced: self._on_fenced,
            on.LinkUp: self._on_link_up,
            on.LinkDown: self._on_link_down,
            on.Delivered: self._on_delivered,
            on.Received: self._on_received,
            on.Unreadable: self._on_unreadable,
            on.Confirmed: self._on_confirmed,
            on.Blocked: self._on_blocked,
            on.Refused: self._on_refused,
            on.Ready: self._on_ready,
            on.ProcessStarted: self._on_process_started,
            on.ProcessEnded: self._on_process_ended,
            on.Asked: self.work.asks.asked,
            on.Spooled: self._on_spooled,
            on.DiskFailed: lambda event, now: self._suspend(event.error, now),
            on.Probed: self._on_probed,
            on.GpusFree: self._on_gpus_free,
            on.LeaseFired: self._on_lease_fired,
            on.Reconfigured: self._on_reconfigured,
            on.Interrupt: self._on_interrupt,
            on.Tick: self._on_tick,
        }
        self._readers: dict[type, Callable[[Any, float], None]] = {
            wire.Grant: self._on_grant,
            wire.Offer: lambda offer, now: self.work.offered(offer.task, now),
            wire.Deny: self._on_deny,
            wire.Answered: self._on_answered,
            wire.Answer: lambda answer, _: self.work.asks.answered(answer, self._out),
            wire.HelloWanted: self._on_hello_wanted,
            wire.Configure: self._on_configure,
            wire.Stop: self._on_stop,
            wire.SessionEnded: self._on_session_ended,
        }

    def start(self) -> list[do.Effect]:
        """Begin: before anything else the processes of earlier sessions are proven dead."""
        return [do.Fence(frozenset(), 0, "start")]

    def step(self, event: on.Event, now: float) -> list[do.Effect]:
        """Take what happened; return what to do, in order."""
        if self.stopped:
            return []
        self._out = []
        self._check_lease(now)
        self._takers[type(event)](event, now)
        self._speak(now)
        self._mind_suspension(now)
        self._mind_settings()
        self._depart(now)
        return self._out

    def wake_at(self) -> float | None:
        """When a ``Tick`` is wanted if nothing happens before; None: never."""
        times = [self.deadline, self._suspension.probe_due]
        if self._departure is not None:
            times.append(self._departure.due(running=bool(self.work.running)))
        if self._may_hello:
            times.append(self._hello_due)
        if self._may_speak:
            times += [self._heartbeat_due, None if self._held else self.work.next_due()]
        return None if self.stopped else min((at for at in times if at is not None), default=None)

    # -- for whoever shows it ------------------------------------------------------------------

    @property
    def settings(self) -> Settings:
        """As they are now."""
        return self._settings

    @property
    def draining(self) -> bool:
        """It is on its way out."""
        return self._departure is not None

    @property
    def suspended(self) -> str:
        """Why nothing new starts here for now, or ``""``."""
        return self._suspension.reason

    @property
    def drained(self) -> str:
        """Why people want nothing new to start here, and who, or ``""``."""
        return self._suspension.drained

    # -- lease and session ---------------------------------------------------------------------

    def _check_lease(self, now: float) -> None:
        if self.deadline is not None and now >= self.deadline:
            self._lapse(f"no confirmed heartbeat for {self._settings.trusted:g} s")

    def _renew(self, sent_at: float, now: float) -> None:
        deadline = sent_at + self._settings.trusted
        if self.deadline is None or deadline > self.deadline:
            self.deadline = deadline
            self._out.append(do.SetDeadline(deadline))
        self._check_lease(now)  # the confirm may have come too late to be of use

    def _on_blocked(self, event: on.Blocked, now: float) -> None:
        """The broker has an alarm and takes nothing from anybody. A dispatcher's pulses are stuck
        as long (``dispatcher.core.leases``), so time for which that is proven uses up no lease.

        What is proven is counted from the last confirmed heartbeat's sending, which was before it
        began; never from now: this proof may have waited in a buffer.
        """
        if event.proven == 0.0 and self.deadline is not None:
            self._held_from = self.deadline - self._settings.trusted
        if self._held_from is None:
            return
        self._held = True
        self._renew(self._held_from + event.proven, now)

    def _lapse(self, reason: str, *, above: int = 0, spare: bool = True) -> None:
        """The session is over: a latch that only a new session opens."""
        if self.fenced:
            if not spare:
                self.work.lapse(spare=False)
            return
        running = len(self.work.running)
        kept = self.work.lapse(spare=spare)
        self.fenced, self.deadline = True, None
        killed = running - len(kept)
        self._report(
            "warning", f"session {self.session} is over ({reason}); tasks killed: {killed}"
        )
        self._out.append(do.Fence(kept, above, reason))
        if self.link:
            # What it has delivered must go back, and what it confirms counts no more.
            self._out.append(do.Reconnect(reason))
        self._lose_link()

    def _on_fenced(self, event: on.Fenced, now: float) -> None:
        self.session, self.fenced = event.session, False
        self._hello_due = max(now, self._hello_not_before)

    def _on_lease_fired(self, event: on.LeaseFired, _: float) -> None:
        self._lapse(event.reason, spare=not event.spared_nothing)

    # -- connection ----------------------------------------------------------------------------

    def _on_link_up(self, _: on.LinkUp, now: float) -> None:
        self.link = True
        self._hello_due = max(now, self._hello_not_before)

    def _on_link_down(self, _: on.LinkDown, __: float) -> None:
        self._lose_link()

    def _lose_link(self) -> None:
        self.link = self.greeted = self._consuming = self._held = False
        self._held_from = self._hello_due = None
        self._sent.clear()
        self.work.link_lost()

    def _on_delivered(self, event: on.Delivered, now: float) -> None:
        if self._consuming:
            self.work.delivered(event, now, self._out)

    def _on_confirmed(self, event: on.Confirmed, now: float) -> None:
        message, sent_at = self._sent.pop(event.ref, (None, 0.0))
        self._held = False
        match message:
            case wire.Hello():
                self._renew(sent_at, now)
                self._greet(now)
            case wire.Heartbeat():
                self._renew(sent_at, now)
            case wire.Finished():
                self.work.confirmed(message.token, self._out)
            case wire.Goodbye():
                self._stop("drained")

    def _on_refused(self, event: on.Refused, now: float) -> None:
        message, _ = self._sent.pop(event.ref, (None, 0.0))
        if isinstance(message, wire.Hello):
            self._hello_due = now + self._settings.hello_interval
        if message is not None:
            text = f"{message.kind} of session {message.session} came back: {event.reason}"
            self._report("warning", text)

    def _greet(self, now: float) -> None:
        if self.fenced:
            return
        self.greeted = True
        self._heartbeat_due = self._hello_sent + self._settings.heartbeat_interval
        self.work.resend_all(now)
        self._consume()

    def _consume(self) -> None:
        """Take tasks, unless nothing new may start here."""
        wanted = self.greeted and self._departure is None and not self._suspension.state
        if wanted and not self._consuming and not self._outdated:
            self._consuming = True
            self._out.append(do.Consume())

    # -- replies -------------------------------------------------------------------------------

    def _on_received(self, event: on.Received, now: float) -> None:
        reader = self._readers.get(type(event.reply))
        # Whoever else uses this agent's name has these replies too.
        mine = event.reply.incarnation in ("", self._identity.incarnation)
        if reader is not None and mine and not self.fenced and event.reply.session == self.session:
            self._readable(now)
            reader(event.reply, now)

    def _on_grant(self, grant: wire.Grant, now: float) -> None:
        refusal = self._refusal()
        if not refusal and self.deadline is None:
            refusal = "no hello of this session is confirmed yet"
        self.work.granted(grant, now, self._out, session=self.session, refusal=refusal)

    def _refusal(self) -> str:
        """Why nothing new may start here now, or ``""``."""
        return "the agent drains" if self._departure is not None else self._suspension.refusal

    def _on_deny(self, deny: wire.Deny, now: float) -> None:
        self.work.denied(deny, now, self._out)

    def _on_answered(self, answered: wire.Answered, _: float) -> None:
        for token in answered.tokens:
            self.work.answered(token, self._out)

    def _on_hello_wanted(self, wanted: wire.HelloWanted, now: float) -> None:
        if wanted.reason and wanted.reason != self._postponed:
            self._report("warning", f"the dispatcher does not take this agent yet: {wanted.reason}")
        self._postponed = wanted.reason or self._postponed
        # One was asked for by every message that crossed the last hello: one is enough.
        if self.greeted and now >= self._hello_sent + self._settings.hello_interval:
            self.greeted, self._hello_due = False, now

    def _on_stop(self, stop: wire.Stop, _: float) -> None:
        self.work.stop(stop.token, stop.reason, self._out)

    def _on_session_ended(self, ended: wire.SessionEnded, now: float) -> None:
        self._hello_not_before = now + self._settings.ended_pause
        reason = f"the dispatcher ended it: {ended.reason}"
        self._lapse(reason, above=ended.last_session)

    # -- processes -----------------------------------------------------------------------------

    def _on_ready(self, event: on.Ready, now: float) -> None:
        # A session that ends with this very step cannot have forgotten it: it waited no more.
        refusal = "the session ended before the task began" if self.fenced else self._refusal()
        self.work.ready(event.token, now, self._out, refusal=refusal)

    def _on_process_started(self, event: on.ProcessStarted, now: float) -> None:
        run = self.work.running.get(event.token)
        if run is not None and self._may_speak:
            self._send(words.started(self._settings, run.task, self.session, event), now)

    def _on_process_ended(self, event: on.ProcessEnded, now: float) -> None:
        session = None if self.fenced else self.session
        self.work.process_ended(event, now, self._out, session=session)
        if event.gpus_taken:
            self._heartbeat_due = now  # it says so

    def _on_gpus_free(self, event: on.GpusFree, now: float) -> None:
        self.work.devices.elsewhere.difference_update(event.gpus)
        self._heartbeat_due = now

    def _on_spooled(self, event: on.Spooled, now: float) -> None:
        self.work.spooled(event, now, self._out)
        if event.error:
            self._suspend(event.error, now)

    def _on_tick(self, _: on.Tick, __: float) -> None:
        """Nothing but the time has changed, and every step looks at that."""

    def _on_reconfigured(self, event: on.Reconfigured, _: float) -> None:
        """Queues and slots are said in a hello, and consuming goes by both: so the connection is
        made anew. Tasks that run go on, and their messages are adopted when they come again."""
        given = {item.name: getattr(event, item.name) for item in fields(event)}
        new = {name: value for name, value in given.items() if value is not None}
        self._own = dataclasses.replace(self._own, **new)
        self._settle()

    def _on_configure(self, configure: wire.Configure, now: float) -> None:
        """People want something of this agent. What it goes by is in all that it says from now on:
        it is told again until the dispatcher has read that."""
        before, self._terms = self._terms, configure.terms
        if self._terms == before:
            return
        self._heartbeat_due = now
        drained = self._suspension.drained = self._terms.drained
        if drained != before.drained:
            text = f"drained: {drained}; what runs goes on" if drained else "no longer drained"
            self._report("info", text)
        self._settle()
        self._consume()

    def _settle(self) -> None:
        """Go by the node's settings, and by what people want in their place."""
        before, own, terms = self._settings, self._own, self._terms
        self._settings = now = dataclasses.replace(
            own,
            queues=own.queues if terms.queues is None else terms.queues,
            slots=own.slots if terms.slots is None else terms.slots,
        )
        self.work.reconfigure(now)
        if (now.queues, now.slots) == (before.queues, before.slots):
            return
        self._report("info", f"now {now.slots} slots, queues {', '.join(now.queues)}")
        self._outdated = True

    def _mind_settings(self) -> None:
        # A link whose publishers are held back keeps the lease: it is not given up for this.
        if not self._outdated or self._held:
            return
        self._outdated = False
        self._out.append(do.Serve(self._settings.queues, self._settings.slots))
        if self.link and self._departure is None:
            self._out.append(do.Reconnect("queues or slots changed"))
            self._lose_link()

    # -- what keeps everything new away --------------------------------------------------------

    def _suspend(self, reason: str, now: float) -> None:
        if self._suspension.begin(reason, now):
            text = f"suspended: {reason}; nothing new starts here until the disk takes it"
            self._report("error", text)
            self._heartbeat_due = now  # it says so

    def _on_probed(self, event: on.Probed, now: float) -> None:
        if self._suspension.probed(event.error, now):
            self._report("info", "the suspension is over: the disk takes results again")
            self._heartbeat_due = now
            self.work.spool_again(self._out)
            self._consume()

    def _on_unreadable(self, event: on.Unreadable, now: float) -> None:
        if self._suspension.unread:
            return
        reads = wire.VERSION
        self._suspension.unread = (
            f"it gets messages of version {event.version} and reads {reads}; upgrade this agent"
        )
        text = f"suspended: {self._suspension.unread}; nothing new starts here until then"
        self._report("error", text)
        self._heartbeat_due = now

    def _readable(self, now: float) -> None:
        """A dispatcher that this agent understands has answered."""
        if self._suspension.unread:
            self._suspension.unread = ""
            self._report("info", "the suspension is over: the dispatcher can be understood again")
            self._heartbeat_due = now
            self._consume()

    def _mind_suspension(self, now: float) -> None:
        if self._suspension.due(now):
            self._out.append(do.Probe())
        # A link whose publishers are held back keeps the lease: it is not given up for this.
        if self._suspension.state and self._consuming and not self._held:
            # What was delivered must not wait here: another agent may take it.
            self._out.append(do.Reconnect(self._suspension.state))
            self._lose_link()

    # -- sending -------------------------------------------------------------------------------

    @property
    def _may_hello(self) -> bool:
        return self.link and not self.fenced and not self.greeted and not self._parting

    @property
    def _may_speak(self) -> bool:
        return self.greeted and not self.fenced and not self._parting

    @property
    def _parting(self) -> bool:
        """The goodbye is out: nothing may follow it."""
        return self._departure is not None and self._departure.goodbye_until is not None

    def _speak(self, now: float) -> None:
        """Send all that is due."""
        if self._may_hello and self._hello_due is not None and now >= self._hello_due:
            self._hello_due, self._hello_sent = None, now
            hello = words.hello(
                self._identity,
                self._settings,
                self.work,
                self.session,
                now,
                suspended=self._suspension.reason,
                terms=self._terms,
            )
            self._send(hello, now)
        if not self._may_speak:
            return
        if not self._held:  # otherwise heartbeats alone: the confirm of one lets the rest follow
            draining = bool(self._refusal())
            for message in self.work.due(now, session=self.session, draining=draining):
                self._send(message, now)
        if now >= self._heartbeat_due:
            self._heartbeat_due = now + self._settings.heartbeat_interval
            if elsewhere := self.work.devices.elsewhere:
                self._out.append(do.ProbeGpus(tuple(sorted(elsewhere))))
            expiration = 2 * (self._settings.lease + self._settings.grace)
            beat = words.heartbeat(
                self._settings,
                self.work,
                self.session,
                suspended=self._suspension.reason,
                terms=self._terms,
            )
            self._send(beat, now, expiration)

    def _send(self, message: wire.Event, now: float, expiration: float | None = None) -> None:
        self._refs += 1
        message = replace(message, incarnation=self._identity.incarnation)
        self._sent[self._refs] = (message, now)
        self._out.append(do.Send(self._refs, message, expiration))

    # -- the way out ---------------------------------------------------------------------------

    def _on_interrupt(self, _: on.Interrupt, now: float) -> None:
        if self._departure is None:
            self._departure = Departure(self._settings, now + self._settings.drain_timeout)
            self._report("info", f"draining: {len(self.work.running)} tasks to finish")
            if self.work.running and self._consuming:
                # What comes in from now on must not wait here until they have finished.
                self._out.append(do.Reconnect("draining"))
                self._lose_link()
            self._consuming = False
            return
        again = self._departure.hurried
        self._departure.signals += 1
        if again:
            self._stop("interrupted")
        else:
            self._kill_all(self._departure, grace=0.0)

    def _depart(self, now: float) -> None:
        if self._departure is None or self.stopped:
            return
        results = len(self.work.results)
        step = self._departure.next(
            now,
            running=bool(self.work.running),
            greeted=self.greeted,
            unanswered=self.work.unanswered,
            results=results > 0,
        )
        match step:
            case Step.KILL:
                self._report("warning", "drain_timeout is over: what still runs is killed")
                self._kill_all(self._departure, self._settings.kill_grace)
            case Step.GOODBYE:
                goodbye = wire.Goodbye(agent=self._settings.name, session=self.session)
                self._send(goodbye, now)
            case Step.STOP:
                self._stop(f"drained without a goodbye; {results} results stay spooled")

    def _kill_all(self, departure: Departure, grace: float) -> None:
        departure.killed = True
        self._out.extend(do.Kill(token, grace, STOPPED) for token in self.work.running)

    def _stop(self, reason: str) -> None:
        self.stopped = True
        hurried = self._departure is not None and self._departure.hurried
        self._out.append(do.Stop(130 if hurried else 0, reason))

    def _report(self, level: do.Level, text: str) -> None:
        self._out.append(do.Report(level, text))
