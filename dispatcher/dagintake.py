"""What the processor finds in DAG files, recorded and put to use."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any

from dispatcher.bundling import WHOLE_FOLDER
from dispatcher.core.records import DagRow
from dispatcher.processor import ParsedFile, ScanResult
from dispatcher.publisher import Publisher
from dispatcher.store import Store
from dispatcher.store.catalogue import DagFile

log = logging.getLogger("flow.dispatcher")

#: Files recorded in one transaction: many at a start, few enough not to hold up other commits.
_AT_ONCE = 100


class DagIntake:
    """Records under one reign's *epoch*; the core learns of a version after its commit."""

    def __init__(
        self,
        *,
        store: Store,
        on_writer: Callable[..., Awaitable[Any]],
        epoch: int,
        publisher: Publisher,
        changed: Callable[[Sequence[DagRow]], None],
        wall: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._on_writer = on_writer
        self._epoch = epoch
        self._publisher = publisher
        self._changed = changed
        self._wall = wall

    async def take(self, result: ScanResult) -> None:
        """Record one result. Raises :class:`~flow.errors.StoreError`."""
        good = [parsed for parsed in result.files if parsed.error is None]
        for at in range(0, len(good), _AT_ONCE):
            await self._record(good[at : at + _AT_ONCE], result.bundle)
        for parsed in result.files:
            if parsed.error is not None:
                await self._record_error(parsed.file, parsed.error)
        if result.bundle is not None and result.moved:
            moved: list[DagRow] = await self._on_writer(
                self._store.use_bundle, self._epoch, result.bundle, result.moved, self._wall()
            )
            self._changed(moved)
        gone = set(result.removed)
        if result.present is not None:
            # Deleted while nobody was looking.
            known = await self._on_writer(self._store.dag_files)
            gone |= known - set(result.present) - {WHOLE_FOLDER}
        for file in sorted(gone):
            rows = await self._on_writer(self._store.retire_file, self._epoch, file, self._wall())
            log.info("DAG file %s is gone", file)
            self._changed(rows)

    async def _record(self, files: Sequence[ParsedFile], bundle: str | None) -> None:
        rows: list[DagRow] = await self._on_writer(
            self._store.record_files,
            self._epoch,
            [DagFile(parsed.file, parsed.dags, parsed.source) for parsed in files],
            self._wall(),
            bundle=bundle,
        )
        # Before any run: a queue that no agent serves yet keeps its tasks as well.
        await self._publisher.declare({task.queue for row in rows for task in row.spec.tasks})
        self._changed(rows)
        for row in rows:
            log.info("DAG %s: version %d of %s", row.dag_id, row.version_id, row.spec.file)

    async def _record_error(self, file: str, error: str) -> None:
        log.warning("DAG file %s: %s", file, error)
        await self._on_writer(self._store.record_error, self._epoch, file, error, self._wall())
