"""From the DAG folder to a bundle: which files are shipped, and what they are.

Hashing costs only for files that changed. A bundle is what the folder was at one moment: after
files were hashed, the folder is looked at once more, and if anything has changed, it is done again.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from dispatcher.dagfolder import is_folder, leads_out
from dispatcher.flowignore import IGNORE_FILE, Ignored
from flow.bundle import Manifest, ShippedFile, digest_of, path_problem
from flow.errors import DagError

_BLOCK = 1024 * 1024
_ATTEMPTS = 3
_SHOWN_PROBLEMS = 20
#: Two changes within one tick of the kernel's clock may leave the same times (4 ms at 250 Hz; some
#: file systems are coarser): a file that changed just now is hashed again at the next look.
_TICK_SECONDS = 0.1
#: Executable by its owner.
_X = 0o100

Stamp = tuple[int, ...]


class BundleError(DagError):
    """The DAG folder cannot be shipped as it is."""


class Unsettled(BundleError):
    """The folder kept changing while it was read. The next look may find it at rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bytes: of one file, and of all files together."""

    file: int
    bundle: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """The folder at one moment. ``stamps`` tell whether a file is still the one that was shipped;
    they are those of :func:`flow.authoring.opened.stamp`."""

    id: str
    manifest: Manifest
    content: bytes
    """The manifest's canonical form."""
    stamps: Mapping[str, Stamp]
    paths: Mapping[str, Path]
    """Digest of a file to a place where it is found."""


@dataclass(frozen=True, slots=True)
class _Found:
    stamp: Stamp
    size: int
    executable: bool


@dataclass(frozen=True, slots=True)
class _Hashed:
    stamp: Stamp
    digest: str
    certain: bool


class Bundler:
    """Keeps the bundle of one folder up to date. All methods block."""

    def __init__(self, folder: Path, limits: Limits, wall: Callable[[], float] = time.time) -> None:
        self._folder = folder.absolute()
        self._limits = limits
        self._wall = wall
        self._hashed: dict[str, _Hashed] = {}
        self._bundle: Bundle | None = None

    def look(self) -> Bundle:
        """The folder as it is now; the same object while nothing changes.

        Raises :class:`BundleError` with all that stands against shipping it, :class:`Unsettled`
        when it does not come to rest, and :class:`OSError` when the folder cannot be read.
        """
        found = self._walk()
        for _ in range(_ATTEMPTS):
            if self._is_current(found):
                break
            changed = self._hash(found)
            again = self._walk()
            if not changed and again == found:
                self._make(found)
                break
            found = again
        else:
            raise Unsettled(
                f"{self._folder}: expected files at rest, got changes while they were read; "
                f"name files that change all the time in {IGNORE_FILE}"
            )
        assert self._bundle is not None
        return self._bundle

    def read(self, bundle: Bundle, digest: str) -> bytes:
        """The content of a file, or the manifest. Raises :class:`Unsettled` when it is another
        by now."""
        if digest == bundle.id:
            return bundle.content
        path = bundle.paths[digest]
        try:
            content = path.read_bytes()
        except OSError as error:
            raise Unsettled(f"{path}: expected the file just seen, got {error.strerror}") from None
        if digest_of(content) != digest:
            raise Unsettled(f"{path}: expected the file just seen, got a changed one")
        return content

    def _is_current(self, found: Mapping[str, _Found]) -> bool:
        return (
            self._bundle is not None
            and self._bundle.stamps == {path: each.stamp for path, each in found.items()}
            and all(hashed.certain for hashed in self._hashed.values())
        )

    def _make(self, found: Mapping[str, _Found]) -> None:
        manifest = Manifest.of(
            ShippedFile(path, self._hashed[path].digest, each.size, each.executable)
            for path, each in found.items()
        )
        content = manifest.encode()
        self._bundle = Bundle(
            id=digest_of(content),
            manifest=manifest,
            content=content,
            stamps={path: each.stamp for path, each in found.items()},
            paths={file.digest: self._folder / file.path for file in manifest.files},
        )

    # -- content -------------------------------------------------------------------------------

    def _hash(self, found: Mapping[str, _Found]) -> bool:
        """Know the digest of every file. Whether one changed meanwhile."""
        for gone in self._hashed.keys() - found.keys():
            del self._hashed[gone]
        changed, problems = False, []
        for path, each in found.items():
            known = self._hashed.get(path)
            if known is not None and known.stamp == each.stamp and known.certain:
                continue
            try:
                hashed = self._hash_file(path, each)
            except FileNotFoundError:
                hashed = None
            except OSError as error:
                problems.append(_unreadable(path, "file", error))
                continue
            if hashed is None:
                self._hashed.pop(path, None)
                changed = True
            else:
                self._hashed[path] = hashed
        _refuse(problems)
        return changed

    def _hash_file(self, path: str, found: _Found) -> _Hashed | None:
        """``None``: it changed while it was read."""
        digest = hashlib.sha256()
        with (self._folder / path).open("rb", buffering=0) as file:
            if _stamp(os.fstat(file.fileno())) != found.stamp:
                return None
            while block := file.read(_BLOCK):
                digest.update(block)
            if _stamp(os.fstat(file.fileno())) != found.stamp:
                return None
        certain = abs(self._wall() - found.stamp[-1] / 1e9) > _TICK_SECONDS
        return _Hashed(found.stamp, digest.hexdigest(), certain)

    # -- files ---------------------------------------------------------------------------------

    def _walk(self) -> dict[str, _Found]:
        """All files that are shipped, in order of their names. Raises :class:`BundleError`."""
        try:
            ignored = Ignored.of(self._folder)
        except DagError as error:
            raise BundleError(str(error)) from None
        walk = _Walk(self._folder, ignored)
        found = dict(sorted(walk.files()))
        problems = walk.problems
        for path, each in found.items():
            if problem := path_problem(path):
                problems.append(problem)
            if each.size > self._limits.file:
                problems.append(
                    f"{path}: expected at most {self._limits.file} bytes per file, got "
                    f"{each.size}; name it in {IGNORE_FILE}, or raise [dags] bundle_file_max_bytes"
                )
        total = sum(each.size for each in found.values())
        if total > self._limits.bundle:
            largest = max(found, key=lambda path: found[path].size)
            problems.append(
                f"{self._folder}: expected at most {self._limits.bundle} bytes in all, got {total} "
                f"(the largest file is {largest}); name what tasks do not need in {IGNORE_FILE}, "
                "or raise [dags] bundle_max_bytes"
            )
        _refuse(problems)
        return found


