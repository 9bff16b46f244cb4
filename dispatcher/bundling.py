"""The bundle of the DAG folder, read and kept in the store before anything refers to it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from dispatcher.bundler import Bundle, BundleError, Bundler, Unsettled
from dispatcher.store import Store
from flow.bundle import shown
from flow.errors import GuardFailed

log = logging.getLogger("flow.dispatcher")

#: Where `flow dags errors` shows what is wrong with the folder as a whole.
WHOLE_FOLDER = "(bundle)"
#: Seconds between two looks for what nobody needs any more; it goes at the second such look.
PRUNE_INTERVAL = 600.0
#: Looks in a row at a folder that does not come to rest, before that is shown as an error.
_PATIENCE = 3
#: Bytes and files that are stored together.
_BATCH_BYTES = 1024 * 1024
_BATCH_FILES = 200

OnThread = Callable[..., Awaitable[Any]]


class Bundling:
    """One reign's. *on_thread* runs store calls apart from the writer, so that a large folder
    holds up no commit."""

    def __init__(
        self,
        bundler: Bundler,
        *,
        store: Store,
        on_thread: OnThread,
        on_writer: OnThread,
        epoch: int,
        wall: Callable[[], datetime],
    ) -> None:
        self._bundler = bundler
        self._store = store
        self._on_thread = on_thread
        self._on_writer = on_writer
        self._epoch = epoch
        self._wall = wall
        self._stored: Bundle | None = None
        self._problem: str | None = None
        """As it is recorded; ``None``: what an earlier reign has left there."""
        self._unsettled = 0
        self._storing = asyncio.Lock()

    async def current(self) -> Bundle | None:
        """The folder's bundle as it is now, stored; ``None``: there is none now, and the reason is
        recorded. Raises :class:`~flow.errors.StoreError`."""
        try:
            bundle = await asyncio.to_thread(self._bundler.look)
            if bundle is not self._stored:
                async with self._storing:
                    await self._store_all(bundle)
        except (Unsettled, GuardFailed) as error:
            self._unsettled += 1
            if self._unsettled >= _PATIENCE:
                await self._show(str(error))
            return None
        except BundleError as error:
            await self._show(str(error))
            return None
        except OSError:
            return None  # the processor, which reads the same folder, says why
        self._unsettled = 0
        await self._show("")
        if self._stored is None or self._stored.id != bundle.id:
            files, total = len(bundle.manifest.files), bundle.manifest.total
            log.info("bundle %s: %d files, %d bytes", shown(bundle.id), files, total)
        self._stored = bundle
        return bundle

    async def pruning(self) -> None:
        """Now and then remove what no DAG and no run needs."""
        before: set[str] = set()
        while True:
            await asyncio.sleep(PRUNE_INTERVAL)
            before = await self.prune(before)

    async def prune(self, before: set[str]) -> set[str]:
        """Remove what was unused *before* and still is; returns what is unused now."""
        async with self._storing:
            unused: set[str] = await self._on_thread(self._store.unused_bundles)
            try:
                kept = {self._stored.id} if self._stored else set()
                removed = await self._on_thread(self._store.prune_bundles, (unused & before) - kept)
            except GuardFailed as error:
                log.info("pruning bundles is put off: %s", error)
                return unused
        if removed:
            log.info("pruned %d files of bundles that nobody needs", removed)
        return unused - before

    async def _store_all(self, bundle: Bundle) -> None:
        if self._stored is not None and self._stored.id == bundle.id:
            return  # touched, but the same
        digests = {bundle.id, *(file.digest for file in bundle.manifest.files)}
        sizes = {file.digest: file.size for file in bundle.manifest.files}
        lacking = await self._on_thread(self._store.lacking, digests)
        for batch in _batches(lacking, sizes):
            contents = await asyncio.to_thread(self._read, bundle, batch)
            await self._on_thread(self._store.store_blobs, contents)
        await self._on_thread(self._store.store_bundle, bundle.id, digests, self._wall())

    def _read(self, bundle: Bundle, digests: Iterable[str]) -> dict[str, bytes]:
        return {digest: self._bundler.read(bundle, digest) for digest in digests}

    async def _show(self, problem: str) -> None:
        if problem == self._problem:
            return
        if problem:
            log.warning("the DAG folder is not shipped: %s", problem)
            await self._on_writer(
                self._store.record_error, self._epoch, WHOLE_FOLDER, problem, self._wall()
            )
        else:
            await self._on_writer(self._store.retire_file, self._epoch, WHOLE_FOLDER, self._wall())
        self._problem = problem


def _batches(digests: Iterable[str], sizes: Mapping[str, int]) -> Iterator[list[str]]:
    """In parts that are small enough to be held in memory, or of one large file."""
    batch: list[str] = []
    total = 0
    for digest in sorted(digests):
        size = sizes.get(digest, 0)
        if batch and (total + size > _BATCH_BYTES or len(batch) >= _BATCH_FILES):
            yield batch
            batch, total = [], 0
        batch.append(digest)
        total += size
    if batch:
        yield batch
