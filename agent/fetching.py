"""Fetches bundles from the dispatcher, over the broker alone.

Pieces are asked for a few at a time and come on the agent's control queue: a grant waits behind a
megabyte at most. What does not come is asked for again, for as long as somebody wants it; so
a lost connection, a restarted dispatcher and another leader cost time only.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.cache import CannotFetch, CodeCache
from flow import wire
from flow.bundle import PIECE_BYTES, Manifest, shown
from flow.errors import MessageError

log = logging.getLogger(__name__)

#: Bytes and pieces asked for and not yet there.
WINDOW_BYTES = 4 * PIECE_BYTES
WINDOW_PIECES = 64
#: Seconds without a piece before those asked for are asked for again.
RESEND = 3.0

Name = tuple[str, int]
"""(digest, number of the piece)"""


class Download:
    """Which pieces to ask for. Pure; sizes are known but for that of a manifest (``None``)."""

    def __init__(self, blobs: Iterable[tuple[str, int | None]]) -> None:
        self._sizes = dict(blobs)
        self._left = {digest: _count(size) for digest, size in self._sizes.items()}
        self._waiting: deque[Name] = deque(
            (digest, number) for digest, count in self._left.items() for number in range(count)
        )
        self._asked: dict[Name, int] = {}

    @property
    def done(self) -> bool:
        """Everything is there."""
        return not self._left

    def next(self) -> list[Name]:
        """What to ask for now: nothing while half of the window is still to come."""
        total = sum(self._asked.values())
        if total > WINDOW_BYTES // 2 or len(self._asked) > WINDOW_PIECES // 2:
            return []
        more: list[Name] = []
        while self._waiting and len(self._asked) < WINDOW_PIECES:
            length = self._length(self._waiting[0])
            if self._asked and total + length > WINDOW_BYTES:
                break
            self._asked[self._waiting[0]] = length
            total += length
            more.append(self._waiting.popleft())
        return more

    def again(self) -> list[Name]:
        """What was asked for and has not come."""
        return list(self._asked)

    def wants(self, name: Name) -> bool:
        """Whether it was asked for and has not come."""
        return name in self._asked

    def arrived(self, piece: wire.Piece) -> bool:
        """Take note of a piece that is wanted; whether it was the last one of its blob.

        Raises :class:`~flow.errors.MessageError` when it is not of the size it should have."""
        name = (piece.digest, piece.number)
        if self._sizes[piece.digest] is None:
            self._sizes[piece.digest] = piece.size
            self._left[piece.digest] = _count(piece.size)
            self._waiting.extend((piece.digest, number) for number in range(1, _count(piece.size)))
        expected = self._length(name)
        if piece.size != self._sizes[piece.digest] or len(piece.data) != expected:
            raise MessageError(
                f"expected {expected} bytes of {self._sizes[piece.digest]}, "
                f"got {len(piece.data)} of {piece.size}"
            )
        del self._asked[name]
        self._left[piece.digest] -= 1
        if self._left[piece.digest]:
            return False
        del self._left[piece.digest]
        return True

    def _length(self, name: Name) -> int:
        digest, number = name
        size = self._sizes[digest]
        return (
            PIECE_BYTES if size is None else max(0, min(PIECE_BYTES, size - number * PIECE_BYTES))
        )


def _count(size: int | None) -> int:
    return max(1, -(-(size or 0) // PIECE_BYTES))


@dataclass(frozen=True, slots=True)
class _Blob:
    """What is to be fetched. ``what`` names it in messages."""

    digest: str
    size: int | None
    what: str


class Fetcher:
    """Makes bundles available. *send* publishes a request; *session* is the agent's current one."""

    def __init__(
        self,
        cache: CodeCache,
        *,
        agent: str,
        session: Callable[[], int],
        send: Callable[[wire.PiecesWanted], None],
        resend: float = RESEND,
    ) -> None:
        self._cache = cache
        self._agent = agent
        self._session = session
        self._send = send
        self._resend = resend
        self._inboxes: set[asyncio.Queue[wire.Piece | wire.NoPiece]] = set()

    def arrived(self, reply: wire.Piece | wire.NoPiece) -> None:
        """The dispatcher has answered."""
        for inbox in self._inboxes:
            inbox.put_nowait(reply)

    async def fetch(self, bundle: str) -> Path:
        """The bundle as a folder, fetched where needed. Waits for as long as it takes.

        Raises :class:`CannotFetch` with the reason, and :class:`OSError` of the disk."""
        found = await asyncio.to_thread(self._cache.find, bundle)
        if found is not None:
            return found
        began = time.monotonic()
        manifest = await self._manifest(bundle)
        lacking = await asyncio.to_thread(self._cache.lacking, manifest)
        files = [_Blob(file.digest, file.size, f"file {file.path!r}") for file in lacking]
        await self._download(bundle, files)
        folder = await asyncio.to_thread(self._cache.build, bundle, manifest)
        await asyncio.to_thread(self._cache.evict)
        log.info(
            "bundle %s: fetched %d of %d files, %d bytes, in %.2f s",
            shown(bundle),
            len(lacking),
            len(manifest.files),
            sum(file.size for file in lacking),
            time.monotonic() - began,
        )
        return folder

    async def _manifest(self, bundle: str) -> Manifest:
        manifest = await asyncio.to_thread(self._read_manifest, bundle)
        if manifest is None:
            await self._download(bundle, [_Blob(bundle, None, "manifest")])
            manifest = await asyncio.to_thread(self._read_manifest, bundle)
        if manifest is None:
            raise CannotFetch(f"bundle {shown(bundle)}: its manifest has vanished from the cache")
        return manifest

    def _read_manifest(self, bundle: str) -> Manifest | None:
        try:
            return self._cache.manifest(bundle)
        except MessageError as error:
            raise CannotFetch(f"bundle {shown(bundle)}: {error}") from None

    async def _download(self, bundle: str, blobs: Sequence[_Blob]) -> None:
        work = _Work(self._cache, bundle, blobs)
        inbox: asyncio.Queue[wire.Piece | wire.NoPiece] = asyncio.Queue()
        self._inboxes.add(inbox)
        try:
            while not work.download.done:
                self._ask(bundle, work.download.next())
                replies = await self._replies(inbox)
                if replies:
                    # A slow disk must not hold up a heartbeat.
                    await asyncio.to_thread(work.take, replies)
                else:
                    self._ask(bundle, work.download.again())
        finally:
            self._inboxes.discard(inbox)
            work.clear()

    async def _replies(
        self, inbox: asyncio.Queue[wire.Piece | wire.NoPiece]
    ) -> list[wire.Piece | wire.NoPiece]:
        """What has come, at least one; nothing after a while without any."""
        try:
            async with asyncio.timeout(self._resend):
                replies = [await inbox.get()]
        except TimeoutError:
            return []
        while not inbox.empty():
            replies.append(inbox.get_nowait())
        return replies

    def _ask(self, bundle: str, names: list[Name]) -> None:
        if names:
            pieces = tuple(wire.PieceName(digest, number) for digest, number in names)
            self._send(
                wire.PiecesWanted(
                    agent=self._agent, session=self._session(), bundle=bundle, pieces=pieces
                )
            )


