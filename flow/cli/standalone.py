"""``flow standalone``: everything in one process, without any service."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from flow.cli.grammar import INTERRUPTED, Command
from flow.cli.invocation import Invocation, pass_invocation
from flow.cli.names import name
from flow.errors import ConfigError
from flow.states import RunState

if TYPE_CHECKING:
    from flow.cli.embedded import Embedded
    from flow.config import Config

#: What it reads of the settings: there is no broker.
SECTIONS = frozenset({"database", "dags", "core", "dispatcher", "agent", "lease", "logs"})


@click.command("standalone", cls=Command)
@click.option(
    "--run", "dag_id", metavar="DAG", type=name, help="Run this DAG once, print its tasks, stop."
)
@click.option("--slots", metavar="N", type=int, help="Tasks that run at the same time, in all.")
@click.option("--queues", metavar="Q1,Q2", help="Serve only these, instead of all that DAGs name.")
@pass_invocation
def standalone(
    invocation: Invocation, dag_id: str | None, slots: int | None, queues: str | None
) -> int:
    """Run a dispatcher and agents in this process, with an SQLite database in FLOW_HOME.

    It needs neither RabbitMQ nor PostgreSQL. Each queue has an agent `local-<queue>`; with
    --slots 1 tasks run one after another. The other commands work beside it. SIGTERM or SIGINT
    lets running tasks finish and stops; a second one kills them.
    """
    import asyncio

    from flow.reporting import setup_logging

    served = None if queues is None else tuple(queue.strip() for queue in queues.split(","))
    given = (("agent.slots", "--slots", slots), ("agent.queues", "--queues", served))
    options = {path: (option, value) for path, option, value in given if value is not None}
    config = invocation.config(SECTIONS, options)
    _check(config)
    quiet = dag_id is not None and not invocation.verbose
    setup_logging("standalone", "WARNING" if quiet else invocation.log_level)
    return asyncio.run(_serve(invocation, config, served, dag_id))


def _check(config: Config) -> None:
    if not config.database.is_sqlite:
        source = config.sources.get("database.url", "the settings")
        raise ConfigError(
            f"{source}: expected an SQLite database for `flow standalone`, got "
            f"{config.database.url}; unset it, or run `flow dispatcher` and `flow-agent`"
        )


async def _serve(
    invocation: Invocation, config: Config, queues: tuple[str, ...] | None, dag_id: str | None
) -> int:
    import asyncio

    from flow.cli.embedded import Embedded, Interrupted
    from flow.cli.onerun import check_folder

    if dag_id is not None:
        check_folder(config.dags.folder)
    code = 0
    async with Embedded(config, queues=queues, schedules=dag_id is None) as system:
        try:
            if dag_id is None:
                await system.until_done(asyncio.Event().wait())
            else:
                code = await system.until_done(_run_once(invocation, system, dag_id))
        except Interrupted:
            invocation.say("stopping: running tasks may finish; a second signal kills them")
            code = INTERRUPTED if dag_id is not None else 0
    return INTERRUPTED if system.signals > 1 else code


async def _run_once(invocation: Invocation, system: Embedded, dag_id: str) -> int:
    from flow.cli.liveboard import has_room, live_board
    from flow.cli.onerun import run_dag
    from flow.cli.tasks import print_tasks

    if has_room(sys.stdout):
        with live_board(invocation.config().database.url.reveal()):
            run = await run_dag(system, dag_id, {}, lambda _: None)  # the board says it
    else:
        run = await run_dag(system, dag_id, {}, invocation.say)
    print_tasks("table", await system.read(system.reader.tasks, run, datetime.now(UTC)))
    return int(run.state is not RunState.SUCCESS)
