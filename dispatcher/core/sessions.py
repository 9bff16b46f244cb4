"""Agent sessions: hello, heartbeat, goodbye, and what ends with them.

A token leaves ``running`` in these ways only: finished, released, a higher session's hello or a
goodbye, silence confirmed by a pulse within one reign (``leases``), and the word of somebody who
vouches that the agent is dead (:func:`declare_dead`).
"""

from __future__ import annotations

from dataclasses import replace

from dispatcher.core.claims import slot_freed
from dispatcher.core.deaths import lose_tokens, take_back
from dispatcher.core.records import (
    AgentRow,
    AgentState,
    EndSession,
    SaveAgent,
    TouchAgents,
)
from dispatcher.core.state import Agent, Effects, Instant, State
from dispatcher.core.terms import incompatible, stated
from flow.wire import Event, Heartbeat, Hello, HelloWanted, SessionEnded


def current(state: State, message: Event, now: Instant, out: Effects) -> Agent | None:
    """The sender, if *message* is of its current, living session; hearing it renews the lease.

    Otherwise the sender is told what to do, and the message changes nothing.
    """
    agent = state.agents.get(message.agent)
    if agent is None or message.session > agent.row.session:
        _want_hello(message, out)
        return None
    if message.session < agent.row.session or not agent.live:
        _refuse(message, agent, "this session has been ended", out)
        return None
    if message.incarnation not in ("", agent.row.incarnation):
        _refuse(message, agent, f"session {message.session} belongs to another process", out)
        return None
    hear(agent, now, out)
    return agent


def hello(state: State, message: Hello, now: Instant, out: Effects) -> None:
    """A session introduces itself. Tokens of its agent's older sessions end, except those whose
    result will follow (``spooled``) and those that still run by ``on_agent_lost="wait"``."""
    agent = state.agents.get(message.agent)
    if agent is not None and (refusal := _refusal(agent, message)):
        _refuse(message, agent, refusal, out)
        return
    if agent is not None and (reason := _postponed(state, agent, message, now)):
        _want_hello(message, out, reason)
        return
    row = _row_of(message, now)
    state.servers = None
    if agent is None:
        agent = state.agents[message.agent] = Agent(row, heard=now.mono, spoke=now.mono)
    else:
        older, agent.row = agent.row, row
        row.drained = older.drained
        row.wanted_queues, row.wanted_slots = older.wanted_queues, older.wanted_slots
        agent.heard = agent.spoke = now.mono
        agent.gpus_elsewhere = 0
        agent.offered.clear()
        if message.session > older.session:
            _supersede(state, agent, older, message, now, out)
    out.writes.append(SaveAgent(agent=replace(row), at=now.wall))
    out.notes.append(
        f"agent {row.name} is here: session {row.session}, {row.slots} slots, "
        f"queues {', '.join(row.queues)}"
    )
    stated(agent, message.terms, out, tell=True)
    slot_freed(state, agent)


def _row_of(message: Hello, now: Instant) -> AgentRow:
    return AgentRow(
        name=message.agent,
        session=message.session,
        state=AgentState.ONLINE,
        home_id=message.home_id,
        boot_id=message.boot_id,
        incarnation=message.incarnation,
        queues=message.queues,
        slots=message.slots,
        lease=message.lease,
        software=message.software,
        suspended=message.suspended or incompatible(message.version),
        last_heartbeat=now.wall,
        cores=message.cores,
        memory=message.memory,
        gpus=message.gpus,
        gpu_share=message.gpu_share,
        limits=message.limits,
    )


def _supersede(
    state: State, agent: Agent, older: AgentRow, message: Hello, now: Instant, out: Effects
) -> None:
    """End what *older*, the agent's session until now, held."""
    # The same process with a new session has lapsed, which kills no task by itself; another
    # process means that the agent died with its tasks.
    crashed = older.incarnation != message.incarnation and older.state is not AgentState.OFFLINE
    if older.state in (AgentState.ONLINE, AgentState.LOST):
        how = "superseded" if crashed else "lapsed"
        out.writes.append(EndSession(agent=older.name, session=older.session, how=how, at=now.wall))
    if older.incarnation == message.incarnation:
        take_back(state, older.name, older.charged, now, out)
    lose_tokens(
        state,
        agent,
        now,
        out,
        kept={*message.spooled, *message.kept},
        died=crashed,
        reason=f"agent {older.name} {'was restarted' if crashed else 'lapsed'}",
    )


def heartbeat(state: State, agent: Agent, message: Heartbeat, now: Instant, out: Effects) -> None:
    """The lease an agent goes by is the one it states, and so is whether it takes tasks."""
    agent.row.lease = message.lease
    if agent.devices_said(message.free_gpus) or agent.offered:
        agent.offered.clear()
        slot_freed(state, agent)
    # If another dispatcher's version is what suspends it, this one's answer ends that.
    stated(agent, message.terms, out, tell=message.suspended != "")
    suspended = message.suspended or incompatible(message.version)
    if agent.row.suspended == suspended:
        return
    agent.row.suspended = suspended
    out.writes.append(SaveAgent(agent=replace(agent.row), at=now.wall))
    if suspended:
        out.notes.append(f"agent {agent.row.name} is suspended: {suspended}")
    else:
        out.notes.append(f"agent {agent.row.name} takes tasks again")
        slot_freed(state, agent)


