"""``flow dags trigger``: ask for a run, say what stands in its way, and wait for it if wanted."""

from __future__ import annotations

import json
import secrets
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn

import click

from flow.cli.grammar import Command, output_option
from flow.cli.invocation import Invocation, pass_invocation
from flow.cli.names import dag_argument
from flow.cli.output import print_line
from flow.cli.requests import answered, ask
from flow.cli.watch import Watch
from flow.errors import FlowError, UsageError
from flow.states import RunState

if TYPE_CHECKING:
    from dispatcher.store.reader import Reader
    from dispatcher.store.views import DagView, RunView

_PAUSE = 0.25
_SHOWN = 80


conf_option = click.option("--conf", metavar="JSON", help="Parameters of the run: a JSON object.")


@click.command("trigger", cls=Command)
@dag_argument
@conf_option
@click.option("--wait", is_flag=True, help="Follow the run; exit with 0 on success, 1 on failure.")
@output_option
@pass_invocation
def trigger(
    invocation: Invocation, dag_id: str, conf: str | None, *, wait: bool, output: str
) -> int:
    """Start a run of a DAG and print its id."""
    parameters = parse_conf(conf)
    reader = invocation.reader()
    dag = active_dag(reader, dag_id)
    _warn_of_obstacles(invocation, reader, dag)
    run_id = new_run_id(datetime.now(UTC), secrets.token_hex(2))
    request = {"dag_id": dag.dag_id, "run_id": run_id, "conf": parameters}
    asked = ask(invocation, reader, "trigger", request)
    if output == "table":
        print(run_id, flush=True)
    state = None
    if wait:
        run = _created(reader, dag.dag_id, run_id, asked.intent_id)
        state = Watch(invocation.say, reader).until_ended(run)
    elif asked.done:
        state = _created(reader, dag.dag_id, run_id, asked.intent_id).state
    if output == "json":
        print_line({"run_id": run_id, "dag_id": dag.dag_id, "state": state})
    return int(wait and state is not RunState.SUCCESS)


def active_dag(reader: Reader, dag_id: str) -> DagView:
    """The DAG, which can run. Raises :class:`FlowError`."""
    dag = reader.dag(dag_id)
    if not dag.active:
        raise FlowError(
            f"dag {dag_id!r}: expected an active DAG, but {dag.spec.file} no longer holds it; "
            "see `flow dags list` and `flow dags errors`"
        )
    return dag


def parse_conf(text: str | None) -> dict[str, Any]:
    """The JSON object in *text*; none at all is an empty one. Raises :class:`UsageError`."""
    if text is None:
        return {}

    def refuse(name: str) -> NoReturn:
        raise UsageError(f"--conf: expected JSON, got {name}, which JSON does not have")

    try:
        value = json.loads(text, parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise UsageError(
            f"--conf: expected a JSON object, got {_short(text)}: {_lower(error.msg)} at line "
            f"{error.lineno} column {error.colno}"
        ) from None
    except (RecursionError, ValueError) as error:  # a thousand brackets, a number of 5,000 digits
        raise UsageError(f"--conf: expected a JSON object, got {_short(text)}: {error}") from None
    if not isinstance(value, dict):
        raise UsageError(f"--conf: expected a JSON object, got {_short(text)}")
    return value


def new_run_id(now: datetime, suffix: str) -> str:
    """``manual__<time>__<suffix>``: unique even where two are triggered in one microsecond."""
    return f"manual__{now.astimezone(UTC).isoformat(timespec='microseconds')}__{suffix}"


def _warn_of_obstacles(invocation: Invocation, reader: Reader, dag: DagView) -> None:
    from dispatcher.waiting import QueueLoad, never_fits, no_agent, shape_of

    if dag.paused:
        invocation.warn(f"dag {dag.dag_id} is paused: the run waits for `flow dags unpause`")
    if any(error.file == dag.spec.file for error in reader.dag_errors()):
        invocation.warn(
            f"{dag.spec.file} cannot be read: the run is of its last good version; "
            "see `flow dags errors`"
        )
    loads = reader.queue_loads()
    tasks_of: dict[str, list[str]] = {}
    for task in dag.spec.tasks:
        load = loads.get(task.queue, QueueLoad())
        takes = shape_of(task.resources)
        missing = no_agent(task.queue, load) or never_fits(task.queue, takes, load)
        tasks_of.setdefault(missing, []).append(task.task_id)
    tasks_of.pop("", None)
    for missing, tasks in tasks_of.items():
        noun = "task" if len(tasks) == 1 else "tasks"
        invocation.warn(f"{missing}; {noun} {', '.join(tasks)} will wait for one")


def _created(reader: Reader, dag_id: str, run_id: str, intent_id: int) -> RunView:
    """The run, once a dispatcher has created it, however late. Raises :class:`FlowError` when it
    is refused."""
    while True:
        run = reader.run(dag_id, run_id)
        if run is not None:
            return run
        answered(reader, intent_id)
        time.sleep(_PAUSE)


def _short(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
