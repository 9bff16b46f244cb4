"""Looking over the code cache without changing it: for ``flow doctor``, beside running agents.

The cache trusts nothing that it holds, so a damaged file does no harm (``agent.cache``); but disks
do not damage one alone.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from flow.bundle import digest_of, read_manifest
from flow.errors import FlowError

_BLOCK = 1024 * 1024


@dataclass(slots=True)
class Audit:
    """What was found."""

    files: int = 0
    size: int = 0
    """Bytes of contents kept; what is linked counts once."""
    checked: int = 0
    damaged: list[Path] = field(default_factory=list)


def audit(folder: Path, go_on: Callable[[], bool]) -> Audit:
    """Hash what is in *folder* for as long as *go_on* says so; files are counted in any case. What
    an agent removes meanwhile is left out. Raises OSError for what may not be read."""
    found = Audit()
    seen: set[tuple[int, int]] = set()
    for path, digest in _kept(folder, found):
        try:
            status = path.lstat()
            # Trees are links to contents, where the file system has links.
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            whole = _hash(path) == digest if go_on() else None
        except FileNotFoundError:
            continue
        found.files += 1
        found.size += status.st_size
        if whole is not None:
            found.checked += 1
            if not whole:
                found.damaged.append(path)
    return found


def _kept(folder: Path, found: Audit) -> Iterator[tuple[Path, str]]:
    """Every file with the SHA-256 that it should have."""
    for path in folder.glob("blobs/*/*"):
        yield path, path.name.removesuffix(".x")
    for tree in folder.glob("trees/*"):
        try:
            content = (tree / "manifest").read_bytes()
            if digest_of(content) != tree.name:
                found.damaged.append(tree / "manifest")
                continue
            manifest = read_manifest(content)
        except FileNotFoundError:
            continue
        except FlowError:
            found.damaged.append(tree / "manifest")
            continue
        for file in manifest.files:
            yield tree / "dags" / file.path, file.digest


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    # A link would lead elsewhere; none belongs here.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
