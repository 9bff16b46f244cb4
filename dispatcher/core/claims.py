"""Claims and the ends of tokens (docs/architecture.md, "Never lost, never twice").

A delivery gives no right to run: the agent claims, and the grant is a compare-and-set on the row
with a fencing token that only grows. A result is accepted under the live token only.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from dispatcher.core import xcoms
from dispatcher.core.holding import refusal
from dispatcher.core.moves import Ending, Wished, end_token, move_task
from dispatcher.core.placing import make_ready, park, publication, unpark
from dispatcher.core.records import OpenTry, TaskRow, Wish
from dispatcher.core.runs import after_end, retry_delay, schedule, settle, skip_below
from dispatcher.core.state import Agent, Effects, Instant, State
from dispatcher.core.wishes import run_again
from flow.states import TaskEvent, TaskState
from flow.wire import Answered, Claim, Deny, Finished, Grant, Release, Task


def claim(state: State, agent: Agent, message: Claim, now: Instant, out: Effects) -> None:
    """Answer a claim of the agent's current session: grant, grant again, or deny."""
    agent.devices_said(message.free_gpus)
    task = state.tasks.get(message.task_instance_id)
    if task is None or task.try_number != message.try_number:
        _deny(agent, message, "this try is over", out)
    elif _granted_to(agent, task):
        # The grant was lost on its way: the same claim gets the same answer.
        _send_grant(state, agent, task, now, out)
    elif task.state is not TaskState.QUEUED:
        _deny(agent, message, f"it is {task.state}", out)
    elif task.queue not in agent.row.queues:
        _deny(agent, message, f"agent {agent.row.name} does not serve queue {task.queue!r}", out)
    elif reason := refusal(state, agent, task):
        move_task(
            state,
            task,
            TaskEvent.PUT_BACK,
            now,
            out,
            actor=f"agent {agent.row.name}",
            reason=reason,
        )
        park(state, task)
        _deny(agent, message, f"not now: {reason}", out)
    else:
        grant(state, agent, task, now, out)


def finished(state: State, agent: Agent, message: Finished, now: Instant, out: Effects) -> None:
    """Record a result, if it carries the live token; answer it either way."""
    out.reply(agent, Answered(session=agent.row.session, tokens=(message.token,)))
    task = _holder_of(state, agent, message.task_instance_id, message.token)
    if task is None:
        out.notes.append(
            f"stale result of task instance {message.task_instance_id} from agent "
            f"{agent.row.name} changes nothing (token {message.token})"
        )
        return
    ending = Ending(
        outcome=message.state,
        actor=f"agent {agent.row.name}",
        reason=message.reason,
        exit_code=message.exit_code,
        started_at=_moment(message.started_at),
        ended_at=_moment(message.ended_at),
        memory_peak=message.memory_peak,
        cpu_seconds=message.cpu_seconds,
    )
    xcoms.keep(state, task, message, now, out)
    match message.state:
        case "success":
            _succeed(state, task, message, ending, now, out)
        case "skipped":
            wished = end_token(state, task, TaskEvent.SKIP, ending, now, out)
            conclude(state, task, wished, now, out)
        case "failed":
            _fail_or_retry(state, task, ending, now, out, final=message.final)
    slot_freed(state, agent)


def released(state: State, agent: Agent, message: Release, now: Instant, out: Effects) -> None:
    """The agent gives a token back without a result. Three faults in a row fail the task."""
    out.reply(agent, Answered(session=agent.row.session, tokens=(message.token,)))
    task = _holder_of(state, agent, message.task_instance_id, message.token)
    if task is None:
        return
    actor = f"agent {agent.row.name}"
    releases = task.releases + 1 if message.fault else task.releases
    if releases >= state.rules.max_releases:
        reason = f"given back {releases} times: {message.reason}"
        ending = Ending(outcome="failed", actor=actor, reason=reason)
        wished = end_token(state, task, TaskEvent.FAIL, ending, now, out, releases=releases)
        conclude(state, task, wished, now, out)
    else:
        ending = Ending(outcome="released", actor=actor, reason=message.reason)
        delay = state.rules.release_backoff * releases if message.fault else 0.0
        put_off(state, task, TaskEvent.RELEASE, ending, now, out, delay=delay, releases=releases)
    slot_freed(state, agent)


def conclude(state: State, task: TaskRow, wished: Wished, now: Instant, out: Effects) -> None:
    """A token has ended, and its task with it, unless somebody wants it to run again."""
    if wished.wish is Wish.CLEAR:
        run_again(state, task, wished.actor, now, out)
    else:
        after_end(state, task, now, out)


def _succeed(
    state: State, task: TaskRow, message: Finished, ending: Ending, now: Instant, out: Effects
) -> None:
    # A success that arrives before the kill stays a success.
    wished = end_token(state, task, TaskEvent.SUCCEED, ending, now, out)
    if wished.wish is not Wish.CLEAR and (message.stop or message.follow is not None):
        skip_below(state, task, None if message.stop else message.follow, now, out)
    conclude(state, task, wished, now, out)


