"""The part of a run inside its namespaces; started by ``tests.nodes``, not by hand."""

from __future__ import annotations

import argparse
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.nodes.cluster import HOST, PROXY_PORT, Cluster
from tests.nodes.control import Control
from tests.nodes.machine import CACHE
from tests.nodes.playbook import Operator
from tests.nodes.story import STEPS
from tests.nodes.timing import phase
from tests.nodes.world import World

NODES = ("control", "gpu1", "gpu2")


def main(arguments: Sequence[str]) -> int:
    """The command line, as ``tests.nodes`` writes it."""
    # The first process of its namespace ignores signals that it has no handler for.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    parser = argparse.ArgumentParser(prog="tests.nodes.inside")
    for name in ("folder", "system", "version", "next", "network"):
        parser.add_argument(name)
    parser.add_argument("--stay", action="store_true")
    parser.add_argument("--bare", action="store_true")
    parser.add_argument("--until")
    options = parser.parse_args(arguments)
    folder = Path(options.folder)
    cluster = Cluster(folder, Path(options.system))
    try:
        with phase("boot"):
            cluster.boot(NODES)
        with _packages(int(options.network)):
            if options.bare:
                _wait_bare(cluster)
            return _story(cluster, folder, options)
    except KeyboardInterrupt:
        print("test-nodes: interrupted", file=sys.stderr)
        return 130
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        with phase("power off"):
            cluster.close()


def _wait_bare(cluster: Cluster) -> None:
    """Say how the nodes are reached, and wait for ^C."""
    for node in cluster.nodes.values():
        print(f"{node.name} is {node.address}", flush=True)
    print(f"ssh -i {cluster.key} -o UserKnownHostsFile={cluster.known_hosts} root@10.99.0.11")
    print(f"wheels for them: {cluster.folder / 'wheels'}", flush=True)
    while True:
        signal.pause()


@contextmanager
def _packages(network: int) -> Iterator[None]:
    """The nodes' package proxy: it listens in this network and fetches in the host's."""
    with socket.create_server((HOST, PROXY_PORT)) as listening:
        fd = listening.fileno()
        command = ["nsenter", f"--net=/proc/self/fd/{network}", sys.executable, "-m"]
        command += ["tests.nodes.packages", str(fd), str(CACHE / "packages")]
        process = subprocess.Popen(command, pass_fds=[fd, network])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def names() -> list[str]:
    """What the steps are called."""
    return [step.__name__.replace("_", "-") for step in STEPS]


def _story(cluster: Cluster, folder: Path, options: argparse.Namespace) -> int:
    """Take the steps in order, up to the first that fails: the others would start in its ruins."""
    control = Control(cluster.nodes["control"], [cluster.nodes[name] for name in NODES[1:]])
    operator = Operator(cluster, folder / "operator")
    world = World(cluster, operator, control, folder / "wheels", options.version, options.next)
    failed = ""
    for step in STEPS:
        name = step.__name__.replace("_", "-")
        began = time.monotonic()
        try:
            seen = step(world)
        except Exception:  # noqa: BLE001 -- whatever it is, the nodes' journals tell more
            failed = name
            print(f"FAILED {name}: {step.__doc__}\n{traceback.format_exc()}", flush=True)
            _tell(cluster)
            break
        print(
            f"ok     {name:<13} {time.monotonic() - began:6.1f} s  {step.__doc__} {seen}",
            flush=True,
        )
        if name == options.until:
            break
    if options.stay:
        signal.pause()
    return int(bool(failed))


def _tell(cluster: Cluster) -> None:
    for node in cluster.nodes.values():
        print(f"----- {node.name}\n{node.log()}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
