"""What commands ask for: intents, each carried out once, in the transaction that closes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dispatcher.core import sessions, terms, wishes
from dispatcher.core.placing import release_held
from dispatcher.core.records import AgentState, CloseIntent, DagRow, Intent, LoadedRun, SetPaused
from dispatcher.core.runs import create_run, start_waiting_runs
from dispatcher.core.scheduling import SCHEDULED
from dispatcher.core.state import ActiveRun, Agent, Effects, Instant, State
from flow.errors import nearest
from flow.names import QUEUE

#: As in the setting ``agent.slots``.
MOST_SLOTS = 10_000


class Refused(Exception):
    """Why a request is not carried out, in words for its author."""


def carry_out(
    state: State, intent: Intent, loaded: LoadedRun | None, now: Instant, out: Effects
) -> None:
    """Carry *intent* out, or close it with the reason why not.

    *loaded* is the run that it names, where that has ended and is no longer in memory.
    """
    error = ""
    try:
        _find(intent.kind)(state, intent, loaded, now, out)
    except Refused as refused:
        error = str(refused)
        out.notes.append(f"intent {intent.id} is refused: {error}")
    out.writes.append(CloseIntent(intent_id=intent.id, at=now.wall, error=error))


def _trigger(state: State, intent: Intent, _: LoadedRun | None, now: Instant, out: Effects) -> None:
    dag = _active_dag(state, intent)
    run_id, conf = intent.arguments.get("run_id"), intent.arguments.get("conf") or {}
    if not isinstance(run_id, str) or not isinstance(conf, dict):
        raise Refused(f"trigger of dag {dag.dag_id!r}: expected a run_id and a conf object")
    if run_id.startswith(SCHEDULED):
        raise Refused(
            f"trigger of dag {dag.dag_id!r}: expected a run_id that does not begin with "
            f"{SCHEDULED!r}, got {run_id!r}; such names are for runs by schedule"
        )
    create_run(state, dag.dag_id, run_id, conf, now, out, actor=_actor(intent))
    out.notes.append(f"run {dag.dag_id}/{run_id} was triggered")


def _pause(state: State, intent: Intent, _: LoadedRun | None, now: Instant, out: Effects) -> None:
    _set_paused(state, intent, now, out, paused=True)


def _unpause(state: State, intent: Intent, _: LoadedRun | None, now: Instant, out: Effects) -> None:
    _set_paused(state, intent, now, out, paused=False)


def _set_paused(state: State, intent: Intent, now: Instant, out: Effects, *, paused: bool) -> None:
    dag = _active_dag(state, intent)
    if dag.paused == paused:
        return
    dag.paused = paused
    state.agenda.unsettled.add(dag.dag_id)
    actor = _actor(intent)
    out.writes.append(SetPaused(dag_id=dag.dag_id, paused=paused, at=now.wall, actor=actor))
    if not paused:
        release_held(state, dag.dag_id)
        start_waiting_runs(state, dag.dag_id, now, out)


def _cancel(
    state: State, intent: Intent, loaded: LoadedRun | None, now: Instant, out: Effects
) -> None:
    run = active_run(state, intent)
    if run is None:
        ended = _known(intent, loaded).run
        raise Refused(f"run {_name(intent)}: expected one that has not ended, got {ended.state}")
    wishes.cancel_run(state, run, _actor(intent), now, out)
    out.notes.append(f"run {_name(intent)} is cancelled by {_actor(intent)}")


def _clear(
    state: State, intent: Intent, loaded: LoadedRun | None, now: Instant, out: Effects
) -> None:
    run = active_run(state, intent)
    if run is None:
        ended = _known(intent, loaded)
        if ended.run.previous_pk is not None:
            state.past.setdefault(ended.run.previous_pk, ended.past)
        run = wishes.prepared(ended)
    task_id = intent.arguments.get("task_id")
    if task_id is not None and task_id not in run.tasks:
        known = nearest(str(task_id), run.tasks)
        raise Refused(f"run {_name(intent)}: expected one of its tasks, got {task_id!r}{known}")
    names = wishes.selected(
        run,
        task_id,
        upstream=bool(intent.arguments.get("upstream")),
        downstream=bool(intent.arguments.get("downstream")),
        failed=bool(intent.arguments.get("failed")),
    )
    if not names:
        raise Refused(f"run {_name(intent)}: expected a failed task to clear, got none")
    wishes.clear_tasks(state, run, names, _actor(intent), now, out)
    out.notes.append(f"run {_name(intent)}: {_actor(intent)} cleared {', '.join(names)}")


def _declare_dead(
    state: State, intent: Intent, _: LoadedRun | None, now: Instant, out: Effects
) -> None:
    agent = _agent(state, intent)
    if agent.row.state is AgentState.ONLINE:
        raise Refused(
            f"agent {agent.row.name!r}: expected one that is silent, got one that was heard "
            f"{now.mono - agent.heard:.0f} s ago; stop it on its node first"
        )
    sessions.declare_dead(state, agent, _actor(intent), now, out)


def _drain(state: State, intent: Intent, _: LoadedRun | None, now: Instant, out: Effects) -> None:
    agent = _agent(state, intent)
    reason = str(intent.arguments.get("reason") or "").strip()
    if not reason:
        raise Refused(f"agent {agent.row.name!r}: expected a reason to drain it, got none")
    terms.drain(state, agent, now, out, reason=reason, actor=_actor(intent))


def _resume(state: State, intent: Intent, _: LoadedRun | None, now: Instant, out: Effects) -> None:
    terms.resume(state, _agent(state, intent), now, out, actor=_actor(intent))


def _set_agent(
    state: State, intent: Intent, _: LoadedRun | None, now: Instant, out: Effects
) -> None:
    agent = _agent(state, intent)
    queues, slots = intent.arguments.get("queues"), intent.arguments.get("slots")
    if queues is not None and not (
        isinstance(queues, list) and queues and not any(map(QUEUE.problem, queues))
    ):
        raise Refused(
            f"agent {agent.row.name!r}: expected names of queues ({QUEUE.text}), got {queues!r}"
        )
    if slots is not None and not (type(slots) is int and 1 <= slots <= MOST_SLOTS):
        raise Refused(f"agent {agent.row.name!r}: expected 1 to {MOST_SLOTS} slots, got {slots!r}")
    if not intent.arguments.get("reset"):
        queues = agent.row.wanted_queues if queues is None else dict.fromkeys(queues)
        slots = agent.row.wanted_slots if slots is None else slots
    terms.configure(state, agent, now, out, queues=queues, slots=slots, actor=_actor(intent))


_HANDLERS: dict[str, Callable[[State, Intent, LoadedRun | None, Instant, Effects], None]] = {
    "trigger": _trigger,
    "pause": _pause,
    "unpause": _unpause,
    "cancel": _cancel,
    "clear": _clear,
    "declare_dead": _declare_dead,
    "drain": _drain,
    "resume": _resume,
    "set_agent": _set_agent,
}


def _find(kind: str) -> Callable[[State, Intent, LoadedRun | None, Instant, Effects], None]:
    if kind not in _HANDLERS:
        raise Refused(f"intent: expected one of {', '.join(_HANDLERS)}, got {kind!r}")
    return _HANDLERS[kind]


def _agent(state: State, intent: Intent) -> Agent:
    name = str(intent.arguments.get("agent"))
    if name not in state.agents:
        raise Refused(f"agent {name!r}: expected one ever seen{nearest(name, state.agents)}")
    return state.agents[name]


def active_run(state: State, intent: Intent) -> ActiveRun | None:
    """The run that *intent* names, if it is in memory."""
    wanted = run_named(intent.arguments)
    for run in state.runs.values():
        if (run.row.dag_id, run.row.run_id) == wanted:
            return run
    return None


def run_named(arguments: Mapping[str, object]) -> tuple[str, str]:
    """``(dag_id, run_id)`` of the run that an intent names."""
    return str(arguments.get("dag_id")), str(arguments.get("run_id"))


def _known(intent: Intent, loaded: LoadedRun | None) -> LoadedRun:
    if loaded is None:
        raise Refused(f"run {_name(intent)}: expected a known run; see `flow runs list`")
    return loaded


def _name(intent: Intent) -> str:
    return "/".join(run_named(intent.arguments))


def _active_dag(state: State, intent: Intent) -> DagRow:
    dag_id = intent.arguments.get("dag_id")
    dag = state.dags.get(dag_id) if isinstance(dag_id, str) else None
    if dag is None or not dag.active:
        raise Refused(f"dag {dag_id!r}: expected an active DAG; see `flow dags list`")
    return dag


def _actor(intent: Intent) -> str:
    return str(intent.arguments.get("actor") or "user")
