"""Session, lease and connection: when the agent may speak, start and stay.

The lease's rule, the one that must not break: nothing is sent, confirmed or started once ``L - M``
seconds have passed since the *sending* of the last hello or heartbeat that the broker confirmed.
``step`` looks at the clock before it looks at the event.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agent.core import effects as do
from agent.core import events as on
from agent.core import words
from agent.core.departure import Departure, Step
from agent.core.ending import STOPPED
from agent.core.lease import Lease
from agent.core.link import Link
from agent.core.settings import Identity, Settings
from agent.core.suspension import Suspension
from agent.core.wanted import Wanted
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
        self.stopped = False
        self.work = Work(settings, spooled)
        self._identity = identity
        self._wanted = Wanted(settings)
        self._lease = Lease(settings.trusted)
        self._link = Link(identity.incarnation)
        self._departure: Departure | None = None
        self._suspension = Suspension(settings.probe_interval)
        self._outdated = False
        """The connection serves queues or slots that have changed since."""
        self._postponed = ""
        """Why the dispatcher last wanted the hello later."""
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
            on.ProcessStarted: self.work.process_started,
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
            times.append(self._link.hello_due)
        if self._may_speak:
            times += [self._link.heartbeat_due, None if self._lease.held else self.work.next_due()]
        return None if self.stopped else min((at for at in times if at is not None), default=None)

    # -- for whoever shows it ------------------------------------------------------------------

    @property
    def settings(self) -> Settings:
        """As they are now."""
        return self._wanted.now

    @property
    def deadline(self) -> float | None:
        """When the lease ends. None before the session's first confirmed hello."""
        return self._lease.deadline

    @property
    def link(self) -> bool:
        """There is a connection."""
        return self._link.up

    @property
    def greeted(self) -> bool:
        """The broker has confirmed a hello on this connection."""
        return self._link.greeted

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
        if self._lease.over(now):
            self._lapse(f"no confirmed heartbeat for {self._lease.trusted:g} s")

    def _renew(self, sent_at: float, now: float) -> None:
        if self._lease.renew(sent_at):
            self._out.append(do.SetDeadline(sent_at + self._lease.trusted))
        self._check_lease(now)  # the confirm may have come too late to be of use

    def _on_blocked(self, event: on.Blocked, now: float) -> None:
        as_if_sent = self._lease.hold(event.proven)
        if as_if_sent is not None:
            self._renew(as_if_sent, now)

    def _lapse(self, reason: str, *, above: int = 0, spare: bool = True) -> None:
        """The session is over: a latch that only a new session opens."""
        if self.fenced:
            if not spare:
                self.work.lapse(spare=False)
            return
        running = len(self.work.running)
        kept = self.work.lapse(spare=spare)
        self.fenced, self._lease.deadline = True, None
        killed = running - len(kept)
        self._report(
            "warning", f"session {self.session} is over ({reason}); tasks killed: {killed}"
        )
        self._out.append(do.Fence(kept, above, reason))
        if self._link.up:
            # What it has delivered must go back, and what it confirms counts no more.
            self._out.append(do.Reconnect(reason))
        self._lose_link()

    def _on_fenced(self, event: on.Fenced, now: float) -> None:
        self.session, self.fenced = event.session, False
        self._link.greet_again(now)

    def _on_lease_fired(self, event: on.LeaseFired, _: float) -> None:
        self._lapse(event.reason, spare=not event.spared_nothing)

    # -- connection ----------------------------------------------------------------------------

    def _on_link_up(self, _: on.LinkUp, now: float) -> None:
        self._link.opened(now)

    def _on_link_down(self, _: on.LinkDown, __: float) -> None:
        self._lose_link()

    def _lose_link(self) -> None:
        self._link.lost()
        self._lease.link_lost()
        self.work.link_lost()

    def _on_delivered(self, event: on.Delivered, now: float) -> None:
        if self._link.consuming:
            self.work.delivered(event, now, self._out)

    def _on_confirmed(self, event: on.Confirmed, now: float) -> None:
        message, sent_at = self._link.settled(event.ref)
        self._lease.released()
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
        message, _ = self._link.settled(event.ref)
        if isinstance(message, wire.Hello):
            self._link.hello_due = now + self.settings.hello_interval
        if message is not None:
            text = f"{message.kind} of session {message.session} came back: {event.reason}"
            self._report("warning", text)

    def _greet(self, now: float) -> None:
        if self.fenced:
            return
        self._link.greeted = True
        self._link.heartbeat_due = self._link.hello_sent + self.settings.heartbeat_interval
        self.work.resend_all(now)
        self._consume()

    def _consume(self) -> None:
        """Take tasks, unless nothing new may start here."""
        wanted = self._link.greeted and self._departure is None and not self._suspension.state
        if wanted and not self._link.consuming and not self._outdated:
            self._link.consuming = True
            self._out.append(do.Consume())

    # -- replies -------------------------------------------------------------------------------

    def _on_received(self, event: on.Received, now: float) -> None:
        reader = self._readers.get(type(event.reply))
        # Whoever else uses this agent's name has these replies too.
        mine = event.reply.incarnation in ("", self._identity.incarnation)
        if reader is not None and mine and not self.fenced and event.reply.session == self.session:
            self._readable(now)
            reader(event.reply, now)
            self._consume()

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
        if self._link.greeted and now >= self._link.hello_sent + self.settings.hello_interval:
            self._link.greeted, self._link.hello_due = False, now

    def _on_stop(self, stop: wire.Stop, _: float) -> None:
        self.work.stop(stop.token, stop.reason, self._out)

    def _on_session_ended(self, ended: wire.SessionEnded, now: float) -> None:
        self._link.hello_not_before = now + self.settings.ended_pause
        reason = f"the dispatcher ended it: {ended.reason}"
        self._lapse(reason, above=ended.last_session)

    # -- processes -----------------------------------------------------------------------------

    def _on_ready(self, event: on.Ready, now: float) -> None:
        # A session that ends with this very step cannot have forgotten it: it waited no more.
        refusal = "the session ended before the task began" if self.fenced else self._refusal()
        self.work.ready(event.token, now, self._out, refusal=refusal)

    def _on_process_ended(self, event: on.ProcessEnded, now: float) -> None:
        session = None if self.fenced else self.session
        self.work.process_ended(event, now, self._out, session=session)
        if event.gpus_taken:
            self._link.heartbeat_due = now  # it says so

    def _on_gpus_free(self, event: on.GpusFree, now: float) -> None:
        self.work.devices.elsewhere.difference_update(event.gpus)
        self._link.heartbeat_due = now

    def _on_spooled(self, event: on.Spooled, now: float) -> None:
        self.work.spooled(event, now, self._out)
        if event.error:
            self._suspend(event.error, now)

    def _on_tick(self, _: on.Tick, __: float) -> None:
        """Nothing but the time has changed, and every step looks at that."""

    def _on_reconfigured(self, event: on.Reconfigured, _: float) -> None:
        self._settled(changed=self._wanted.reconfigure(event))

    def _on_configure(self, configure: wire.Configure, now: float) -> None:
        """People want something of this agent. What it goes by is in all that it says from now on:
        it is told again until the dispatcher has read that."""
        before, terms = self._wanted.terms, configure.terms
        if terms == before:
            return
        self._link.heartbeat_due = now
        drained = self._suspension.drained = terms.drained
        if drained != before.drained:
            text = f"drained: {drained}; what runs goes on" if drained else "no longer drained"
            self._report("info", text)
        self._settled(changed=self._wanted.accept(terms))

    def _settled(self, *, changed: bool) -> None:
        """Queues and slots are said in a hello, and consuming goes by both: so the connection is
        made anew. Tasks that run go on, and their messages are adopted when they come again."""
        now = self.settings
        self.work.reconfigure(now)
        if changed:
            self._report("info", f"now {now.slots} slots, queues {', '.join(now.queues)}")
            self._outdated = True

    def _mind_settings(self) -> None:
        # A link whose publishers are held back keeps the lease: it is not given up for this.
        if not self._outdated or self._lease.held:
            return
        self._outdated = False
        self._out.append(do.Serve(self.settings.queues, self.settings.slots))
        if self._link.up and self._departure is None:
            self._out.append(do.Reconnect("queues or slots changed"))
            self._lose_link()

    # -- what keeps everything new away --------------------------------------------------------

    def _suspend(self, reason: str, now: float) -> None:
        if self._suspension.begin(reason, now):
            text = f"suspended: {reason}; nothing new starts here until the disk takes it"
            self._report("error", text)
            self._link.heartbeat_due = now  # it says so

    def _on_probed(self, event: on.Probed, now: float) -> None:
        if self._suspension.probed(event.error, now):
            self._report("info", "the suspension is over: the disk takes results again")
            self._link.heartbeat_due = now
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
        self._link.heartbeat_due = now

    def _readable(self, now: float) -> None:
        """A dispatcher that this agent understands has answered."""
        if self._suspension.unread:
            self._suspension.unread = ""
            self._report("info", "the suspension is over: the dispatcher can be understood again")
            self._link.heartbeat_due = now

    def _mind_suspension(self, now: float) -> None:
        if self._suspension.due(now):
            self._out.append(do.Probe())
        # A link whose publishers are held back keeps the lease: it is not given up for this.
        if self._suspension.state and self._link.consuming and not self._lease.held:
            # What was delivered must not wait here: another agent may take it.
            self._out.append(do.Reconnect(self._suspension.state))
            self._lose_link()

    # -- sending -------------------------------------------------------------------------------

    @property
    def _may_hello(self) -> bool:
        return self._link.up and not self.fenced and not self._link.greeted and not self._parting

    @property
    def _may_speak(self) -> bool:
        return self._link.greeted and not self.fenced and not self._parting

    @property
    def _parting(self) -> bool:
        """The goodbye is out: nothing may follow it."""
        return self._departure is not None and self._departure.goodbye_until is not None

    def _speak(self, now: float) -> None:
        """Send all that is due."""
        if self._may_hello and self._link.hello_due is not None and now >= self._link.hello_due:
            self._link.hello_due, self._link.hello_sent = None, now
            hello = words.hello(
                self._identity,
                self.settings,
                self.work,
                self.session,
                now,
                suspended=self._suspension.reason,
                terms=self._wanted.terms,
            )
            self._send(hello, now)
        if not self._may_speak:
            return
        if (
            not self._lease.held
        ):  # otherwise heartbeats alone: the confirm of one lets the rest follow
            draining = bool(self._refusal())
            for message in self.work.due(now, session=self.session, draining=draining):
                self._send(message, now)
        if now >= self._link.heartbeat_due:
            self._link.heartbeat_due = now + self.settings.heartbeat_interval
            if elsewhere := self.work.devices.elsewhere:
                self._out.append(do.ProbeGpus(tuple(sorted(elsewhere))))
            expiration = 2 * (self.settings.lease + self.settings.grace)
            beat = words.heartbeat(
                self.settings,
                self.work,
                self.session,
                suspended=self._suspension.reason,
                terms=self._wanted.terms,
            )
            self._send(beat, now, expiration)

    def _send(self, message: wire.Event, now: float, expiration: float | None = None) -> None:
        self._out.append(self._link.send(message, now, expiration))

    # -- the way out ---------------------------------------------------------------------------

    def _on_interrupt(self, _: on.Interrupt, now: float) -> None:
        if self._departure is None:
            self._departure = Departure(self.settings, now + self.settings.drain_timeout)
            self._report("info", f"draining: {len(self.work.running)} tasks to finish")
            if self.work.running and self._link.consuming:
                # What comes in from now on must not wait here until they have finished.
                self._out.append(do.Reconnect("draining"))
                self._lose_link()
            self._link.consuming = False
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
            greeted=self._link.greeted,
            unanswered=self.work.unanswered,
            results=results > 0,
        )
        match step:
            case Step.KILL:
                self._report("warning", "drain_timeout is over: what still runs is killed")
                self._kill_all(self._departure, self.settings.kill_grace)
            case Step.GOODBYE:
                goodbye = wire.Goodbye(agent=self.settings.name, session=self.session)
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
