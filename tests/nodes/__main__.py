"""``python -m tests.nodes [--bare] [--stay] [--until STEP]``: flow on booted systemd nodes.

Boots three Debian machines, runs the playbook over SSH against them, and then uses them as an
operator would; one line for each step. Exit code 1 when a step fails, 3 when nothing could be
tried: that is no success.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.nodes import machine, rootfs, wheels
from tests.nodes.timing import phase

ROOT = Path(__file__).resolve().parents[2]
#: The version to which the nodes are upgraded.
NEXT = "9999.1"
NOT_RUN = 3


def main(arguments: Sequence[str]) -> int:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m tests.nodes", description=__doc__)
    parser.add_argument(
        "--stay", action="store_true", help="keep the nodes up afterwards, until ^C"
    )
    parser.add_argument(
        "--bare", action="store_true", help="boot bare machines to try things on, until ^C"
    )
    parser.add_argument("--list", action="store_true", help="name the steps")
    parser.add_argument("--until", metavar="STEP", help="the last step to take")
    options, _ = parser.parse_known_args(arguments)
    if obstacles := [] if options.list else machine.obstacles():
        print("test-nodes: NOT RUN, so nothing has passed:", file=sys.stderr)
        for obstacle in obstacles:
            print(f"test-nodes:   {obstacle}", file=sys.stderr)
        return NOT_RUN
    if options.list:
        from tests.nodes.inside import names  # noqa: PLC0415 -- only for this

        print("\n".join(names()))
        return 0
    # Whoever ends it, it tidies up.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    machine.sweep()
    with phase("root file system"):
        system = rootfs.ensure()
    with machine.run_folder() as folder:
        with phase("wheels"):
            version = wheels.wheelhouse(folder / "wheels", NEXT)
        return _inside(folder, system, version, arguments)


def _inside(folder: Path, system: Path, version: str, arguments: Sequence[str]) -> int:
    """Go on in namespaces of its own, with the way back to this network as a descriptor."""
    network = os.open("/proc/self/ns/net", os.O_RDONLY)
    command = ["setpriv", "--pdeathsig=KILL", "unshare", "--mount", "--propagation=private"]
    command += ["--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    command += [sys.executable, "-m", "tests.nodes.inside"]
    command += [str(folder), str(system), version, NEXT, str(network), *arguments]
    with subprocess.Popen(command, cwd=ROOT, pass_fds=[network]) as process:
        if {"--stay", "--bare"} & set(arguments):
            print(f"to look around: nsenter -t $(pgrep -P {process.pid}) -m -n -p", flush=True)
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                _interrupt(process.pid)


def _interrupt(unshare: int) -> None:
    """Pass a signal on to the child of *unshare*, which itself would not: it tidies up then."""
    for child in Path(f"/proc/{unshare}/task/{unshare}/children").read_text().split():
        os.kill(int(child), signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
