"""What this machine must have so that nodes can be booted on it; and the place where runs live."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

#: Kept between runs: root file system, packages, wheels. Each under a key of its recipe.
CACHE = Path("/var/cache/flow-tests")
#: One folder per run, on a disk rather than in a tmpfs: databases of three nodes live there.
RUNS = Path("/var/tmp")  # noqa: S108 -- mkdtemp makes the names
PREFIX = "flow-nodes-"

#: Command -> the Debian package that has it.
TOOLS = {
    "systemd-nspawn": "systemd-container",
    "mmdebstrap": "mmdebstrap",
    "ip": "iproute2",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "unshare": "util-linux",
    "openssl": "openssl",
}


def obstacles() -> list[str]:
    """Why nodes cannot be booted here, one line each; empty where they can."""
    found = []
    if os.geteuid() != 0:
        found.append("expected to be root: nodes need namespaces, mounts and a bridge of their own")
    release = Path("/etc/os-release")
    text = release.read_text(encoding="utf-8") if release.exists() else ""
    if "ID=debian" not in text.splitlines():
        found.append("expected Debian: the nodes' root file system is made with its tools and keys")
    probe = ["unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc", "true"]
    if not found and shutil.which("unshare") and subprocess.run(probe, check=False).returncode:
        found.append("expected the right to make namespaces and mounts: containers rarely have it")
    missing = sorted({package for tool, package in TOOLS.items() if shutil.which(tool) is None})
    if missing:
        found.append(f"not installed; run: apt-get install {' '.join(missing)}")
    return found


@contextmanager
def run_folder() -> Iterator[Path]:
    """A folder for one run. It is locked while the run lives, so that others can tell."""
    with ExitStack() as undo:
        # Nobody else may look at it between its making and its locking.
        with only_one(CACHE / "runs.lock"):
            folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=RUNS))
            folder.chmod(0o755)
            lock = undo.enter_context((folder / "lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        undo.callback(remove, folder)
        yield folder


def sweep() -> None:
    """Remove what runs left behind that were killed before they could tidy up."""
    with only_one(CACHE / "runs.lock"):
        for folder in RUNS.glob(f"{PREFIX}*"):
            with contextlib.suppress(FileNotFoundError), (folder / "lock").open("r+") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                remove(folder)


def remove(folder: Path) -> None:
    """End what is left of a run: its cgroups, then its files. Namespaces took the rest along."""
    for root in cgroup_roots():
        leftover = root / folder.name
        if leftover.is_dir():
            for path, _, _ in os.walk(leftover, topdown=False):
                Path(path).rmdir()
    shutil.rmtree(folder)


def cgroup_roots() -> list[Path]:
    """The hierarchies in which systemd tracks processes: one, or two on a hybrid host."""
    base = Path("/sys/fs/cgroup")
    if (base / "cgroup.procs").exists():
        return [base]
    return [base / name for name in ("unified", "systemd") if (base / name).is_dir()]


@contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on the file *path*, which is made where missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