class _Work:
    """One download on its way to the disk. All methods block."""

    def __init__(self, cache: CodeCache, bundle: str, blobs: Sequence[_Blob]) -> None:
        self.download = Download((blob.digest, blob.size) for blob in blobs)
        self._cache = cache
        self._bundle = bundle
        self._what = {blob.digest: blob.what for blob in blobs}
        self._paths: dict[str, Path] = {}

    def take(self, replies: Iterable[wire.Piece | wire.NoPiece]) -> None:
        """Write what has come. Raises :class:`CannotFetch`."""
        for reply in replies:
            if not self.download.wants((reply.digest, reply.number)):
                continue
            if isinstance(reply, wire.NoPiece):
                raise self._failure(
                    reply.digest, "expected the dispatcher to have it, got none; run the DAG anew"
                )
            try:
                last = self.download.arrived(reply)
            except MessageError as error:
                raise self._failure(reply.digest, str(error)) from None
            path = self._paths.get(reply.digest)
            if path is None:
                path = self._paths[reply.digest] = self._cache.open_new()
            # Buffered: a bare write(2) on a disk that fills up may write a part and say nothing.
            with path.open("r+b") as file:
                file.seek(reply.number * PIECE_BYTES)
                file.write(reply.data)
            if last:
                self._finish(reply.digest)

    def clear(self) -> None:
        """Remove what is half there."""
        for path in self._paths.values():
            path.unlink(missing_ok=True)

    def _finish(self, digest: str) -> None:
        found = self._cache.keep(self._paths.pop(digest), digest)
        if found != digest:
            raise self._failure(
                digest,
                f"expected content with SHA-256 {shown(digest)}, got {shown(found)}; "
                "its copy in the database is damaged",
            )

    def _failure(self, digest: str, problem: str) -> CannotFetch:
        return CannotFetch(f"bundle {shown(self._bundle)}: {self._what[digest]}: {problem}")
