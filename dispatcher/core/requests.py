"""What commands ask for: intents, each carried out once, in the transaction that closes it."""

from __future__ import annotations

from dispatcher.core.placing import release_held
from dispatcher.core.records import CloseIntent, DagRow, Intent, SetPaused
from dispatcher.core.runs import create_run, start_waiting_runs
from dispatcher.core.state import Effects, Instant, State


def carry_out(state: State, intent: Intent, now: Instant, out: Effects) -> None:
    """Carry *intent* out, or close it with the reason why not."""
    error = ""
    dag_id = intent.arguments.get("dag_id")
    dag = state.dags.get(dag_id) if isinstance(dag_id, str) else None
    if dag is None or not dag.active:
        error = f"dag {dag_id!r}: expected an active DAG; see `flow dags list`"
    elif intent.kind == "trigger":
        error = _trigger(state, dag, intent, now, out)
    elif intent.kind in ("pause", "unpause"):
        _set_paused(state, dag, intent, now, out)
    else:
        error = f"intent: expected trigger, pause or unpause, got {intent.kind!r}"
    out.writes.append(CloseIntent(intent_id=intent.id, at=now.wall, error=error))
    if error:
        out.notes.append(f"intent {intent.id} is refused: {error}")


def _trigger(state: State, dag: DagRow, intent: Intent, now: Instant, out: Effects) -> str:
    run_id, conf = intent.arguments.get("run_id"), intent.arguments.get("conf") or {}
    if not isinstance(run_id, str) or not isinstance(conf, dict):
        return f"trigger of dag {dag.dag_id!r}: expected a run_id and a conf object"
    create_run(state, dag.dag_id, run_id, conf, now, out, actor=_actor(intent))
    out.notes.append(f"run {dag.dag_id}/{run_id} was triggered")
    return ""


def _set_paused(state: State, dag: DagRow, intent: Intent, now: Instant, out: Effects) -> None:
    paused = intent.kind == "pause"
    if dag.paused == paused:
        return
    dag.paused = paused
    actor = _actor(intent)
    out.writes.append(SetPaused(dag_id=dag.dag_id, paused=paused, at=now.wall, actor=actor))
    if not paused:
        release_held(state, dag.dag_id)
        start_waiting_runs(state, dag.dag_id, now, out)


def _actor(intent: Intent) -> str:
    return str(intent.arguments.get("actor") or "user")
