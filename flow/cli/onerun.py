"""One DAG run from its trigger to its end, inside an embedded flow."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flow.cli.invocation import actor
from flow.cli.requests import answered
from flow.cli.trigger import active_dag, new_run_id
from flow.cli.watch import Watch
from flow.errors import ConfigError, UnknownName, nearest
from flow.states import RUN_TERMINAL
from flow.topology import LOGS

if TYPE_CHECKING:
    from dispatcher.store.views import RunView
    from flow.cli.embedded import Embedded

#: Seconds between two looks, and how many times as long as a look the database rests at least.
_PAUSE = 0.03
_REST = 4


def check_folder(folder: Path) -> None:
    """Raise :class:`~flow.errors.ConfigError` where there are no DAG files to be found."""
    if not folder.is_dir():
        raise ConfigError(
            f"dags.folder: expected a folder, got none at {folder}; "
            "create it, or set FLOW_DAGS_FOLDER"
        )


async def run_dag(
    system: Embedded, dag_id: str, conf: Mapping[str, Any], say: Callable[[str], None]
) -> RunView:
    """Trigger *dag_id* once its file has been read; the run, once it has ended and the output of
    its tasks is stored. *say* is told what happens.

    Raises :class:`~flow.errors.FlowError` when it cannot be triggered.
    """
    run = await _triggered(system, dag_id, conf)
    watch = Watch(say, system.reader)
    while True:
        began = time.monotonic()
        run = await system.read(watch.look, run)
        if run.state in RUN_TERMINAL:
            break
        await asyncio.sleep(max(_PAUSE, _REST * (time.monotonic() - began)))
    await system.settled(LOGS)
    say(f"run {run.name}: {run.state}")
    return run


async def _triggered(system: Embedded, dag_id: str, conf: Mapping[str, Any]) -> RunView:
    scan, reader = system.scan, system.reader
    await scan.until_known(dag_id)
    if dag_id not in scan.dags:
        await _check_known(system, dag_id)
    await system.until_served()
    now = datetime.now(UTC)
    run_id = new_run_id(now, secrets.token_hex(2))
    request = {"dag_id": dag_id, "run_id": run_id, "conf": dict(conf)}
    intent_id = await system.read(reader.request, "trigger", request, actor=actor(), at=now)
    system.wake()
    while (run := await system.read(reader.run, dag_id, run_id)) is None:
        await system.read(answered, reader, intent_id)
        await asyncio.sleep(_PAUSE)
    return run


async def _check_known(system: Embedded, dag_id: str) -> None:
    """Its last good version may be known from earlier."""
    try:
        await system.read(active_dag, system.reader, dag_id)
    except UnknownName:
        remedy = nearest(dag_id, system.scan.found) or "; these were found: " + (
            ", ".join(sorted(system.scan.found)) or "none"
        )
        first = f"dag {dag_id!r}: expected a DAG of the files in {system.folder}{remedy}"
        raise UnknownName("\n".join([first, *system.scan.errors.values()])) from None
