"""What the end of a session costs the tasks that ran under it, and what is taken back.

An unclean end of a session is charged as a death to a task that may have caused it; after
``Rules.max_deaths`` of them it fails as poison. Silence looks like a death and may be none: an
agent that was cut off kills what it runs when its lease ends, goes on, and says hello once it can.
That process was well all the time, so no task has killed it, and what the takeover charged is taken
back. A task that has failed as poison meanwhile stays failed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from dispatcher.core.claims import conclude, put_off, slot_freed
from dispatcher.core.holding import is_suspect
from dispatcher.core.moves import Ending, end_token
from dispatcher.core.records import TakeBackDeath, TaskRow
from dispatcher.core.state import Agent, Effects, Instant, State
from flow.states import TERMINAL, TaskEvent, TaskState


def lose_tokens(
    state: State,
    agent: Agent,
    now: Instant,
    out: Effects,
    *,
    died: bool,
    reason: str,
    vanished: bool = False,
    kept: Collection[int] = (),
) -> tuple[int, ...]:
    """End the agent's tokens except *kept*. *died*: an unclean end, charged to a suspect, else to
    those that were there at an earlier one, else to all.
    *vanished*: nobody knows whether the tasks are dead, so those that must wait do.

    Returns the task instances that run again under this charge, for :func:`take_back`.
    """
    lost = [state.tasks[pk] for token, pk in agent.tokens.items() if token not in kept]
    if vanished:
        lost = [task for task in lost if _on_agent_lost(state, task) != "wait"]
    suspects = [task for task in lost if is_suspect(state, task)]
    suspects = suspects or [task for task in lost if task.deaths > 0] or lost
    charged = suspects if died else []
    for task in lost:
        _lose(state, task, now, out, reason, deaths=task.deaths + (task in charged))
    slot_freed(state, agent)
    # One that was to be cleared has lost its deaths with everything else.
    return tuple(task.id for task in charged if task.state not in TERMINAL and task.deaths > 0)


def take_back(state: State, name: str, charged: Iterable[int], now: Instant, out: Effects) -> None:
    """Agent *name* was thought dead, and the same process is there again: nothing has killed it,
    *charged* least of all. (A task that was cleared since may be let off one death too many.)"""
    freed = []
    for task_pk in charged:
        task = state.tasks.get(task_pk)
        if task is None or task.state in TERMINAL or task.deaths == 0:
            continue
        task.deaths -= 1
        freed.append(task.task_id)
        if task.state is TaskState.RUNNING and task.agent is not None:
            slot_freed(state, state.agents[task.agent])  # for a suspect that waits for its end
        out.writes.append(
            TakeBackDeath(
                task_pk=task.id,
                state=task.state,
                token=task.token,
                deaths=task.deaths,
                reason=f"agent {name} had not died",
                at=now.wall,
            )
        )
    if freed:
        names = ", ".join(sorted(freed))
        out.notes.append(f"agent {name} had not died: its loss is not charged to {names}")


def _lose(
    state: State, task: TaskRow, now: Instant, out: Effects, reason: str, *, deaths: int
) -> None:
    verdict = ""
    if deaths >= state.rules.max_deaths:
        verdict = f"{deaths} agents died while running it; last: {reason}"
    elif _on_agent_lost(state, task) == "fail":
        verdict = f"{reason} (on_agent_lost='fail')"
    if verdict:
        ending = Ending(outcome="lost", reason=verdict)
        wished = end_token(state, task, TaskEvent.FAIL, ending, now, out, deaths=deaths)
        conclude(state, task, wished, now, out)
    else:
        ending = Ending(outcome="lost", reason=reason)
        put_off(state, task, TaskEvent.LOSE, ending, now, out, deaths=deaths)


def _on_agent_lost(state: State, task: TaskRow) -> str:
    return state.run_of(task).plan.tasks[task.task_id].on_agent_lost
