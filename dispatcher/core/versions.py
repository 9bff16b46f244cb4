"""Events of agents that speak a newer version of the messages than this dispatcher reads.

Little is known of them: whose they are. That is enough to keep the promise (an agent whose
heartbeats the broker confirms goes on, so it must count as heard here), to tell the agent that it
is to take nothing, and to show it to people. What it runs goes on, its results wait in its spool,
and the dispatcher's upgrade ends all that: it does not know the session, and asks for its hello.
"""

from __future__ import annotations

from dataclasses import replace

from msgspec.structs import replace as changed

from dispatcher.core.records import AgentRow, AgentState, SaveAgent
from dispatcher.core.sessions import hear
from dispatcher.core.state import Agent, Effects, Instant, State
from dispatcher.core.terms import incompatible
from flow.wire import Configure, Sender

#: Events that are answered; the others come with these.
_ANSWERED = frozenset({"hello", "heartbeat", "claim"})


def received(state: State, sender: Sender, now: Instant, out: Effects) -> None:
    """An event of *sender* that cannot be read."""
    reason = incompatible(sender.version)
    agent = state.agents.get(sender.agent)
    if agent is None:
        unknown = AgentRow(name=sender.agent, session=0, state=AgentState.OFFLINE, slots=0)
        agent = state.agents[sender.agent] = Agent(unknown, heard=now.mono)
    mine = agent.live and sender.session == agent.row.session
    if mine and sender.incarnation in ("", agent.row.incarnation):
        hear(agent, now, out)
        _show(agent, reason, now, out)
    elif not agent.live:
        agent.row.state = AgentState.OFFLINE  # whoever uses the name is not dead
        agent.row.last_heartbeat = now.wall
        _show(agent, reason, now, out)
    if sender.type in _ANSWERED:
        answer = Configure(
            session=sender.session,
            incarnation=sender.incarnation,
            terms=changed(agent.terms, drained=reason),
        )
        out.replies.append((sender.agent, answer))


def _show(agent: Agent, reason: str, now: Instant, out: Effects) -> None:
    """Like a full disk it keeps the agent from starting anything, until it says otherwise."""
    if agent.row.suspended != reason:
        agent.row.suspended = reason
        out.writes.append(SaveAgent(agent=replace(agent.row), at=now.wall))
        out.notes.append(f"agent {agent.row.name} takes no tasks: {reason}")
