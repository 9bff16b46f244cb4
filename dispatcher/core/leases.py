"""Leases: who is silent, for how long, and when that is enough to take an agent's tasks over.

Silence counts only while the line is proven clear. Between an agent and this core lie a broker that
may hold publishers back, a queue with a backlog, and a process that may have been stopped. So while
an agent is silent the dispatcher keeps a *pulse* going: a marker through the events queue, one at a
time, ``heartbeat_interval`` apart. The time a pulse takes to come back is not counted, nor is the
time by which it is sent late. Whoever is silent for its own L and this dispatcher's G of counted
time when a pulse is sent, and is still silent when that pulse comes back, is taken over: all that
was sent before has been read by then.

This is what lets an agent go on through a broker's alarm (``agent.core``): nothing that it could
not send counts against it, whether or not anybody was told of the alarm. An alarm can go unseen
only while no pulse is due, for ``Rules.short_silence`` (two intervals) at most, and another may
pass before the agent's next heartbeat: hence G is at least three intervals (``flow.config``).
"""

from __future__ import annotations

from collections.abc import Iterator

from dispatcher.core.records import AgentState
from dispatcher.core.sessions import show, take_over
from dispatcher.core.state import Agent, Effects, Instant, Pulse, State

#: Two sums of the same floats differ in their last bits, in seconds.
_ROUNDING = 1e-6


def check(state: State, now: Instant, out: Effects) -> None:
    """Notice silence, and send the pulse that is due."""
    for agent in _live(state):
        silence = now.mono - agent.heard
        if silence >= state.rules.lost_after and agent.row.state is AgentState.ONLINE:
            show(agent, AgentState.LOST, now, out)
            out.notes.append(f"agent {agent.row.name} is lost: silent for {silence:.0f} s")
    due = _pulse_due(state)
    if due is None or now.mono < due:
        return
    for agent in _live(state):
        agent.heard = min(now.mono, agent.heard + now.mono - due)
    state.pulse = Pulse(state.next_marker(), now.mono)
    out.markers.append(state.pulse.number)


def next_check(state: State) -> float | None:
    """When (mono) :func:`check` may next have something to do."""
    due = [
        agent.heard + state.rules.lost_after
        for agent in _live(state)
        if agent.row.state is AgentState.ONLINE
    ]
    if (pulse := _pulse_due(state)) is not None:
        due.append(pulse)
    return min(due, default=None)


def marker_returned(state: State, number: int, now: Instant, out: Effects) -> None:
    """If it is the pulse: everything sent before it has been read, and who was silent long enough
    when it left, and still is, is gone."""
    pulse = state.pulse
    if pulse is None or pulse.number != number:
        return
    state.pulse, state.last_pulse = None, now.mono
    for agent in _live(state):
        silence = pulse.sent - agent.heard
        if silence >= _patience(state, agent) - _ROUNDING:
            out.notes.append(f"agent {agent.row.name} is dead: silent for {silence:.1f} s")
            reason = f"agent {agent.row.name} was lost"
            take_over(state, agent, now, out, how="lost", reason=reason, certain=False)
        else:
            agent.heard += now.mono - max(pulse.sent, agent.heard)


def _pulse_due(state: State) -> float | None:
    """When (mono) the next pulse is to be sent: soon after somebody fell silent, then regularly,
    and at the moment when a silence is long enough."""
    if state.pulse is not None:
        return None
    interval, last = state.rules.heartbeat_interval, state.last_pulse
    due = []
    for agent in _live(state):
        first = agent.heard + state.rules.short_silence
        again = min(last + interval, agent.heard + _patience(state, agent))
        due.append(max(first, last, again))
    return min(due, default=None)


def _patience(state: State, agent: Agent) -> float:
    return agent.row.lease + state.rules.grace


def _live(state: State) -> Iterator[Agent]:
    return (agent for agent in state.agents.values() if agent.live)
