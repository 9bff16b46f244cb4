"""Keeps reading the DAG folder: what changed is parsed in processes of its own and handed on.

A file is parsed again when it changes, or a file of the folder does that it read (a helper module,
a YAML file). One that failed is also tried again when any Python file of the folder changes, and
from time to time, since the cause may lie outside. What did not change costs a stat.

A file's DAGs are handed on together with the bundle (the whole folder at one moment) that they were
read from: a parse counts only if the file and all it read are in the bundle as the parse saw them.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from dispatcher import dagfolder
from dispatcher.bundler import Bundle
from dispatcher.dagfolder import Listing
from dispatcher.dagparser import Answer, Limits, Parser
from flow.dagspec import DagSpec

log = logging.getLogger(__name__)

_MAX_RETRY_SECONDS = 600.0
#: Files that no DAG file reads are looked for less often; a bundle has them too.
_LOOKS_PER_BUNDLE = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedFile:
    """One DAG file as it is now. With an ``error`` there are no ``dags``: the last good ones stay
    active, which is the receiver's business."""

    file: str
    """Relative to the DAG folder."""
    digest: str
    """SHA-256 of ``source``, in hex."""
    dags: tuple[DagSpec, ...] = ()
    source: str = ""
    error: str | None = None
    """All that is wrong, one problem per line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanResult:
    """What is new since the last result."""

    files: tuple[ParsedFile, ...] = ()
    removed: tuple[str, ...] = ()
    """Files that are gone, or no longer mention DAGs."""
    present: tuple[str, ...] | None = None
    """When everything in the folder has been handed on: all its DAG files. DAGs of any other file
    are gone (deleted while nobody was looking). ``None`` while that is not known."""
    bundle: str | None = None
    """Of the DAGs in ``files``, and from now on of those in the files ``moved``."""
    moved: tuple[str, ...] = ()
    """Files that did not change, but the folder around them did."""


@dataclass(slots=True, kw_only=True)
class _File:
    """What is known of one file of the folder."""

    stamp: tuple[int, ...] = ()
    depends_on: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    tried_at: float = 0.0
    failures: int = 0
    died: bool = False
    outcome: ParsedFile | None = None
    """Of itself, whatever other files define. ``None``: not parsed yet, or no DAG file."""
    claims: Mapping[str, int] = field(default_factory=dict)
    """Its dag_ids, as of the last time it was good, to the line of each."""
    delivered: ParsedFile | None = None
    steady: bool = True
    """Nothing it was read from changed while it was."""
    bundle: str | None = None
    """The one it was delivered with."""


class Processor:
    """Watches one DAG folder until it is cancelled.

    ``python`` is the interpreter for DAG files (``None``: the dispatcher's own). Seconds:
    ``list_interval`` between two looks at the folder, ``min_file_process_interval`` between two
    parses of one file, ``parse_timeout`` for one parse, ``retry_interval`` until a failed file is
    tried again (doubled each time). ``processes`` files are parsed at once, each with at most
    ``parse_memory`` bytes. ``max_active_runs`` and ``max_active_tasks`` are for DAGs that say
    nothing. ``bundle`` returns the folder's bundle as it is now, once it is safely kept; while
    there is none (it returns ``None``), good files are held back. Without it nothing is shipped.
    """

    def __init__(  # noqa: PLR0913  these are the settings, all given by name
        self,
        folder: Path,
        *,
        python: str | None = None,
        default_timezone: str = "UTC",
        list_interval: float = 1.0,
        parse_timeout: float = 30.0,
        processes: int = 2,
        min_file_process_interval: float = 0.0,
        parse_memory: int | None = 2 * 1024**3,
        max_active_runs: int = 16,
        max_active_tasks: int = 16,
        retry_interval: float = 30.0,
        bundle: Callable[[], Awaitable[Bundle | None]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # Links are left as they are: a folder may be exchanged by pointing its link elsewhere.
        self._folder = folder.absolute()
        self._defaults = {
            "default_timezone": default_timezone,
            "max_active_runs": max_active_runs,
            "max_active_tasks": max_active_tasks,
        }
        self._limits = Limits(seconds=parse_timeout, memory=parse_memory)
        self._list_interval = list_interval
        self._min_interval = min_file_process_interval
        self._retry_interval = retry_interval
        self._clock = clock
        interpreter = python or sys.executable
        self._parsers = [Parser(interpreter, self._folder, os.environ) for _ in range(processes)]
        self._idle = asyncio.LifoQueue[Parser]()
        for parser in self._parsers:
            self._idle.put_nowait(parser)
        self._files: dict[str, _File] = {}
        self._claimants: dict[str, set[str]] = {}
        self._running: dict[asyncio.Task[Answer | None], str] = {}
        self._listing: Listing | None = None
        self._helpers: Mapping[str, tuple[int, ...]] = {}
        self._next_bundle = -math.inf
        self._folder_problem = ""
        self._announced = False
        self._take_bundle = bundle
        self._bundle: Bundle | None = None
        self._delivered_bundle = ""
        self._held: set[str] = set()
        """Good files that wait for a bundle in which they are as they were read."""
        self._roots = (f"{self._folder}{os.sep}", f"{os.path.realpath(self._folder)}{os.sep}")

    async def run(self, on_result: Callable[[ScanResult], Awaitable[None]]) -> None:
        """Look, parse and tell *on_result*, one call at a time, until cancelled.

        The first results deliver every DAG file there is, as it becomes ready. What *on_result*
        raises ends it.
        """
        try:
            next_look = self._clock()
            while True:
                removed: list[str] = []
                if self._clock() >= next_look:
                    next_look = self._clock() + self._list_interval
                    removed = await self._look()
                done = [task for task in self._running if task.done()]
                touched = self._absorb(done)
                await self._deliver(touched, removed, on_result)
                if not self._running:
                    # Interpreters are not kept for a folder at rest.
                    await self._close_parsers()
                await self._wait(next_look - self._clock())
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)
            await self._close_parsers()

    async def _wait(self, seconds: float) -> None:
        seconds = max(seconds, 0.0)
        if self._running:
            await asyncio.wait(self._running, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        else:
            await asyncio.sleep(seconds)

    async def _close_parsers(self) -> None:
        await asyncio.gather(*(parser.close() for parser in self._parsers))

    # -- looking ---------------------------------------------------------------------------------

    async def _look(self) -> list[str]:
        """Start parsing what needs it. Returns the files that are gone."""
        watched = {path for file in self._files.values() for path in file.depends_on}
        try:
            listing, helpers = await asyncio.to_thread(self._stat, watched)
        except OSError as error:
            self._complain(
                f"DAG folder {self._folder}: expected a readable folder, "
                f"got {error.strerror}; create it, or set [dags] folder"
            )
            return []  # an unmounted folder is no reason to retire every DAG
        self._complain("")
        changed = self._listing is not None and listing.files != self._listing.files
        at_rest = self._is_at_rest(helpers, folder_changed=changed)
        self._listing, self._helpers = listing, helpers
        busy = set(self._running.values())
        for name, stamp in () if at_rest else listing.files.items():
            file = self._files.setdefault(name, _File())
            if name not in busy and self._is_due(file, stamp, helpers, folder_changed=changed):
                file.stamp = stamp
                file.tried_at = self._clock()
                self._running[asyncio.create_task(self._examine(name))] = name
        if self._take_bundle is not None and (not at_rest or self._clock() >= self._next_bundle):
            self._next_bundle = self._clock() + _LOOKS_PER_BUNDLE * self._list_interval
            self._bundle = await self._take_bundle()
        return [name for name in self._files if listing.lacks(name)]

    def _is_at_rest(self, helpers: Mapping[str, tuple[int, ...]], *, folder_changed: bool) -> bool:
        """Whether no file can be due: a folder of a thousand files that nobody touches is looked at
        every second."""
        return (
            self._listing is not None
            and not folder_changed
            and helpers == self._helpers
            and not (self._running or self._held or self._min_interval)
            and (self._take_bundle is None or self._bundle is not None)
            and not any(file.failures or not file.stamp for file in self._files.values())
        )

    def _stat(self, watched: Iterable[str]) -> tuple[Listing, dict[str, tuple[int, ...]]]:
        return dagfolder.list_folder(self._folder), dagfolder.stamps(watched)

    def _is_due(
        self,
        file: _File,
        stamp: tuple[int, ...],
        helpers: Mapping[str, tuple[int, ...]],
        *,
        folder_changed: bool,
    ) -> bool:
        if not file.stamp:
            return True
        since = self._clock() - file.tried_at
        if since < self._min_interval:
            return False
        if file.stamp != stamp or any(helpers[path] != at for path, at in file.depends_on.items()):
            return True
        if not file.failures:
            return False
        wait = min(self._retry_interval * 2 ** (file.failures - 1), _MAX_RETRY_SECONDS)
        return since >= wait or (folder_changed and not file.died)

    def _complain(self, problem: str) -> None:
        if problem and problem != self._folder_problem:
            log.warning("%s", problem)
        elif self._folder_problem and not problem:
            log.info("DAG folder %s can be read again", self._folder)
        self._folder_problem = problem

    # -- parsing ---------------------------------------------------------------------------------

    async def _examine(self, name: str) -> Answer | None:
        """``None``: the file does not mention DAGs."""
        if not await asyncio.to_thread(dagfolder.may_define_dags, self._folder / name):
            return None
        parser = await self._idle.get()
        try:
            answer = await parser.parse(name, self._defaults, self._limits)
        finally:
            self._idle.put_nowait(parser)
        path = str(self._folder / name)
        before = {path: self._files[name].stamp, **answer.depends_on}
        after = await asyncio.to_thread(dagfolder.stamps, before)
        self._files[name].steady = after == before
        return answer

    def _absorb(self, done: Iterable[asyncio.Task[Answer | None]]) -> set[str]:
        """Take finished parses in. Returns the files that they may concern."""
        touched: set[str] = set()
        for task in done:
            name = self._running.pop(task)
            file, answer = self._files[name], task.result()
            file.depends_on = answer.depends_on if answer else {}
            file.died = bool(answer and answer.died)
            failed = answer is not None and answer.error is not None
            file.failures = file.failures + 1 if failed else 0
            file.outcome = _parsed(name, answer) if answer else None
            if not failed:
                dags = answer.dags if answer else ()
                touched |= self._claim(name, {dag.dag_id: dag.line for dag in dags})
            touched.add(name)
        return touched

    # -- one file per DAG ------------------------------------------------------------------------

    def _claim(self, name: str, claims: Mapping[str, int]) -> set[str]:
        """Note which DAGs a file defines now. Returns all files that define one of those, or of
        those it defined before."""
        before, self._files[name].claims = self._files[name].claims, claims
        concerned: set[str] = set()
        for dag_id in {*before, *claims}:
            claimants = self._claimants.setdefault(dag_id, set())
            concerned |= claimants
            if dag_id in claims:
                claimants.add(name)
            else:
                claimants.discard(name)
            if not claimants:
                del self._claimants[dag_id]
        return concerned

    def _resolved(self, name: str) -> ParsedFile | None:
        """The file's outcome, given what other files define: of two that define the same DAG,
        the one whose name sorts first has it."""
        file = self._files[name]
        outcome = file.outcome
        if outcome is None or outcome.error is not None:
            return outcome
        problems = []
        for dag_id, line in file.claims.items():
            other = min(self._claimants[dag_id])
            if other != name:
                place = f"{dagfolder.printable(other)}:{self._files[other].claims[dag_id]}"
                problems.append(
                    f"{outcome.file}:{line}: DAG {dag_id!r}: expected a dag_id used once, "
                    f"got one that {place} has already; rename one of the two"
                )
        return replace(outcome, dags=(), error="\n".join(problems)) if problems else outcome

    # -- bundles ---------------------------------------------------------------------------------

    def _is_shipped(self, name: str) -> bool:
        """Whether the file, and all it read, are in the bundle as they were read."""
        if self._take_bundle is None:
            return True
        file, bundle = self._files[name], self._bundle
        if bundle is None or not file.steady or bundle.stamps.get(name) != file.stamp:
            return False
        for path, stamp in file.depends_on.items():
            # What is not shipped (hidden or ignored) changes no bundle.
            if bundle.stamps.get(self._relative(path), stamp) != stamp:
                return False
        return True

    def _relative(self, path: str) -> str:
        root = next((root for root in self._roots if path.startswith(root)), "")
        return path[len(root) :]

    def _moved(self, touched: set[str]) -> tuple[str, ...]:
        """Good files that are as delivered, but for the bundle."""
        if self._bundle is None:
            return ()
        changed = self._bundle.id != self._delivered_bundle
        self._delivered_bundle = self._bundle.id
        moved = []
        for name in sorted(self._files if changed else touched & self._files.keys()):
            file = self._files[name]
            good = file.delivered is not None and file.delivered.error is None
            if good and file.bundle != self._bundle.id and file.delivered == file.outcome:
                if name in self._running.values() or not self._is_shipped(name):
                    # It is being read again, or is about to be.
                    continue
                file.bundle = self._bundle.id
                moved.append(dagfolder.printable(name))
        return tuple(moved)

    # -- telling ---------------------------------------------------------------------------------

    async def _deliver(
        self,
        touched: set[str],
        removed: Iterable[str],
        on_result: Callable[[ScanResult], Awaitable[None]],
    ) -> None:
        gone: list[str] = []
        for name in removed:
            if name not in self._running.values():
                touched |= self._claim(name, {}) - {name}
                if self._files.pop(name).delivered:
                    gone.append(dagfolder.printable(name))
        files: list[ParsedFile] = []
        self._held &= self._files.keys()
        for name in sorted((touched | self._held) & self._files.keys()):
            file, resolved = self._files[name], self._resolved(name)
            self._held.discard(name)
            if resolved is None and file.delivered is not None:
                gone.append(dagfolder.printable(name))
            elif resolved is not None and resolved != file.delivered:
                if resolved.error is None and not self._is_shipped(name):
                    self._held.add(name)
                    continue
                files.append(resolved)
                if resolved.error is None and self._bundle is not None:
                    file.bundle = self._bundle.id
            file.delivered = resolved
        moved = self._moved(touched)
        news = files or gone or moved or not self._announced
        present = self._present() if news else None
        if files or gone or moved or (present is not None and not self._announced):
            self._announced = self._announced or present is not None
            await on_result(
                ScanResult(
                    files=tuple(files),
                    removed=tuple(sorted(gone)),
                    present=present,
                    bundle=self._bundle.id if self._bundle is not None else None,
                    moved=moved,
                )
            )

    def _present(self) -> tuple[str, ...] | None:
        if self._running or self._held or self._listing is None or self._listing.unreadable:
            return None
        if self._folder_problem:
            return None
        return tuple(
            file.delivered.file for _, file in sorted(self._files.items()) if file.delivered
        )


def _parsed(name: str, answer: Answer) -> ParsedFile:
    return ParsedFile(
        file=dagfolder.printable(name),
        digest=hashlib.sha256(answer.source.encode("utf-8", "surrogatepass")).hexdigest(),
        dags=answer.dags if answer.error is None else (),
        source=answer.source,
        error=answer.error,
    )
