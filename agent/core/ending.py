"""What the end of a task's processes means: a result, or a token given back."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Literal

from agent.core.events import Outcome, ProcessEnded
from flow.wire import Task

#: The reason of kills by which the agent, not the task, came to an end.
STOPPED = "the agent was stopped while the task ran"


@dataclass(frozen=True, slots=True)
class Ending:
    """``released``: the token goes back without a result and the task may run again."""

    state: Literal["success", "failed", "skipped", "released"]
    reason: str = ""
    fault: bool = False
    """Released because it could not be started here."""
    told: Outcome | None = None
    """What the task's process said, where that counts."""


def judge(task: Task, ended: ProcessEnded, *, lapsed: bool) -> Ending:
    """Decide what *ended* comes to. *lapsed*: the session that started it is over.

    A task that was told to stop and then exits with 0 has not done its work, so a kill decides; a
    main process that ended before the kill reached it is not reported as killed.
    """
    if ended.error and lapsed:  # refused for the lapse's sake, not the task's
        return Ending("released", ended.error)
    if ended.gpus_taken:  # nobody's fault: it waits for the other agent's task
        return Ending("released", ended.error)
    if ended.error and ended.fault:
        return Ending("released", f"cannot start here: {ended.error}", fault=True)
    if ended.error:
        return Ending("failed", f"cannot start: {ended.error}")
    if ended.killed == STOPPED:
        return Ending("failed" if task.on_agent_lost == "fail" else "released", STOPPED)
    if ended.killed:
        return Ending("failed", ended.killed)
    if ended.out_of_memory and ended.exit_code != 0:
        return Ending("failed", ended.out_of_memory)
    if ended.signal is not None:
        return Ending("failed", f"killed by {_signal_name(ended.signal)}")
    return _exited(task, ended.exit_code, ended.outcome)


def _exited(task: Task, exit_code: int | None, told: Outcome | None) -> Ending:
    """It ended by itself. Where its exit code and its own word differ, the worse one counts."""
    if exit_code != 0:
        if told is not None and told.state == "failed":
            return Ending("failed", told.reason or f"exit code {exit_code}", told=told)
        return Ending("failed", f"exit code {exit_code}")
    if told is not None:
        return Ending(told.state, told.reason, told=told)
    if task.operator == "python":
        return Ending(
            "failed",
            "its process ended with exit code 0 and without a result; does it call os._exit, or is "
            "its interpreter no Python?",
        )
    return Ending("success")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