def _fail_or_retry(
    state: State, task: TaskRow, ending: Ending, now: Instant, out: Effects, *, final: bool
) -> None:
    """End the token of a task that failed by itself: another try if it has retries left."""
    run = state.run_of(task)
    failures = task.failures + 1
    if task.wish is Wish.CANCEL:
        ending = replace(ending, reason=f"cancelled by {task.wish_by}")
    if task.wish or final or failures > run.plan.tasks[task.task_id].retries:
        wished = end_token(state, task, TaskEvent.FAIL, ending, now, out, failures=failures)
        conclude(state, task, wished, now, out)
        return
    delay = retry_delay(run, task)
    end_token(
        state,
        task,
        TaskEvent.RETRY,
        ending,
        now,
        out,
        failures=failures,
        not_before=now.wall + delay,
    )
    state.wake_at(now.mono + delay.total_seconds(), task)
    settle(state, run, now, out)


def put_off(
    state: State,
    task: TaskRow,
    event: TaskEvent,
    ending: Ending,
    now: Instant,
    out: Effects,
    *,
    delay: float = 0.0,
    **values: int,
) -> None:
    """End the token and schedule another try, which does not count against ``retries``."""
    run = state.run_of(task)
    if task.wish is Wish.CANCEL:
        ending = replace(ending, reason=f"cancelled by {task.wish_by}; {ending.reason}")
        conclude(state, task, end_token(state, task, TaskEvent.FAIL, ending, now, out), now, out)
        return
    wished = end_token(
        state,
        task,
        event,
        ending,
        now,
        out,
        try_number=task.try_number + 1,
        not_before=now.wall + timedelta(seconds=delay) if delay else None,
        **values,
    )
    if wished.wish is Wish.CLEAR:
        run_again(state, task, wished.actor, now, out)
        return
    if delay > 0:
        state.wake_at(now.mono + delay, task)
    else:
        make_ready(state, task)
    settle(state, run, now, out)


def slot_freed(state: State, agent: Agent) -> None:
    """What an agent had no room for may fit now."""
    for queue in agent.row.queues:
        unpark(state, queue)


def resend_grants(
    state: State, agent: Agent, running: set[int], now: Instant, out: Effects
) -> None:
    """Repeat grants that a heartbeat shows the agent never received: it does not list the token
    although the grant is older than the heartbeat before this one."""
    for token, task_pk in agent.tokens.items():
        task = state.tasks[task_pk]
        if token in running or task.session != agent.row.session:
            continue
        if now.mono - agent.granted.get(token, now.mono) > agent.row.lease / 4:
            # Whether it was claimed or handed over is not known any more.
            _send_grant(state, agent, task, now, out, message=publication(state, task))


def retry_due(state: State, task: TaskRow, now: Instant, out: Effects) -> None:
    """A retry's delay has passed."""
    schedule(state, task, TaskEvent.RETRY_DUE, now, out)


def grant(
    state: State,
    agent: Agent,
    task: TaskRow,
    now: Instant,
    out: Effects,
    *,
    message: Task | None = None,
) -> None:
    """Give a queued *task* to *agent*; with its *message*, if it has not claimed it."""
    token = state.next_token(now.wall)
    move_task(
        state,
        task,
        TaskEvent.GRANT,
        now,
        out,
        actor=f"agent {agent.row.name}",
        token=token,
        agent=agent.row.name,
        session=agent.row.session,
        start_date=now.wall,
        end_date=None,
    )
    out.writes.append(
        OpenTry(
            task_pk=task.id,
            try_number=task.try_number,
            token=token,
            agent=agent.row.name,
            session=agent.row.session,
            at=now.wall,
        )
    )
    agent.take(token, task.id, state.shape(task))
    _send_grant(state, agent, task, now, out, message=message)


def _send_grant(
    state: State,
    agent: Agent,
    task: TaskRow,
    now: Instant,
    out: Effects,
    *,
    message: Task | None = None,
) -> None:
    agent.granted[task.token] = now.mono
    reply = Grant(
        session=agent.row.session,
        task_instance_id=task.id,
        try_number=task.try_number,
        token=task.token,
        inputs=xcoms.inputs(state, task),
        task=message,
    )
    out.reply(agent, reply)


def _deny(agent: Agent, message: Claim, reason: str, out: Effects) -> None:
    deny = Deny(
        session=message.session,
        task_instance_id=message.task_instance_id,
        try_number=message.try_number,
        reason=reason,
    )
    out.reply(agent, deny)


def _granted_to(agent: Agent, task: TaskRow) -> bool:
    """Whether the task's live token was granted to the agent's present session. One that an older
    session was granted is kept for its result, or for what still runs: nobody may start it anew."""
    return agent.tokens.get(task.token) == task.id and task.session == agent.row.session


def _holder_of(state: State, agent: Agent, task_pk: int, token: int) -> TaskRow | None:
    return state.tasks[task_pk] if agent.tokens.get(token) == task_pk else None


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
