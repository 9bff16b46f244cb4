"""``flow dags test`` and ``flow tasks test``: a DAG or a task here and now, and nothing is kept."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flow.cli.grammar import INTERRUPTED, Command
from flow.cli.invocation import Invocation, pass_invocation
from flow.cli.names import dag_argument, task_argument
from flow.cli.trigger import conf_option, parse_conf
from flow.errors import UnknownName, nearest
from flow.states import RunState

if TYPE_CHECKING:
    from dispatcher.processor import ScanResult
    from flow.cli.console import Console
    from flow.cli.embedded import Embedded
    from flow.config import Config
    from flow.dagspec import DagSpec

#: What it reads of the settings: neither broker nor database.
SECTIONS = frozenset({"dags", "core", "dispatcher", "agent", "lease"})


@click.command("test", cls=Command)
@dag_argument
@conf_option
@pass_invocation
def test_dag(invocation: Invocation, dag_id: str, conf: str | None) -> int:
    """Run a DAG here and now, without database or broker.

    Prints what its tasks write; exits with 0 when the run succeeds, with 1 when it fails. Nothing
    of it is kept.
    """
    return _try(invocation, Trial(dag_id), parse_conf(conf))


@click.command("test", cls=Command)
@dag_argument
@task_argument
@conf_option
@pass_invocation
def test_task(invocation: Invocation, dag_id: str, task_id: str, conf: str | None) -> int:
    """Run one task of a DAG here and now, as if all before it had succeeded.

    Prints what it writes; exits with 0 when it succeeds, with 1 when it fails. Nothing of it is
    kept.
    """
    return _try(invocation, Trial(dag_id, task_id), parse_conf(conf))


class Trial:
    """What is to be tried: one DAG, or one task of it alone."""

    def __init__(self, dag_id: str, task_id: str | None = None) -> None:
        self.dag_id = dag_id
        self.task_id = task_id

    def select(self, result: ScanResult) -> ScanResult:
        """Leave out everything else, and the schedule. Raises :class:`UnknownName`."""
        files = (
            replace(
                parsed, dags=tuple(self._only(d) for d in parsed.dags if d.dag_id == self.dag_id)
            )
            for parsed in result.files
        )
        return replace(result, files=tuple(files))

    def _only(self, dag: DagSpec) -> DagSpec:
        tasks = dag.tasks
        if self.task_id is not None:
            tasks = tuple(task for task in tasks if task.task_id == self.task_id)
            if not tasks:
                known = [task.task_id for task in dag.tasks]
                remedy = nearest(self.task_id, known) or f"; it has {', '.join(sorted(known))}"
                raise UnknownName(
                    f"task {self.task_id!r}: expected a task of dag {dag.dag_id!r}{remedy}"
                )
            tasks = tuple(replace(task, upstream=(), trigger_rule="all_success") for task in tasks)
        return replace(dag, tasks=tasks, schedule=None, catchup=False)


def _try(invocation: Invocation, trial: Trial, conf: Mapping[str, Any]) -> int:
    import asyncio

    from flow.cli.onerun import check_folder
    from flow.reporting import setup_logging

    config = invocation.config(SECTIONS)
    check_folder(config.dags.folder)
    setup_logging("test", invocation.log_level if invocation.verbose else "WARNING")
    with tempfile.TemporaryDirectory(prefix="flow-test-", ignore_cleanup_errors=True) as home:
        return asyncio.run(_run(invocation, _inside(config, Path(home)), trial, conf))


def _inside(config: Config, home: Path) -> Config:
    """The same settings, with everything that is written in *home*."""
    from flow.config import SecretUrl

    return replace(
        config,
        home=home,
        database=replace(config.database, url=SecretUrl(f"sqlite:///{home}/flow.db")),
        logs=replace(config.logs, folder=home / "logs"),
    )


async def _run(
    invocation: Invocation, config: Config, trial: Trial, conf: Mapping[str, Any]
) -> int:
    from flow.cli.console import Console
    from flow.cli.embedded import Embedded, Interrupted

    async with Embedded(config, select=trial.select, hurry=True) as system:
        console = Console(system)
        await console.attach()
        try:
            return await system.until_done(_shown(invocation, system, console, trial, conf))
        except Interrupted:
            return INTERRUPTED


async def _shown(
    invocation: Invocation,
    system: Embedded,
    console: Console,
    trial: Trial,
    conf: Mapping[str, Any],
) -> int:
    import asyncio

    from flow.cli.onerun import run_dag

    async def run() -> int:
        ended = await run_dag(system, trial.dag_id, conf, invocation.say)
        await console.settled()
        return int(ended.state is not RunState.SUCCESS)

    printing, running = asyncio.ensure_future(console.run()), asyncio.ensure_future(run())
    try:
        await asyncio.wait({printing, running}, return_when=asyncio.FIRST_COMPLETED)
        if printing.done():
            printing.result()  # stdout is gone, or it would go on
        return running.result()
    finally:
        for task in (printing, running):
            task.cancel()
        await asyncio.gather(printing, running, return_exceptions=True)
