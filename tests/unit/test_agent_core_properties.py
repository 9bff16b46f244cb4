"""The agent's promises under any order of events.

Beside the core stands a model of what is outside of it: a broker that confirms late or never, a
dispatcher that grants what it likes, a keeper with processes. The model knows the rules only as
promises: what must never be seen.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agent.core import Core, Settings
from agent.core import effects as do
from agent.core import events as on
from flow import wire
from tests.unit.agent_world import IDENTITY, finished, task

SETTINGS = Settings(
    name="node1",
    queues=("q1",),
    slots=2,
    heartbeat_interval=1.0,
    lease=6.0,
    margin=2.0,
    grace=1.0,
    drain_timeout=20.0,
)

tasks = st.integers(1, 3)
tries = st.integers(1, 2)
losses = st.sampled_from(["rerun", "fail", "wait"])
#: Disasters are drawn by this: one in eight happens, or all else would hardly be seen.
one_in_eight = st.integers(0, 7).map(lambda drawn: drawn == 7)


@dataclass
class Outside:
    """What the model has seen."""

    session: int = 0
    fenced: bool = True
    fencing: list[do.Fence] = field(default_factory=list)
    link: bool = False
    spoken: bool = False
    """A hello was sent on this link."""
    goodbye: bool = False
    trusted_until: float | None = None
    unconfirmed: dict[int, tuple[wire.Event, float]] = field(default_factory=dict)
    alive: dict[int, wire.Task] = field(default_factory=dict)
    started: set[int] = field(default_factory=set)
    ended: dict[int, str] = field(default_factory=dict)
    spooling: set[int] = field(default_factory=set)
    on_disk: set[int] = field(default_factory=set)
    refused: set[int] = field(default_factory=set)
    """Results that the disk did not take."""
    suspended: bool = False
    unread: bool = False
    """Its dispatcher's messages are of a version that it does not read."""
    drained: bool = False
    probing: int = 0
    answered: set[int] = field(default_factory=set)
    stopped: bool = False


