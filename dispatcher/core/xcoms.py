"""What tasks leave for each other: kept with a result, handed out to running tasks of the run."""

from __future__ import annotations

import json
from typing import Any

from dispatcher.core.records import SaveXcoms, TaskRow
from dispatcher.core.state import Agent, Effects, Instant, Lookup, State
from flow.wire import Answer, Ask, Finished


def inputs(state: State, task: TaskRow) -> dict[str, Any]:
    """What a task that reads parameters or templates gets with its grant: JSON texts, since conf
    may hold what a message cannot (a lone surrogate, NaN)."""
    run = state.run_of(task)
    spec = run.plan.tasks[task.task_id]
    if spec.operator != "python" and not spec.arguments.get("templated"):
        return {}
    params = dict(run.plan.spec.params)
    return {"conf": json.dumps(dict(run.row.conf)), "params": json.dumps(params)}


def keep(state: State, task: TaskRow, message: Finished, now: Instant, out: Effects) -> None:
    """Record what a try has pushed, in the place of what earlier ones had."""
    spec = state.run_of(task).plan.tasks[task.task_id]
    earlier = task.try_number > 1 and spec.operator == "python"
    if message.xcom or earlier:
        values = {key: bytes(raw).decode("utf-8", "replace") for key, raw in message.xcom.items()}
        out.writes.append(SaveXcoms(task_pk=task.id, values=values, at=now.wall))


def ask(state: State, agent: Agent, message: Ask, out: Effects) -> None:
    """A running task asks: it may read of its own run, for as long as its token lives."""
    task_pk = agent.tokens.get(message.token)
    if task_pk is None:
        error = f"expected a task that runs, got token {message.token}, which is over"
        answer = Answer(session=agent.row.session, request=message.request, error=error)
        out.reply(agent, answer)
        return
    out.lookups.append(
        Lookup(
            agent=agent.row.name,
            session=agent.row.session,
            incarnation=agent.row.incarnation,
            request=message.request,
            run_pk=state.tasks[task_pk].run_pk,
            wanted=message.wanted,
        )
    )
