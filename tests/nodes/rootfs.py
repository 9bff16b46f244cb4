"""The root file system that all nodes start from: Debian with systemd, SSH and Python."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

from tests.nodes.machine import CACHE, only_one

MIRROR = "http://deb.debian.org"
RELEASE = "bookworm"
SOURCES = (
    f"deb {MIRROR}/debian {RELEASE} main\n"
    f"deb {MIRROR}/debian {RELEASE}-updates main\n"
    f"deb {MIRROR}/debian-security {RELEASE}-security main\n"
)
#: What an installer leaves on a machine that Ansible can reach; the playbook has to bring the rest.
PACKAGES = (
    "systemd",
    "systemd-sysv",
    "dbus",
    "iproute2",
    "openssh-server",
    "python3",
    "python3-apt",
)
APT = (
    # A mirror may be a snapshot, whose lists expired long ago.
    'Acquire::Check-Valid-Until "false"',
    'Acquire::Check-Date "false"',
    'Acquire::Languages "none"',
)
#: Nodes are thrown away: dpkg need not wait for the disk.
DPKG = "force-unsafe-io\n"
VERSION = "1"


def key() -> str:
    """Changes when the root file system has to be made anew."""
    recipe = "\0".join((VERSION, SOURCES, *PACKAGES, *APT, DPKG))
    return hashlib.sha256(recipe.encode()).hexdigest()[:16]


def ensure() -> Path:
    """The root file system's folder, made by mmdebstrap where it is not there yet.

    Raises ``subprocess.CalledProcessError`` when that fails; its output has been shown.
    """
    folder = CACHE / f"rootfs-{key()}"
    with only_one(CACHE / "rootfs.lock"):
        if folder.is_dir():
            return folder
        making = CACHE / f"rootfs-{key()}.making-{os.getpid()}"
        command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}"]
        command += [f"--aptopt={option}" for option in APT]
        command += [RELEASE, str(making), "-"]
        subprocess.run(command, input=SOURCES, text=True, check=True)
        (making / "etc/dpkg/dpkg.cfg.d/flow-test").write_text(DPKG)
        making.rename(folder)
    return folder