class AgentMachine(RuleBasedStateMachine):
    """Random events against the core; every effect is checked as it comes."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.tokens = 100
        self.handles = 0
        self.out = Outside(on_disk={5})
        self.core = Core(SETTINGS, IDENTITY, (finished(token=5, ti=9),))

    @initialize()
    def begin(self) -> None:
        self.check(self.core.start())

    def tell(self, event: on.Event) -> None:
        readable = isinstance(event, on.Received) and not isinstance(event.reply, wire.Configure)
        if readable and not self.out.fenced and not self.lapses():
            self.out.unread = False
        self.check(self.core.step(event, self.now))

    def lapses(self) -> bool:
        """The step to come is the one that notices the end of the lease."""
        return self.out.trusted_until is not None and self.now >= self.out.trusted_until

    # -- what must never be seen ---------------------------------------------------------------

    def check(self, effects: list[do.Effect]) -> None:
        for effect in effects:
            assert not self.out.stopped, "an effect after the stop"
            match effect:
                case do.Fence():
                    self.fence(effect)
                case do.Send():
                    self.send(effect)
                case do.Start():
                    self.start(effect)
                case do.Spool() | do.DropSpool() | do.Probe() | do.Consume():
                    self.disk(effect)
                case do.Reconnect():
                    self.lose_link()
                case do.Stop():
                    self.out.stopped = True
                case _:
                    self.plain(effect)

    def plain(self, effect: do.Effect) -> None:
        """What changes nothing outside that this test keeps a book of."""
        match effect:
            case do.Serve():
                assert effect.slots == self.core.settings.slots
            case do.SetDeadline():
                assert effect.at == self.out.trusted_until
                assert not self.out.fenced
            case do.Kill():
                assert effect.token in self.out.alive

    def fence(self, effect: do.Fence) -> None:
        for token, doomed in list(self.out.alive.items()):
            if token in effect.keep:
                assert doomed.on_agent_lost == "wait"
            else:
                del self.out.alive[token]
                self.out.ended[token] = "killed"
        assert not self.out.fencing, "one at a time"
        self.out.fencing.append(effect)
        self.out.fenced, self.out.trusted_until = True, None
        self.out.unconfirmed.clear()

    def send(self, effect: do.Send) -> None:
        out, message = self.out, effect.message
        assert out.link
        assert not out.fenced
        assert not out.goodbye, "nothing follows the goodbye"
        assert message.session == out.session
        if isinstance(message, wire.Hello):
            out.spoken = True
            assert set(message.spooled) >= out.on_disk
            assert set(message.kept) <= set(out.alive)
        else:
            assert out.spoken, "hello comes first on a link"
            assert out.trusted_until is not None
        assert out.trusted_until is None or self.now < out.trusted_until, "sent after the lapse"
        if isinstance(message, wire.Finished):
            assert message.token in out.on_disk | out.refused, "spooled before sent"
        if isinstance(message, wire.Hello | wire.Heartbeat):
            assert bool(message.suspended) == (out.suspended or out.unread)
            assert bool(message.terms and message.terms.drained) == out.drained
        if isinstance(message, wire.Release):
            assert message.token not in out.alive, "released while it runs"
            assert message.token not in out.spooling | out.on_disk, "released with a result"
        if isinstance(message, wire.Goodbye):
            assert not out.alive
            out.goodbye = True
        out.unconfirmed[effect.ref] = (message, self.now)

    def start(self, effect: do.Start) -> None:
        out, token = self.out, effect.grant.token
        assert not out.fenced
        assert not out.suspended, "started without a disk"
        assert not out.unread, "started for a dispatcher that it does not understand"
        assert not out.drained, "started on a node that is drained"
        assert out.trusted_until is not None
        assert self.now < out.trusted_until, "started after the lapse"
        assert token not in out.started, "a token starts once"
        others = [running.task_instance_id for running in out.alive.values()]
        assert effect.task.task_instance_id not in others, "two tries side by side"
        assert len(others) < self.core.settings.slots
        out.started.add(token)
        out.alive[token] = effect.task

    def disk(self, effect: do.Spool | do.DropSpool | do.Probe | do.Consume) -> None:
        out = self.out
        match effect:
            case do.Consume():
                reasons = (out.suspended, out.unread, out.drained)
                assert not any(reasons), "consumed although nothing may start"
            case do.Probe():
                assert out.suspended
                assert not out.probing, "one probe at a time"
                out.probing += 1
            case do.Spool() | do.DropSpool():
                self.spool(effect)

    def spool(self, effect: do.Spool | do.DropSpool) -> None:
        out = self.out
        if isinstance(effect, do.DropSpool):
            assert effect.token in out.answered
            out.on_disk.discard(effect.token)
            out.refused.discard(effect.token)
            return
        token = effect.result.token
        if token in out.refused:
            out.spooling.add(token)
            return
        assert token not in out.ended, f"ended twice: {out.ended[token]}, then spooled"
        out.ended[token] = "spooled"
        out.spooling.add(token)

    def lose_link(self) -> None:
        self.out.link = self.out.spoken = False
        self.out.unconfirmed.clear()

    @invariant()
    def what_has_ended_is_accounted_for(self) -> None:
        out = self.out
        gone = out.started - set(out.alive)
        assert gone <= set(out.ended)

    @invariant()
    def a_timer_is_wanted_while_there_is_a_lease(self) -> None:
        if self.out.trusted_until is not None and not self.out.stopped:
            wake = self.core.wake_at()
            assert wake is not None
            assert wake <= self.out.trusted_until

    # -- what happens --------------------------------------------------------------------------

    @rule()
    def all_goes_well(self) -> None:
        """Most of what matters happens to an agent that is up: get there in one step."""
        self.fenced(further=1)
        self.link_up()
        for ref, (message, _) in sorted(self.out.unconfirmed.items()):
            if isinstance(message, wire.Hello):
                self.confirm(ref)

    @rule(ti=tasks, try_number=tries, lost=losses, new=st.booleans())
    def work_comes(self, ti: int, try_number: int, lost: str, new: bool) -> None:
        self.delivery(ti=ti, try_number=try_number, lost=lost)
        self.grant(ti=ti, try_number=try_number, new=new, back=0)

    @rule(seconds=st.sampled_from([0.0, 0.1, 0.5, 1.0, 2.0, 4.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.tell(on.Tick())

    @rule(seconds=st.sampled_from([0.1, 0.5, 1.0, 4.0]))
    def time_passes_unnoticed(self, seconds: float) -> None:
        self.now += seconds

    @rule(further=st.integers(1, 3))
    def fenced(self, further: int) -> None:
        if self.out.fencing:
            fence = self.out.fencing.pop()
            self.out.session = max(self.out.session, fence.above) + further
            self.out.fenced = False
            self.tell(on.Fenced(self.out.session))

    @rule()
    def link_up(self) -> None:
        if not self.out.link:
            self.out.link = True
            self.tell(on.LinkUp())

    @rule(really=one_in_eight)
    def link_down(self, really: bool) -> None:
        if not really:
            return
        self.lose_link()
        self.tell(on.LinkDown())

    @precondition(lambda self: self.out.unconfirmed)
    @rule(data=st.data(), refused=st.booleans())
    def broker_answers(self, data: st.DataObject, refused: bool) -> None:
        ref = data.draw(st.sampled_from(sorted(self.out.unconfirmed)))
        if refused:
            del self.out.unconfirmed[ref]
            self.tell(on.Refused(ref, "returned"))
        else:
            self.confirm(ref)

    def confirm(self, ref: int) -> None:
        message, sent_at = self.out.unconfirmed.pop(ref)
        if isinstance(message, wire.Hello | wire.Heartbeat):
            until = sent_at + SETTINGS.trusted
            held = self.out.trusted_until
            if held is None or (self.now < held and until > held):
                self.out.trusted_until = until
        self.tell(on.Confirmed(ref))

    @rule(ref=st.integers(0, 50))
    def a_confirm_of_an_earlier_link(self, ref: int) -> None:
        if ref not in self.out.unconfirmed:
            self.tell(on.Confirmed(ref))

    @rule(ti=tasks, try_number=tries, lost=losses)
    def delivery(self, ti: int, try_number: int, lost: str) -> None:
        self.handles += 1
        if self.out.link:
            self.tell(on.Delivered(self.handles, task(ti, try_number, on_agent_lost=lost)))

    @rule(ti=tasks, try_number=tries, new=st.booleans(), back=st.integers(0, 2))
    def grant(self, ti: int, try_number: int, new: bool, back: int) -> None:
        # A copy of an older grant belongs to the same task instance, so tokens are kept apart.
        self.tokens += 1
        token = self.tokens * 10 + ti if new else (self.tokens - back) * 10 + ti
        self.tell(
            on.Received(
                wire.Grant(
                    session=self.out.session,
                    task_instance_id=ti,
                    try_number=try_number,
                    token=token,
                )
            )
        )

    @rule(ti=tasks, try_number=tries)
    def grant_a_pending_claim(self, ti: int, try_number: int) -> None:
        if (ti, try_number) in self.core.work.claims:
            self.grant(ti=ti, try_number=try_number, new=True, back=0)

    @precondition(lambda self: self.out.started)
    @rule(data=st.data(), try_number=tries)
    def repeat_a_grant(self, data: st.DataObject, try_number: int) -> None:
        token = data.draw(st.sampled_from(sorted(self.out.started)))
        grant = wire.Grant(
            session=self.out.session,
            task_instance_id=token % 10,
            try_number=try_number,
            token=token,
        )
        self.tell(on.Received(grant))

    @rule(ti=tasks, try_number=tries)
    def deny(self, ti: int, try_number: int) -> None:
        deny = wire.Deny(
            session=self.out.session, task_instance_id=ti, try_number=try_number, reason="no"
        )
        self.tell(on.Received(deny))

    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        known = sorted(self.out.on_disk | self.out.refused | set(self.core.work.releases))
        if known:
            token = data.draw(st.sampled_from(known))
            if not self.out.fenced:
                self.out.answered.add(token)
            self.tell(on.Received(wire.Answered(session=self.out.session, tokens=(token,))))

    @rule()
    def hello_wanted(self) -> None:
        self.tell(on.Received(wire.HelloWanted(session=self.out.session)))

    @rule(last=st.integers(0, 20), really=one_in_eight)
    def session_ended(self, last: int, really: bool) -> None:
        if not really:
            return
        ended = wire.SessionEnded(session=self.out.session, reason="lost", last_session=last)
        self.tell(on.Received(ended))

    @precondition(lambda self: self.out.alive)
    @rule(data=st.data(), code=st.sampled_from([0, 1]), stopped=st.booleans())
    def process_ends(self, data: st.DataObject, code: int, stopped: bool) -> None:
        token = data.draw(st.sampled_from(sorted(self.out.alive)))
        del self.out.alive[token]
        killed = "the agent was stopped while the task ran" if stopped else ""
        lapsed = self.out.fenced
        self.tell(on.ProcessEnded(token, self.now, self.now, exit_code=code, killed=killed))
        if self.out.fenced and not lapsed:
            # The step lapsed before it looked: the end counts as the kill's.
            self.out.ended.setdefault(token, "killed")
        elif token in self.core.work.releases:
            self.out.ended.setdefault(token, "released")

    @rule(token=st.integers(1, 2000))
    def end_of_a_process_that_was_forgotten(self, token: int) -> None:
        if token not in self.out.alive:
            self.tell(on.ProcessEnded(token, self.now, self.now, exit_code=0))

    @precondition(lambda self: self.out.spooling)
    @rule(data=st.data(), full=one_in_eight)
    def spooled(self, data: st.DataObject, full: bool) -> None:
        token = data.draw(st.sampled_from(sorted(self.out.spooling)))
        self.out.spooling.discard(token)
        if full:
            self.out.refused.add(token)
            self.out.suspended = True
        elif token in self.core.work.results:
            self.out.on_disk.add(token)
            self.out.refused.discard(token)
        self.tell(on.Spooled(token, "full" if full else ""))

    @rule(really=one_in_eight)
    def disk_fails(self, really: bool) -> None:
        if really:
            self.out.suspended = True
            self.tell(on.DiskFailed("full"))

    @precondition(lambda self: self.out.probing)
    @rule(full=st.booleans())
    def disk_answers(self, full: bool) -> None:
        self.out.probing -= 1
        self.out.suspended = full
        self.tell(on.Probed("full" if full else ""))

    @rule(really=one_in_eight)
    def keeper_fires(self, really: bool) -> None:
        if not really:
            return
        self.tell(on.LeaseFired("the keeper's deadline passed"))

    @rule(really=one_in_eight)
    def keeper_dies(self, really: bool) -> None:
        if not really:
            return
        for token in list(self.out.alive):
            del self.out.alive[token]
            self.out.ended[token] = "killed"
        self.tell(on.LeaseFired("the keeper died", spared_nothing=True))

    @rule(slots=st.integers(1, 3), queues=st.sampled_from([("q1",), ("q1", "q2")]))
    def reconfigured(self, slots: int, queues: tuple[str, ...]) -> None:
        self.tell(on.Reconfigured(slots=slots, queues=queues))

    @rule(
        slots=st.sampled_from([None, 1, 3]),
        queues=st.sampled_from([None, ("q2",)]),
        drained=st.booleans(),
    )
    def people_want_something(
        self, slots: int | None, queues: tuple[str, ...] | None, drained: bool
    ) -> None:
        terms = wire.Terms(drained="new disk" if drained else "", queues=queues, slots=slots)
        if not self.out.fenced and not self.lapses():
            self.out.drained, self.out.unread = drained, False
        self.tell(on.Received(wire.Configure(session=self.out.session, terms=terms)))

    @rule(really=one_in_eight)
    def a_message_of_another_version(self, really: bool) -> None:
        if really:
            self.out.unread = True
            self.tell(on.Unreadable(wire.VERSION + 1))

    @rule(really=one_in_eight)
    def signal(self, really: bool) -> None:
        if really:
            self.tell(on.Interrupt())


TestAgentMachine = AgentMachine.TestCase
TestAgentMachine.settings = settings(max_examples=200, stateful_step_count=60)
