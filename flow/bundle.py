"""What is shipped to nodes: a bundle is the DAG folder at one moment, as a list of its files.

The manifest has one canonical form in bytes, and its SHA-256 is the bundle's id: so a manifest is
stored, sent and verified exactly like the files that it names.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Annotated

import msgspec

from flow.errors import MessageError

#: Files are stored and sent in pieces of this many bytes; as base64 in JSON, a piece stays far
#: below what a message may have (flow.wire.MAX_BYTES).
PIECE_BYTES = 256 * 1024
#: Digits of a bundle's id that messages show.
_SHOWN = 12

Digest = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]


class ShippedFile(msgspec.Struct, frozen=True, array_like=True, order=True):
    """One file. ``path`` is relative to the DAG folder, with ``/``."""

    path: str
    digest: Digest
    """SHA-256 of its content, in hex."""
    size: Annotated[int, msgspec.Meta(ge=0)]
    executable: bool = False


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """All files of a bundle, in the order of their paths."""

    files: tuple[ShippedFile, ...]
    version: int = 1

    @classmethod
    def of(cls, files: Iterable[ShippedFile]) -> Manifest:
        """The manifest of *files*, given in any order."""
        return cls(files=tuple(sorted(files)))

    def encode(self) -> bytes:
        """The canonical form, which :func:`read_manifest` reads."""
        return msgspec.json.encode(self)

    @property
    def total(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def digest_of(content: bytes) -> str:
    """SHA-256 in hex: the id of a bundle, given its manifest's canonical form."""
    return hashlib.sha256(content).hexdigest()


def shown(bundle: str) -> str:
    """A bundle's id, as short as people want it."""
    return bundle[:_SHOWN]


def read_manifest(content: bytes) -> Manifest:
    """Read what :meth:`Manifest.encode` wrote.

    Raises :class:`~flow.errors.MessageError` for anything else, and for paths that do not stay
    inside of a folder: whoever writes the files down relies on that.
    """
    try:
        manifest = msgspec.json.decode(content, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MessageError(f"manifest: expected a list of files, got {error}") from None
    if manifest.version != 1:
        raise MessageError(
            f"manifest: expected version 1, got {manifest.version}; upgrade this machine"
        )
    folders: set[str] = set()
    before = ""
    for file in manifest.files:
        if problem := path_problem(file.path):
            raise MessageError(f"manifest: {problem}")
        if file.path <= before:
            raise MessageError(
                f"manifest: expected each path once and in order, got {file.path!r} "
                f"after {before!r}"
            )
        before = file.path
        parts = file.path.split("/")
        folders.update("/".join(parts[:depth]) for depth in range(1, len(parts)))
    both = folders.intersection(file.path for file in manifest.files)
    if both:
        raise MessageError(f"manifest: expected a file or a folder, got both: {min(both)!r}")
    return manifest


def path_problem(path: str) -> str:
    """Why *path* cannot be that of a shipped file, or ``""``."""
    parts = path.split("/")
    if "" in parts or "." in parts or ".." in parts or "\0" in path:
        return f"path {path!r}: expected one that stays inside of the folder"
    if not path.isascii() and re.search("[\ud800-\udfff]", path):
        return f"path {path!r}: expected a name in UTF-8"
    return ""
