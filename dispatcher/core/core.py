"""The core as one object: an event and the time in, effects out. Nothing here does I/O.

The effects of a call must be carried out in order and completely, or the whole reign thrown away
and the state rebuilt from the database: memory runs ahead of the commit.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping, Sequence

from dispatcher.core import (
    claims,
    handover,
    leases,
    reconcile,
    requests,
    scheduling,
    sessions,
    versions,
    wishes,
    xcoms,
)
from dispatcher.core.moves import IllegalTransition
from dispatcher.core.placing import make_ready, place_all, publication
from dispatcher.core.plan import Plan
from dispatcher.core.records import DagRow, Intent, LoadedRun, Snapshot, TaskRow
from dispatcher.core.runs import start_waiting_runs
from dispatcher.core.state import Agent, Effects, Instant, Rules, State, rebuild
from flow import wire
from flow.states import RUN_TERMINAL, TaskState

__all__ = ["Core", "Effects", "IllegalTransition", "Instant", "Rules"]


class Core:
    """All rules over one reign's state. *reign* is the epoch it runs under."""

    def __init__(self, snapshot: Snapshot, *, reign: int, rules: Rules, now: Instant) -> None:
        self.state: State = rebuild(snapshot, reign=reign, rules=rules, now=now)

    def begin(self, now: Instant) -> Effects:
        """First of all: publish again what may never have been published, start what may start."""
        out = Effects()
        for queue in self.state.queues.values():
            for task_pk in sorted(queue.queued):
                out.publications.append(publication(self.state, self.state.tasks[task_pk]))
        for dag_id in list(self.state.waiting_runs):
            start_waiting_runs(self.state, dag_id, now, out)
        out.absorb(self.tick(now))
        return out

    def receive(self, message: wire.Message, now: Instant) -> Effects:
        """An agent's event, or this dispatcher's own marker, in the order of the events queue."""
        out = Effects()
        freed, concerned = None, None
        match message:
            case wire.Hello():
                sessions.hello(self.state, message, now, out)
            case wire.Event():
                sender = self._agent_event(message, now, out)
                freed = sender if isinstance(message, wire.Finished) else None
                concerned = sender.row.queues if sender is not None else ()
            case wire.Marker() if message.reign == self.state.reign:
                leases.marker_returned(self.state, message.number, now, out)
                reconcile.marker_returned(self.state, message.number)
        self._follow_up(now, out, freed, concerned)
        return out

    def receive_newer(self, sender: wire.Sender, now: Instant) -> Effects:
        """An agent's event of a newer version than this dispatcher reads."""
        out = Effects()
        versions.received(self.state, sender, now, out)
        self._follow_up(now, out)
        return out

    def _agent_event(self, message: wire.Event, now: Instant, out: Effects) -> Agent | None:
        """The agent, if this is of its present session: nothing changes for any other."""
        agent = sessions.current(self.state, message, now, out)
        if agent is None:
            return None
        match message:
            case wire.Claim():
                claims.claim(self.state, agent, message, now, out)
            case wire.Finished():
                claims.finished(self.state, agent, message, now, out)
            case wire.Release():
                claims.released(self.state, agent, message, now, out)
            case wire.Heartbeat():
                sessions.heartbeat(self.state, agent, message, now, out)
                claims.resend_grants(self.state, agent, set(message.tokens), now, out)
                wishes.repeat(self.state, agent, message.tokens, out)
            case wire.Ask():
                xcoms.ask(self.state, agent, message, out)
            case wire.Goodbye():
                sessions.goodbye(self.state, agent, now, out)
        return agent

    def wanted_runs(self, intents: Sequence[Intent]) -> dict[int, tuple[str, str]]:
        """By intent: ``(dag_id, run_id)`` of runs to load for :meth:`request`, since they have
        ended or do not exist."""
        return {
            intent.id: requests.run_named(intent.arguments)
            for intent in intents
            if intent.kind in ("clear", "cancel")
            and requests.active_run(self.state, intent) is None
        }

    def request(
        self,
        intents: Sequence[Intent],
        now: Instant,
        loaded: Mapping[int, LoadedRun | None] | None = None,
    ) -> Effects:
        """Carry out what commands asked for; each intent once. *loaded* has the runs that
        :meth:`wanted_runs` named, by intent (``None``: there is no such run).

        An intent whose run has ended since *loaded* was read, by an earlier intent perhaps, is left
        for the next time.
        """
        out = Effects()
        loaded = loaded or {}
        touched: set[tuple[str, str]] = set()
        for intent in intents:
            if intent.id in self.state.seen_intents or self._outdated(intent, loaded, touched):
                continue
            self.state.seen_intents.add(intent.id)
            touched.add(requests.run_named(intent.arguments))
            requests.carry_out(self.state, intent, loaded.get(intent.id), now, out)
        self._follow_up(now, out)
        return out

    def _outdated(
        self,
        intent: Intent,
        loaded: Mapping[int, LoadedRun | None],
        touched: Collection[tuple[str, str]],
    ) -> bool:
        """Whether *intent* needs a run that is not in memory, and *loaded* has it not as it is now:
        what earlier intents did to the runs *touched* is not written yet."""
        if not self.wanted_runs([intent]):
            return False
        run = loaded.get(intent.id)
        return (
            intent.id not in loaded
            or requests.run_named(intent.arguments) in touched
            or (run is not None and run.run.state not in RUN_TERMINAL)
        )

    def _follow_up(
        self,
        now: Instant,
        out: Effects,
        freed: Agent | None = None,
        concerned: Collection[str] | None = None,
    ) -> None:
        """Whatever happened may have made room: for runs that are due, then for tasks. *freed*: an
        agent that has just said that a task has ended; *concerned*: see :func:`place_all`."""
        scheduling.advance(self.state, now, out)
        if freed is not None:
            handover.hand_over(self.state, freed, now, out)
        place_all(self.state, now, out, concerned)

    def dags_changed(self, rows: Sequence[DagRow]) -> None:
        """DAG versions that were just recorded; new runs take them. :meth:`next_wakeup` is now:
        they may be due."""
        for row in rows:
            self.state.agenda.unsettled.add(row.dag_id)
            self.state.plans.setdefault(row.version_id, Plan.of(row.spec))
            self.state.dags[row.dag_id] = row

    def tick(self, now: Instant) -> Effects:
        """Whatever is due by now: delays that have passed, leases, silence."""
        out = Effects()
        timers = self.state.timers
        while timers and timers[0][0] <= now.mono:
            _, task_pk, try_number = heapq.heappop(timers)
            task = self.state.tasks.get(task_pk)
            if task is not None and task.try_number == try_number:
                self._delay_passed(task, now, out)
        leases.check(self.state, now, out)
        self._follow_up(now, out)
        return out

    def _delay_passed(self, task: TaskRow, now: Instant, out: Effects) -> None:
        if task.state is TaskState.UP_FOR_RETRY:
            claims.retry_due(self.state, task, now, out)
        elif task.state is TaskState.SCHEDULED:
            make_ready(self.state, task)

    def touch(self) -> Effects:
        """Write down when agents were last heard, for listings."""
        out = Effects()
        sessions.touch(self.state, out)
        return out

    def queue_observed(self, queue: str, ready: int) -> Effects:
        """The broker holds *ready* unclaimed messages in *queue*."""
        out = Effects()
        reconcile.observed(self.state, queue, ready, out)
        return out

    def next_wakeup(self) -> float | None:
        """When (mono) :meth:`tick` next has something to do; ``None``: not without an event."""
        due = [leases.next_check(self.state), self.state.agenda.wakeup()]
        if self.state.timers:
            due.append(self.state.timers[0][0])
        return min((moment for moment in due if moment is not None), default=None)

    def waiting_queues(self) -> list[str]:
        """Queues with rows whose message should be at the broker."""
        return sorted(name for name, queue in self.state.queues.items() if queue.queued)

    def log_owner(self, chunk: wire.LogChunk) -> tuple[int, str] | None:
        """The run, and the agent, of a chunk that carries the latest token of a task in memory."""
        task = self.state.tasks.get(chunk.task_instance_id)
        if task is None or task.agent is None:
            return None
        latest = (task.try_number, task.token) == (chunk.try_number, chunk.token)
        return (task.run_pk, task.agent) if latest else None