class _Walk:
    """One look at the folder. What cannot be shipped is collected in ``problems``."""

    def __init__(self, folder: Path, ignored: Ignored) -> None:
        self._folder = folder
        self._real = os.path.realpath(folder)
        self._ignored = ignored
        self.problems: list[str] = []

    def files(self) -> Iterator[tuple[str, _Found]]:
        """Path and what is known of each file. Raises :class:`OSError` for the folder itself."""
        pending: list[tuple[str, tuple[tuple[int, int], ...]]] = [("", ())]
        while pending:
            below, above = pending.pop()
            try:
                here = (self._folder / below).stat()
                own = (here.st_dev, here.st_ino)
                if own in above:  # a link to a folder that it is in
                    continue
                with os.scandir(self._folder / below) as entries:
                    inside = list(entries)
            except OSError as error:
                if not below:
                    raise
                if not isinstance(error, FileNotFoundError):
                    self.problems.append(_unreadable(below, "folder", error))
                continue
            for entry in inside:
                path = below + entry.name
                if self._left_out(entry, path):
                    continue
                if is_folder(entry):
                    pending.append((f"{path}/", (*above, own)))
                elif found := _look_at(entry):
                    yield path, found

    def _left_out(self, entry: os.DirEntry[str], path: str) -> bool:
        if self._ignored.leaves_out(path, folder=is_folder(entry)):
            return True
        real = leads_out(entry, self._real)
        if not real:
            return False
        self.problems.append(
            f"{path}: expected a link to a file of the DAG folder, got one to {real!r}; "
            f"copy that in, or name the link in {IGNORE_FILE}"
        )
        return True


def _look_at(entry: os.DirEntry[str]) -> _Found | None:
    try:
        found = entry.stat()
    except OSError:  # it has vanished, or is a link to nothing or to itself
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return _Found(_stamp(found), found.st_size, bool(found.st_mode & _X))


def _stamp(found: os.stat_result) -> Stamp:
    return (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _unreadable(path: str, kind: str, error: OSError) -> str:
    return (
        f"{path}: expected a readable {kind}, got {error.strerror}; "
        f"change its rights, or name it in {IGNORE_FILE}"
    )


def _refuse(problems: list[str]) -> None:
    if problems:
        more = len(problems) - _SHOWN_PROBLEMS
        shown = problems[:_SHOWN_PROBLEMS] + ([f"and {more} more"] if more > 0 else [])
        raise BundleError("\n".join(shown))
