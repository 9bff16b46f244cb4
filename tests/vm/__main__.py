"""``python -m tests.vm``: limits, on a machine with a kernel of its own and cgroups of version 2.

Boots Debian in QEMU, emulated in software, and has flow run there as a systemd unit with
``Delegate=``; see ``guest/check.py``. Prints what was seen. Exit code 1 when something does
not hold, 3 when nothing could be tried: that is no success.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

from tests.nodes.machine import run_folder, sweep
from tests.nodes.timing import phase
from tests.vm import image

#: Command -> the Debian package that has it.
TOOLS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "mmdebstrap": "mmdebstrap",
    "mkfs.ext4": "e2fsprogs",
}
#: Seconds for boot and check, after which something hangs; see the module's figures.
PATIENCE = 1500.0
NOT_RUN = 3


def obstacles() -> list[str]:
    """Why the machine cannot be booted here, one line each; empty where it can."""
    found = []
    if os.geteuid() != 0:
        found.append("expected to be root: it installs Debian into a folder")
    missing = sorted({package for tool, package in TOOLS.items() if shutil.which(tool) is None})
    if missing:
        found.append(f"not installed; run: apt-get install {' '.join(missing)}")
    return found


def main() -> int:
    """The command; see the module's docstring."""
    if why_not := obstacles():
        print("test-vm: NOT RUN, so nothing has passed:", file=sys.stderr)
        for obstacle in why_not:
            print(f"test-vm:   {obstacle}", file=sys.stderr)
        return NOT_RUN
    sweep()
    with phase("root file system with a kernel"):
        system = image.base()
    with run_folder() as folder:
        with phase("disk with flow"):
            disk = image.disk(folder, system)
        with phase("machine"):
            passed = _boot(system, disk)
    if not passed:
        print("test-vm: FAILED", file=sys.stderr)
    return 0 if passed else 1


def _boot(system: Path, disk: Path) -> bool:
    """Run the machine until it powers off; what it prints is passed on. Whether all held there."""
    (kernel,) = (system / "boot").glob("vmlinuz-*")
    (initrd,) = (system / "boot").glob("initrd.img-*")
    # In software also where there is a /dev/kvm: nested in a cloud's machines, many do not work.
    command = ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2"]
    command += ["-m", "1024", "-nographic", "-no-reboot", "-nic", "none"]
    command += ["-kernel", str(kernel), "-initrd", str(initrd)]
    command += ["-append", "root=/dev/vda rw console=ttyS0 quiet systemd.show_status=0"]
    command += ["-drive", f"file={disk},if=virtio,format=raw,cache=unsafe"]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace"
    ) as machine:
        deadline = threading.Timer(PATIENCE, machine.kill)
        deadline.start()
        assert machine.stdout is not None
        last = ""
        try:
            for line in machine.stdout:
                print(f"    {line.rstrip()}", flush=True)
                last = line.strip() or last
                passed = last == "check: passed"
                if passed:
                    break
        finally:
            deadline.cancel()
            machine.terminate()
    return last == "check: passed"


if __name__ == "__main__":
    sys.exit(main())
