"""The disk of a machine with a kernel of its own: Debian, flow, and what is to be checked there."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from tests.nodes.machine import CACHE, only_one
from tests.nodes.rootfs import APT, RELEASE, SOURCES
from tests.nodes.wheels import wheelhouse

GUEST = Path(__file__).with_name("guest")
PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "udev", "kmod", "initramfs-tools"),
    *("linux-image-cloud-amd64", "python3", "python3-venv"),
)
#: What would take the emulated CPU's time, or the console.
MASKED = (
    *("serial-getty@ttyS0.service", "getty@tty1.service", "apt-daily.timer"),
    *("apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "fstrim.timer"),
    *("systemd-networkd-wait-online.service", "systemd-timesyncd.service"),
)
#: In the machine while it is being made.
HOOKS = (
    'chroot "$1" useradd --system --create-home --home-dir /var/lib/flow flow',
    f'chroot "$1" systemctl mask {" ".join(MASKED)}',
    'echo flowvm > "$1/etc/hostname"',
    'rm -rf "$1"/var/lib/apt/lists/*',
)
SIZE = "3G"


def base() -> Path:
    """The folder of a root file system with a kernel, made by mmdebstrap where it is not there yet.

    Raises ``subprocess.CalledProcessError`` when that fails; its output has been shown.
    """
    recipe = "\0".join((RELEASE, SOURCES, *PACKAGES, *APT, *HOOKS))
    key = hashlib.sha256(recipe.encode()).hexdigest()[:16]
    folder = CACHE / f"vm-{key}"
    with only_one(CACHE / "vm.lock"):
        if folder.is_dir():
            return folder
        making = CACHE / f"vm-{key}.making-{os.getpid()}"
        command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}"]
        command += [f"--aptopt={option}" for option in APT]
        command += [f"--customize-hook={hook}" for hook in HOOKS]
        command += ["--dpkgopt=force-unsafe-io", RELEASE, str(making), "-"]
        subprocess.run(command, input=SOURCES, text=True, check=True)
        making.rename(folder)
    return folder


def disk(folder: Path, system: Path) -> Path:
    """A disk image in *folder*: *system*, with flow installed as its users have it (a wheel, and no
    way out), and what is in ``guest``.

    Raises ``subprocess.CalledProcessError``; the output has been shown.
    """
    root = folder / "root"
    # With owners, which shutil.copytree does not keep.
    subprocess.run(["cp", "--archive", str(system), str(root)], check=True)
    wheels = root / "srv/wheels"
    wheelhouse(wheels)
    inside = ["chroot", str(root), "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"]
    subprocess.run([*inside, "python3", "-m", "venv", "/opt/flow"], check=True)
    pip = ["/opt/flow/bin/pip", "--quiet", "--disable-pip-version-check", "install", "--no-index"]
    wanted = ["--find-links=/srv/wheels", "flow-dispatch[dispatcher]"]
    subprocess.run([*inside, *pip, *wanted], check=True)
    shutil.rmtree(wheels)
    shutil.copytree(GUEST, root / "srv/check")
    for unit in GUEST.glob("*.service"):
        shutil.copy(unit, root / "etc/systemd/system")
    wants = root / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    (wants / "check.service").symlink_to("/etc/systemd/system/check.service")
    image = folder / "disk.img"
    with image.open("wb"):
        pass
    subprocess.run(["truncate", f"--size={SIZE}", str(image)], check=True)
    subprocess.run(["mkfs.ext4", "-q", "-d", str(root), str(image)], check=True)
    return image
