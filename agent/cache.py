"""Shipped DAG folders on this node's disk, shared by all agents of one FLOW_HOME.

``<home>/cache/`` holds ``blobs/`` (contents by SHA-256; ``.x`` beside it is the same content,
executable), ``trees/<bundle>/dags`` (a bundle as a folder: read-only, hard links to blobs, with its
manifest beside it), ``pins/<bundle>`` and ``new/``.

Nothing here is trusted: a blob is hashed when a tree is made of it, a tree when a process first
uses it. So nothing needs an fsync, and a damaged file costs a fetch. A tree in use is *pinned* with
a shared lock on its file in ``pins/``: the kernel gives it back when an agent dies. The time of
that file is that of its last use.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

from flow.bundle import Manifest, ShippedFile, digest_of, read_manifest, shown
from flow.errors import FlowError

#: A blob without a tree is left alone for so many seconds: a fetch may be about to need it.
YOUNG = 600.0
#: What an agent that died has left half done.
_ABANDONED = 24 * 3600.0
_BLOCK = 1024 * 1024
_FILE, _PROGRAM, _FOLDER = 0o444, 0o555, 0o555


class CannotFetch(FlowError):
    """A bundle cannot be had here: what the dispatcher sends is not what it says, or it is gone."""


class CodeCache:
    """The folder. All methods block and may raise :class:`OSError`."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._trees = folder / "trees"
        self._new = folder / "new"
        self._pins = folder / "pins"
        self._blobs = folder / "blobs"

    # -- blobs ---------------------------------------------------------------------------------

    def manifest(self, bundle: str) -> Manifest | None:
        """The manifest, if it is here and whole."""
        for path in (self._trees / bundle / "manifest", self._blob(bundle)):
            with contextlib.suppress(FileNotFoundError):
                content = path.read_bytes()
                if digest_of(content) == bundle:
                    return read_manifest(content)
        return None

    def lacking(self, manifest: Manifest) -> list[ShippedFile]:
        """One file for each content that is not here; damaged ones are removed."""
        found: dict[str, ShippedFile] = {}
        for file in manifest.files:
            if file.digest not in found and not self._is_whole(file.digest):
                found[file.digest] = file
        return list(found.values())

    def open_new(self) -> Path:
        """An empty file, to be written and given to :meth:`keep`."""
        for folder in (self._trees, self._new, self._pins, self._blobs):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._new / uuid.uuid4().hex
        path.touch(mode=0o600)
        return path

    def keep(self, path: Path, digest: str) -> str:
        """Take the file at *path* in as *digest*; returns the digest that it has. If that is
        another, the file is removed."""
        found = _hash(path)
        if found != digest:
            path.unlink()
            return found
        path.chmod(_FILE)
        blob = self._blob(digest)
        blob.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if blob.exists():  # another agent was faster, and folders are linked to that one
            path.unlink()
        else:
            path.replace(blob)
        return found

    def _blob(self, digest: str, *, executable: bool = False) -> Path:
        return self._blobs / digest[:2] / (f"{digest}.x" if executable else digest)

    def _is_whole(self, digest: str) -> bool:
        blob = self._blob(digest)
        try:
            if _hash(blob) == digest:
                blob.chmod(_FILE)  # a task that runs as root may have changed it through a link
                return True
        except FileNotFoundError:
            return False
        blob.unlink(missing_ok=True)
        return False

    # -- trees ---------------------------------------------------------------------------------

    def find(self, bundle: str) -> Path | None:
        """The bundle as a folder, if it is here and whole. One that is damaged is removed; what
        runs in it keeps what it has opened."""
        tree = self._trees / bundle
        if not tree.exists():
            return None
        manifest = self.manifest(bundle)
        if manifest is not None and all(_is_as(tree / "dags", file) for file in manifest.files):
            return tree / "dags"
        self._remove(tree)
        return None

    def build(self, bundle: str, manifest: Manifest) -> Path:
        """Make a folder of the bundle, whose contents are all here. Raises :class:`CannotFetch`
        when one has gone again."""
        self.open_new().unlink()
        tree = self._new / uuid.uuid4().hex
        try:
            self._fill(tree, bundle, manifest)
            try:
                tree.rename(self._trees / bundle)
            except OSError:
                # If another agent was faster, its tree is as good as this one.
                if not (self._trees / bundle).exists():
                    raise
        finally:
            if tree.exists():
                _remove_tree(tree)
        return self._trees / bundle / "dags"

    def _fill(self, tree: Path, bundle: str, manifest: Manifest) -> None:
        top = tree / "dags"
        top.mkdir(parents=True)
        (tree / "manifest").write_bytes(manifest.encode())
        folders = {top}
        for file in manifest.files:
            path = top / file.path
            if path.parent not in folders:
                path.parent.mkdir(parents=True, exist_ok=True)
                folders.update(parent for parent in path.parents if parent.is_relative_to(top))
            try:
                _link(self._source(file), path, _PROGRAM if file.executable else _FILE)
            except FileNotFoundError:
                raise CannotFetch(
                    f"bundle {shown(bundle)}: expected file {file.path!r} in the cache, got none; "
                    "raise [agent] cache_max_bytes"
                ) from None
        for folder in folders:
            folder.chmod(_FOLDER)

    def _source(self, file: ShippedFile) -> Path:
        """The blob with the right mode. Links share it, so there is one for each."""
        plain = self._blob(file.digest)
        if not file.executable:
            return plain
        program = self._blob(file.digest, executable=True)
        if not _is_as(program.parent, file, name=program.name):
            copy = self._new / uuid.uuid4().hex
            shutil.copyfile(plain, copy)
            copy.chmod(_PROGRAM)
            copy.replace(program)
        return program

    def _remove(self, tree: Path) -> None:
        """Out of the way in one step, then for good."""
        gone = self.open_new()
        gone.unlink()
        with contextlib.suppress(FileNotFoundError):
            tree.rename(gone)
            _remove_tree(gone)

    # -- use and eviction ----------------------------------------------------------------------

    def pin(self, bundle: str) -> int:
        """Keep the bundle's tree from eviction until the descriptor returned is closed."""
        self._pins.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._pins / bundle
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH)
                # An eviction may have removed the file between those two calls.
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(descriptor), path.stat()):
                        os.utime(path)
                        return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def evict(self) -> None:
        """Make room, if more is kept than should be: contents that no tree has, then trees, the
        one whose last use is longest ago first; never one that is pinned."""
        for left in self._new.iterdir():
            # Another fetch may take what it was at out of here at any moment.
            with contextlib.suppress(FileNotFoundError):
                if time.time() - left.lstat().st_mtime > _ABANDONED:
                    _remove_tree(left) if left.is_dir() else left.unlink(missing_ok=True)
        excess = self._sweep() - self._max_bytes if self._used() > self._max_bytes else 0
        for bundle in self._by_last_use() if excess > 0 else ():
            if self._evict_tree(bundle):
                excess = self._sweep() - self._max_bytes
            if excess <= 0:
                return

    def _used(self) -> int:
        return sum(found.st_size for _, found in self._files())

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        """All contents. Another agent may be sweeping, too, so one that has gone is left out."""
        for path in self._blobs.glob("*/*"):
            try:
                found = path.stat()
            except FileNotFoundError:
                continue
            yield path, found

    def _sweep(self) -> int:
        """Remove contents that no tree has; returns how many bytes stay."""
        stay = 0
        for path, found in self._files():
            if found.st_nlink == 1 and time.time() - found.st_mtime > YOUNG:
                path.unlink(missing_ok=True)
            else:
                stay += found.st_size
        return stay

    def _by_last_use(self) -> Iterable[str]:
        def used(tree: Path) -> float:
            try:
                return (self._pins / tree.name).stat().st_mtime
            except FileNotFoundError:
                return 0.0

        return [tree.name for tree in sorted(self._trees.iterdir(), key=used)]

    def _evict_tree(self, bundle: str) -> bool:
        """Whether the tree could be removed."""
        descriptor = os.open(self._pins / bundle, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            self._remove(self._trees / bundle)
            (self._pins / bundle).unlink(missing_ok=True)
            return True
        finally:
            os.close(descriptor)


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _is_as(folder: Path, file: ShippedFile, *, name: str = "") -> bool:
    """Whether the file is there with its content and its right to be run."""
    path = folder / (name or file.path)
    try:
        found = path.lstat()
        same = found.st_size == file.size and bool(found.st_mode & 0o100) == file.executable
        return same and not path.is_symlink() and _hash(path) == file.digest
    except OSError:
        return False


def _link(blob: Path, path: Path, mode: int) -> None:
    try:
        os.link(blob, path)
    except FileNotFoundError:
        raise
    except OSError:  # a file system without links, or too many of them
        shutil.copyfile(blob, path)
        path.chmod(mode)


def _remove_tree(tree: Path) -> None:
    """With its folders, which are read-only. Another agent may be at the same."""
    for folder, _, _ in os.walk(tree):
        with contextlib.suppress(FileNotFoundError):
            Path(folder).chmod(0o700)
    shutil.rmtree(tree, ignore_errors=True)
