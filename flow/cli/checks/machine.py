"""The machine itself: its clock, its folders."""

from __future__ import annotations

import os
import pwd
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from flow.cli.checks.finding import Judgement, note, ok, problem, warning
from flow.cli.checks.units import is_booted, output_of

#: Less free room than both is little: a share, and bytes.
_SHARE, _LEAST = 0.05, 1024**3
#: File systems on which flock(2), fsync(2) or SQLite's locks depend on somebody else's server.
_REMOTE = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "afs", "ceph", "glusterfs", "lustre"})
_REMOTE_PREFIXES = ("fuse.sshfs", "fuse.glusterfs", "fuse.s3fs")
MOUNTS = Path("/proc/self/mounts")
#: Made by systemd in a container, with the name of its manager.
CONTAINER = Path("/run/systemd/container")
#: Written and fsynced to see whether the disk takes it: more than a half-filled block has room for.
_PROBE = 64 * 1024


def check_clock() -> Iterator[Judgement]:
    """Whether something sets it. Leases do not depend on it, times in listings do."""
    if CONTAINER.exists():
        yield note("this is a container: its clock is that of its host")
        return
    question = ("timedatectl", "show", "--property=NTPSynchronized", "--value")
    yield judge_clock(output_of(*question) if is_booted() else None)


def judge_clock(said: str | None) -> Judgement:
    """*said* is what ``timedatectl`` answers, if it is there and does."""
    match (said or "").strip():
        case "yes":
            return ok("set by time servers")
        case "no":
            return warning(
                "no time server sets this machine's clock",
                "install chrony or systemd-timesyncd",
            )
    return note("whether a time server sets it is not known from here")


def check_folder(folder: Path, user: str, mounts: Path = MOUNTS) -> Iterator[Judgement]:
    """Whether flow's process, which runs as *user* (empty: as whoever asks), can work in
    *folder*."""
    if not folder.is_dir():
        parent = next(each for each in folder.parents if each.is_dir())
        if folder.exists():
            yield problem(f"{folder} is no folder", "remove it, or set another")
        elif os.access(parent, os.W_OK):
            yield note(f"{folder} is not there yet: flow makes it")
        else:
            what = f"{folder} is not there, and cannot be made in {parent}"
            yield problem(what, "make it, for the user that flow runs as")
        return
    yield from _owner(folder, user)
    yield _room(folder)
    kind = file_system(folder, mounts.read_text())
    if kind in _REMOTE or kind.startswith(_REMOTE_PREFIXES):
        yield warning(
            f"{folder} is on {kind}, where locks and fsync are another machine's word",
            "set home to a folder on a local disk",
        )


def _owner(folder: Path, user: str) -> Iterator[Judgement]:
    if os.geteuid() == 0 and user and user != "root":
        found = folder.stat().st_uid
        if pwd.getpwnam(user).pw_uid != found:
            what = f"{folder} belongs to user id {found}, and flow runs as {user}"
            yield problem(what, f"chown -R {user}: {folder}")
            return
    try:
        # It has no name, so nothing is left behind.
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            file.write(os.urandom(_PROBE))
            os.fsync(file.fileno())
    except OSError as error:
        yield problem(
            f"{folder} takes no file: {error.strerror}",
            "make room, or let the user that flow runs as write there",
        )


def _room(folder: Path) -> Judgement:
    found = os.statvfs(folder)
    return judge_room(folder, found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize)


def judge_room(folder: Path, free: int, size: int) -> Judgement:
    """*free* and *size* in bytes."""
    share = free / size if size else 1.0
    text = f"{free / 1024**3:.1f} GiB free, {share:.0%}"
    if free < _LEAST or share < _SHARE:
        return warning(
            f"{folder} has little room: {text}",
            "make some; an agent whose disk is full takes no tasks, a dispatcher keeps no logs",
        )
    return ok(f"{folder}: {text}")


def file_system(folder: Path, mounts: str) -> str:
    """The kind of the file system that *folder* is on, by what the kernel has mounted (fstab(5):
    blanks in paths are octal)."""
    best, kind = -1, ""
    place = folder.resolve()
    for line in mounts.splitlines():
        fields = line.split()
        point = Path(fields[1].replace(r"\040", " "))
        # Of several at one place the last one is on top.
        if place.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), fields[2]
    return kind


def check_folders(folders: Iterable[Path], user: str) -> Iterator[Judgement]:
    """Each, once."""
    for folder in dict.fromkeys(folders):
        yield from check_folder(folder, user)


def check_dags(folder: Path, python: str | None, environ: Mapping[str, str]) -> Iterator[Judgement]:
    """The folder that the dispatcher reads, and what it reads it with."""
    import shutil

    if not folder.is_dir():
        yield warning(f"{folder} is not there", "make it, or set dags.folder")
    else:
        # What cannot be read is told by `flow dags errors`.
        files = sum(1 for _ in folder.rglob("*.py"))
        many = f"{files} Python file{'' if files == 1 else 's'}"
        yield ok(f"{folder} has {many}; `flow dags errors` lists those that cannot be read")
    if python is not None and shutil.which(python, path=environ.get("PATH")) is None:
        what = f"dags.python is {python!r}, which is no program here"
        yield problem(what, "install it, or change dags.python")
