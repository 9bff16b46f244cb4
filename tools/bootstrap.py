"""Make a checkout ready on a bare Debian machine: ``bootstrap.py venv``, ``services``, ``ansible``,
``nodes``, ``vm``.

Run by the Makefile with the system's Python, so standard library only. As root it installs from
the distribution what is missing; for anybody else it prints the one command that does. Safe to run
twice at once.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / ".installed"
OLDEST = (3, 11)


class BootstrapFailed(Exception):
    """What is missing, and what to do about it."""


def make_venv() -> None:
    """Make ``.venv`` with flow (editable) and its tools, unless it is there and up to date."""
    wanted = _fingerprint()
    with _locked(ROOT / ".venv.lock"):
        if STAMP.exists() and STAMP.read_text(encoding="utf-8") == wanted:
            return
        _ensure_ensurepip()
        _say(f"making {VENV} with {sys.executable}")
        _run([sys.executable, "-m", "venv", "--clear", str(VENV)])
        # Setuptools first and no build isolation: the pins then hold for the build too.
        _pip("setuptools")
        _pip("--no-build-isolation", "--editable", f"{ROOT}[dispatcher,dev]")
        STAMP.write_text(wanted, encoding="utf-8")


def make_ansible() -> None:
    """Make ``.venv-ansible``, apart from flow's own: what runs and checks the playbooks."""
    requirements = ROOT / "ansible" / "requirements.txt"
    parts = (sys.version, os.path.realpath(sys.executable), requirements.read_text("utf-8"))
    wanted = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    folder = ROOT / ".venv-ansible"
    stamp = folder / ".installed"
    with _locked(ROOT / ".venv.lock"):
        if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
            return
        _ensure_ensurepip()
        _say(f"making {folder} with {sys.executable}")
        _run([sys.executable, "-m", "venv", "--clear", str(folder)])
        pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
        _run([*pip, "install", "--quiet", "--no-deps", "--requirement", str(requirements)])
        stamp.write_text(wanted, encoding="utf-8")


def _fingerprint() -> str:
    """Changes when the environment has to be made anew."""
    parts = [str(ROOT), sys.version, os.path.realpath(sys.executable)]
    parts += [
        (ROOT / name).read_text(encoding="utf-8") for name in ("pyproject.toml", "constraints.txt")
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _ensure_ensurepip() -> None:
    # Debian splits it off into python3-venv.
    _apt_install(_missing_ensurepip)
    if _missing_ensurepip():
        raise BootstrapFailed(
            f"{sys.executable}: expected the module ensurepip, which python3-venv brings for "
            "Debian's own Python; run: make PYTHON=/usr/bin/python3"
        )


def _missing_ensurepip() -> list[str]:
    # By a fresh interpreter: this one would not see what apt-get has installed meanwhile.
    probe = [sys.executable, "-c", "import ensurepip, venv; ensurepip.version()"]
    done = subprocess.run(probe, stderr=subprocess.DEVNULL, check=False)
    return ["python3-venv"] if done.returncode else []


def _pip(*arguments: str) -> None:
    constraints = str(ROOT / "constraints.txt")
    command = [str(VENV / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
    _run([*command, "install", "--quiet", "--constraint", constraints, *arguments])


def ensure_services() -> None:
    """Make sure that RabbitMQ, PostgreSQL and tmux are there; the tests start their own ones."""
    _apt_install(_missing_services)
    if _missing_services():
        raise BootstrapFailed(f"expected {' and '.join(_missing_services())}, still missing")


def _missing_services() -> list[str]:
    missing = []
    if not Path("/usr/lib/rabbitmq/bin").is_dir() and not shutil.which("rabbitmq-server"):
        missing.append("rabbitmq-server")
    if not any(Path("/usr/lib/postgresql").glob("*/bin/initdb")) and not shutil.which("initdb"):
        missing.append("postgresql")
    if not shutil.which("tmux"):  # a test looks at the board in it
        missing.append("tmux")
    return missing


def ensure_nodes() -> None:
    """Make sure that nodes can be booted here, where that is possible at all: as root on Debian.

    Elsewhere this does nothing, and the harness says that it does not run.
    """
    if os.geteuid() == 0 and shutil.which("apt-get"):
        _apt_install(_missing_node_tools)


def ensure_vm() -> None:
    """The same for a machine with a kernel of its own."""
    if os.geteuid() == 0 and shutil.which("apt-get"):
        _apt_install(_missing_vm_tools)


def _missing_vm_tools() -> list[str]:
    tools = {
        "qemu-system-x86_64": "qemu-system-x86",
        "mmdebstrap": "mmdebstrap",
        "mkfs.ext4": "e2fsprogs",
    }
    return [package for tool, package in tools.items() if not shutil.which(tool)]


def _missing_node_tools() -> list[str]:
    tools = {
        "systemd-nspawn": "systemd-container",
        "mmdebstrap": "mmdebstrap",
        "ip": "iproute2",
        "ssh": "openssh-client",
        "openssl": "openssl",
    }
    return [package for tool, package in tools.items() if not shutil.which(tool)]


def _apt_install(missing: Callable[[], list[str]]) -> None:
    """Install the packages that *missing* names, if any."""
    packages = missing()
    if not packages:
        return
    command = f"apt-get install -y --no-install-recommends {' '.join(packages)}"
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise BootstrapFailed(f"{' and '.join(packages)}: not installed; run as root: {command}")
    # One at a time on this machine: apt-get waits for dpkg's lock, but not for that of its lists.
    # Whoever had the lock before may have installed the same.
    with _locked(Path("/var/lib/dpkg")):
        packages = missing()
        if not packages:
            return
        _say(f"installing {' '.join(packages)}")
        apt = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300"]
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        _run([*apt, "update"], environment)
        _run([*apt, "install", "-y", "--no-install-recommends", *packages], environment)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on *path*, a directory or a file that is made where missing."""
    flags = os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT
    descriptor = os.open(path, flags, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _run(command: list[str], environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, env=environment, check=False)
    if done.returncode:
        raise BootstrapFailed(f"{' '.join(command)}: exited with {done.returncode}")


def _say(text: str) -> None:
    print(f"bootstrap: {text}", file=sys.stderr, flush=True)


def main(arguments: list[str]) -> int:
    """The command line; see the module's docstring."""
    if sys.version_info < OLDEST:
        found = ".".join(map(str, sys.version_info[:3]))
        _say(
            f"{sys.executable}: expected Python 3.11 or newer, got {found}; "
            "name another one: make test PYTHON=/path/to/python3"
        )
        return 1
    steps = {
        "venv": make_venv,
        "services": ensure_services,
        "ansible": make_ansible,
        "nodes": ensure_nodes,
        "vm": ensure_vm,
    }
    if not arguments or any(name not in steps for name in arguments):
        _say(f"expected some of {', '.join(steps)}, got {' '.join(arguments) or 'nothing'}")
        return 2
    try:
        for name in arguments:
            steps[name]()
    except BootstrapFailed as error:
        _say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
