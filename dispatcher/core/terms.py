"""What people want of an agent: to take nothing new, to serve other queues, to have other slots.

It is kept on the agent's row, so it outlives sessions and dispatchers, and it holds here from the
moment it is written down: nothing is granted against it, whatever the agent has heard of it.
Telling the agent only makes it stop asking.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from dispatcher.core.claims import slot_freed
from dispatcher.core.records import SaveAgent, ToldAgent
from dispatcher.core.state import Agent, Effects, Instant, State
from flow import wire


def drain(
    state: State, agent: Agent, now: Instant, out: Effects, *, reason: str, actor: str
) -> None:
    """The agent shall take nothing new; what it runs goes on."""
    wanted = f"{reason} ({actor})"
    if agent.row.drained == wanted:
        return
    agent.row.drained = wanted
    _changed(state, agent, now, out, event="drain", reason=reason, actor=actor)


def resume(state: State, agent: Agent, now: Instant, out: Effects, *, actor: str) -> None:
    """The agent may take tasks again."""
    if not agent.row.drained:
        return
    agent.row.drained = ""
    _changed(state, agent, now, out, event="resume", reason="", actor=actor)


def configure(
    state: State,
    agent: Agent,
    now: Instant,
    out: Effects,
    *,
    queues: Collection[str] | None,
    slots: int | None,
    actor: str,
) -> None:
    """The agent shall serve *queues* with *slots* in the place of its own settings, which hold
    where one is ``None``."""
    wanted = None if queues is None else tuple(queues)
    if (agent.row.wanted_queues, agent.row.wanted_slots) == (wanted, slots):
        return
    agent.row.wanted_queues, agent.row.wanted_slots = wanted, slots
    told = [f"queues {', '.join(wanted)}"] if wanted is not None else []
    told += [f"{slots} slots"] if slots is not None else []
    reason = "; ".join(told) or "its own settings"
    _changed(state, agent, now, out, event="set", reason=reason, actor=actor)


def stated(agent: Agent, terms: wire.Terms | None, out: Effects, *, tell: bool) -> None:
    """The agent says which terms it goes by; it is told if those are others than are wanted, or if
    *tell* says so. ``None``: it cannot be told."""
    agent.stated = terms
    if terms is not None and (tell or terms != agent.terms):
        _tell(agent, out)


def _tell(agent: Agent, out: Effects) -> None:
    """Say what is wanted. A message that is lost is made up for by the next heartbeat."""
    out.reply(agent, wire.Configure(session=agent.row.session, terms=agent.terms))


def incompatible(version: int) -> str:
    """Why an agent that speaks *version* of the messages cannot work with this dispatcher; ``""``:
    it can. An agent reads the versions up to its own, and so does a dispatcher."""
    if version == wire.VERSION:
        return ""
    behind = "the dispatcher" if version > wire.VERSION else "this agent"
    return (
        f"it speaks version {version} of the messages, the dispatcher {wire.VERSION}; "
        f"upgrade {behind}"
    )


def _changed(
    state: State, agent: Agent, now: Instant, out: Effects, *, event: str, reason: str, actor: str
) -> None:
    name = agent.row.name
    told = ToldAgent(agent=name, event=event, reason=reason, actor=actor, at=now.wall)
    out.writes += [SaveAgent(agent=replace(agent.row), at=now.wall), told]
    out.notes.append(f"agent {name}: {event} by {actor}" + (f": {reason}" if reason else ""))
    if agent.live and agent.stated is not None:
        _tell(agent, out)
    slot_freed(state, agent)