def goodbye(state: State, agent: Agent, now: Instant, out: Effects) -> None:
    """The session has drained: nothing of it runs."""
    agent.row.state = AgentState.OFFLINE
    _end_session(agent, "goodbye", now, out)
    lose_tokens(state, agent, now, out, died=False, reason=f"agent {agent.row.name} said goodbye")
    out.notes.append(f"agent {agent.row.name} said goodbye")


def declare_dead(state: State, agent: Agent, actor: str, now: Instant, out: Effects) -> None:
    """Somebody vouches that nothing of the agent runs any more: all its tokens end, also those
    that wait for it. Not for one that is online."""
    reason = f"agent {agent.row.name} was declared dead by {actor}"
    take_over(state, agent, now, out, how="declared dead", reason=reason, certain=True)
    out.notes.append(reason)


def take_over(
    state: State,
    agent: Agent,
    now: Instant,
    out: Effects,
    *,
    how: str,
    reason: str,
    certain: bool,
) -> None:
    """End the agent's session, if that has not ended before, and what it held. *certain*: nothing
    of it runs any more, so that tasks which wait for their agent need not."""
    if agent.live:
        agent.row.state = AgentState.DEAD
        _end_session(agent, how, now, out)
    charged = lose_tokens(state, agent, now, out, died=True, vanished=not certain, reason=reason)
    if charged:
        agent.row.charged += charged
        out.writes.append(SaveAgent(agent=replace(agent.row), at=now.wall))


def touch(state: State, out: Effects) -> None:
    """Write down, for display, when live agents were last heard."""
    heard = {
        agent.row.name: agent.row.last_heartbeat
        for agent in state.agents.values()
        if agent.live and agent.row.last_heartbeat is not None
    }
    if heard:
        out.writes.append(TouchAgents(heard=heard))


def _refusal(agent: Agent, message: Hello) -> str:
    """Why a hello is not accepted now, or ``""``."""
    row = agent.row
    if message.home_id != row.home_id:
        # Another machine or another state directory: it cannot know what the other one runs.
        if agent.live:
            return (
                f"agent {row.name!r} is already here from another machine or state directory; "
                f"give this one another --name, or wait until that one is lost or says goodbye"
            )
        if agent.tokens:  # and no session of this one can vouch for their end
            return (
                f"agent {row.name!r} of another machine or state directory is dead, and tasks of "
                f"it wait for its return (on_agent_lost='wait'); give this one another --name, or "
                f"say `flow agents declare-dead {row.name}` if it will not return"
            )
        return "" if message.session > row.session else f"session {row.session} was here before"
    if message.session < row.session:
        return f"session {row.session} was here before"
    if message.session == row.session:
        if message.incarnation != row.incarnation:
            return f"session {row.session} belongs to another process"
        if not agent.live:
            return "this session has been ended"
    return ""


def _postponed(state: State, agent: Agent, message: Hello, now: Instant) -> str:
    """Why a hello is not accepted yet, or ``""``. A machine that was started anew has been silent
    for a while; a copy of it says hello while the first one goes on sending heartbeats."""
    row = agent.row
    heard = agent.spoke is not None and now.mono - agent.spoke < state.rules.short_silence
    if not agent.live or message.session <= row.session or message.boot_id == row.boot_id:
        return ""
    if not heard:
        return ""
    return (
        f"agent {row.name!r} is still heard from another boot of what seems the same machine; if "
        f"this is a copy of that machine, give it a machine id and an agent name of its own"
    )


def _want_hello(message: Event, out: Effects, reason: str = "") -> None:
    wanted = HelloWanted(session=message.session, incarnation=message.incarnation, reason=reason)
    out.replies.append((message.agent, wanted))


def _refuse(message: Event, agent: Agent, reason: str, out: Effects) -> None:
    ended = SessionEnded(
        session=message.session,
        incarnation=message.incarnation,
        reason=reason,
        last_session=agent.row.session,
    )
    out.replies.append((message.agent, ended))
    out.notes.append(f"agent {message.agent} session {message.session} is refused: {reason}")


def hear(agent: Agent, now: Instant, out: Effects) -> None:
    """Its present session has said something."""
    agent.heard = agent.spoke = now.mono
    agent.row.last_heartbeat = now.wall
    if agent.row.state is AgentState.LOST:
        show(agent, AgentState.ONLINE, now, out)
        out.notes.append(f"agent {agent.row.name} is heard again")


def show(agent: Agent, state: AgentState, now: Instant, out: Effects) -> None:
    """Record what the agent looks like now."""
    agent.row.state = state
    out.writes.append(SaveAgent(agent=replace(agent.row), at=now.wall))


def _end_session(agent: Agent, how: str, now: Instant, out: Effects) -> None:
    agent.row.suspended = ""  # whoever is gone has no full disk
    ended = EndSession(agent=agent.row.name, session=agent.row.session, how=how, at=now.wall)
    out.writes += [ended, SaveAgent(agent=replace(agent.row), at=now.wall)]
