"""Virtual environments of the peers: ``python -m bench.peers.setup celery airflow``.

Outside of the checkout, in ``$FLOW_BENCH_CACHE`` or ``~/.cache/flow-bench``, one per peer, with
exactly what ``requirements/<peer>.txt`` pins, compiled to bytecode. An environment that is up to
date is left alone, so the command can be repeated.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.contender import ContenderFailed

REQUIREMENTS = Path(__file__).resolve().parent / "requirements"
PEERS = ("celery", "airflow")
_STAMP = ".installed"


def cache() -> Path:
    """The folder of the environments."""
    return Path(os.environ.get("FLOW_BENCH_CACHE") or Path.home() / ".cache" / "flow-bench")


def environment(peer: str) -> Path:
    """The environment of *peer*; raises :class:`ContenderFailed` if it is not there or not what
    its pins say."""
    folder = cache() / peer
    stamp = folder / _STAMP
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != _fingerprint(peer):
        raise ContenderFailed(
            f"{folder}: expected {peer} as pinned in {REQUIREMENTS / peer}.txt, found none or "
            f"another; run: python -m bench.peers.setup {peer}"
        )
    return folder


def pinned(peer: str, package: str) -> str:
    """The version of *package* in the environment of *peer*."""
    lines = (REQUIREMENTS / f"{peer}.txt").read_text(encoding="utf-8").splitlines()
    return next(line.partition("==")[2] for line in lines if line.startswith(f"{package}=="))


def install(peer: str) -> Path:
    """Make the environment of *peer*, unless it is up to date; its folder.

    Raises :class:`subprocess.CalledProcessError` when the index does not have what is pinned."""
    folder = cache() / peer
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{peer}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            return environment(peer)
        except ContenderFailed:
            print(f"making {folder}", flush=True)
        _run([sys.executable, "-m", "venv", "--clear", str(folder)])
        python = folder / "bin" / "python"
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        _run([*pip, "--no-deps", "--requirement", str(REQUIREMENTS / f"{peer}.txt")])
        # pip compiles what it installs, but says nothing when it could not; some packages also
        # ship templates that end in .py and are none, so the status is not looked at.
        subprocess.run(
            [str(python), "-m", "compileall", "-q", str(folder / "lib")],
            env=_clean(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
        (folder / _STAMP).write_text(_fingerprint(peer), encoding="utf-8")
    return folder


def _fingerprint(peer: str) -> str:
    """Changes when the environment has to be made anew."""
    pins = (REQUIREMENTS / f"{peer}.txt").read_text(encoding="utf-8")
    return hashlib.sha256(f"{sys.version}\0{pins}".encode()).hexdigest()


def _run(command: Sequence[str]) -> None:
    subprocess.run(command, env=_clean(), check=True)


def _clean() -> dict[str, str]:
    """The user's environment (proxies, indexes) without what would keep bytecode from being made
    or let other packages in."""
    foreign = ("PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "PYTHONHOME", "PIP_REQUIRE_VIRTUALENV")
    return {name: value for name, value in os.environ.items() if name not in foreign}


def main(arguments: Sequence[str]) -> int:
    """The command line; see the module's docstring."""
    peers = list(arguments) or list(PEERS)
    unknown = [peer for peer in peers if peer not in PEERS]
    if unknown:
        print(f"bench.peers.setup: expected {' or '.join(PEERS)}, got {unknown[0]!r}")
        return 2
    for peer in peers:
        print(f"{peer}: {install(peer)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
