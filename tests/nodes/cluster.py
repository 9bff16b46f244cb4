"""Nodes with a systemd of their own, on a network of their own.

Everything happens inside namespaces that ``__main__`` has unshared: mounts, network and processes
are seen by nobody else and end with them, whatever happens. So names and addresses are the same in
every run, and any number of runs may go on at once.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tests.nodes.machine import cgroup_roots
from tests.nodes.rootfs import APT
from tests.waiting import until

BRIDGE = "br0"
HOST = "10.99.0.1"
PROXY_PORT = 3142
_BOOT = 60.0
_STOP = 20.0


class NodeFailed(Exception):
    """A node did not do what the harness needs; the message has the end of its log."""


@dataclass(frozen=True, slots=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str

    def __str__(self) -> str:
        return self.out.strip()


@dataclass(slots=True)
class Node:
    """One machine."""

    name: str
    address: str
    folder: Path
    process: subprocess.Popen[bytes] | None = None
    pid1: int = 0

    @property
    def root(self) -> Path:
        """Its root file system, as the host sees it."""
        return self.folder / "root"

    @property
    def port(self) -> str:
        """The end of its network cable at the switch: taken down, it is a silent partition."""
        return f"vb-{self.name}"

    def run(self, *command: str, check: bool = True, within: float = 60.0) -> Done:
        """Run *command* there as root, as if at its console: it needs neither network nor SSH."""
        done = subprocess.run(
            ["nsenter", "-t", str(self.pid1), "-a", "env", "-i", *_ENVIRONMENT, *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=within,
            check=False,
            text=True,
        )
        if check and done.returncode:
            asked = " ".join(command)
            told = f"exit {done.returncode}: {done.stdout}{done.stderr}"
            raise NodeFailed(f"{self.name}: {asked}: {told}")
        return Done(done.returncode, done.stdout, done.stderr)

    def cable(self, state: str) -> None:
        """Plug its network cable in (``up``) or out (``down``)."""
        _ip("link", "set", self.port, state)

    def log(self, lines: int = 60) -> str:
        """The end of its journal, without what Ansible writes there."""
        units = (
            "--unit=flow*",
            "--unit=rabbitmq-server",
            "--unit=postgresql*",
            "--unit=init.scope",
        )
        return self.run("journalctl", "--no-pager", f"-n{lines}", *units, check=False).out


_ENVIRONMENT = (
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG=C.UTF-8",
    "SYSTEMD_PAGER=",
    "SYSTEMD_COLORS=0",
)


@dataclass(slots=True)
class Cluster:
    """The nodes of one run, by name."""

    folder: Path
    rootfs: Path
    nodes: dict[str, Node] = field(default_factory=dict)
    _undo: ExitStack = field(default_factory=ExitStack)

    def boot(self, names: Sequence[str]) -> None:
        """Boot all of *names* and return when systemd runs on each, with SSH and network."""
        self._make_network()
        self._make_key()
        for number, name in enumerate(names, start=11):
            self.nodes[name] = Node(name, f"10.99.0.{number}", self.folder / name)
        for node in self.nodes.values():
            self._prepare(node)
        for node in self.nodes.values():
            self._start(node)
        for node in self.nodes.values():
            self._await_up(node)

    def close(self) -> None:
        """Power everything off and unmount it. Safe twice."""
        for node in self.nodes.values():
            if node.process is not None:
                node.process.terminate()
        for node in self.nodes.values():
            if node.process is not None:
                try:
                    node.process.wait(_STOP)
                except subprocess.TimeoutExpired:
                    node.process.kill()
                    node.process.wait()
                node.process = None
        self._undo.close()

    @property
    def key(self) -> Path:
        """The private key that opens every node, as root."""
        return self.folder / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        """The nodes' host keys: they are the root file system's."""
        return self.folder / "known_hosts"

    def _make_network(self) -> None:
        _ip("link", "set", "lo", "up")
        _ip("link", "add", BRIDGE, "type", "bridge")
        _ip("addr", "add", f"{HOST}/24", "dev", BRIDGE)
        _ip("link", "set", BRIDGE, "up")

    def _make_key(self) -> None:
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "flow-test", "-f"]
        subprocess.run([*command, str(self.key)], check=True)
        public = (self.rootfs / "etc/ssh/ssh_host_ed25519_key.pub").read_text().split()
        self.known_hosts.write_text(f"10.99.0.* {public[0]} {public[1]}\n")

    def _prepare(self, node: Node) -> None:
        for name in ("upper", "work", "root"):
            (node.folder / name).mkdir(parents=True)
        layers = f"lowerdir={self.rootfs},upperdir={node.folder}/upper,workdir={node.folder}/work"
        subprocess.run(
            ["mount", "-t", "overlay", "overlay", "-o", layers, str(node.root)], check=True
        )
        self._undo.callback(subprocess.run, ["umount", "--lazy", str(node.root)], check=True)
        files = {
            "etc/hostname": f"{node.name}\n",
            "etc/hosts": "127.0.0.1 localhost\n"
            + "".join(f"{other.address} {other.name}\n" for other in self.nodes.values()),
            "etc/apt/apt.conf.d/90flow-test": "".join(
                f"{line};\n"
                for line in (*APT, f'Acquire::http::Proxy "http://{HOST}:{PROXY_PORT}"')
            ),
            "root/.ssh/authorized_keys": self.key.with_suffix(".pub").read_text(),
        }
        (node.root / "root/.ssh").mkdir(mode=0o700, exist_ok=True)
        for name, text in files.items():
            (node.root / name).write_text(text)

    def _start(self, node: Node) -> None:
        command = ["systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit"]
        command += [f"--network-bridge={BRIDGE}", f"--machine={node.name}"]
        command += [f"--directory={node.root}", "--link-journal=no"]
        command += ["--resolv-conf=off", "--timezone=off"]
        with (node.folder / "console").open("wb") as console:
            node.process = subprocess.Popen(
                [*command],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
                preexec_fn=lambda: _enter_cgroup(self.folder.name, node.name),  # noqa: PLW1509 -- no threads here
            )

    def _await_up(self, node: Node) -> None:
        assert node.process is not None, "it was started"
        try:
            until(lambda: self._first_process(node), _BOOT, every=0.05)
            _ip("link", "set", node.port, "up")
            inside = ["nsenter", "-t", str(node.pid1), "-n", "ip"]
            subprocess.run([*inside, "link", "set", "host0", "up"], check=True)
            address = f"{node.address}/24"
            subprocess.run([*inside, "addr", "add", address, "dev", "host0"], check=True)
            until(lambda: self._is_up(node), _BOOT, every=0.25)
        except AssertionError as error:
            console = (node.folder / "console").read_text(errors="replace")
            raise NodeFailed(f"{node.name} did not boot:\n{console[-4000:]}") from error

    @staticmethod
    def _first_process(node: Node) -> bool:
        assert node.process is not None, "it was started"
        children = Path(f"/proc/{node.process.pid}/task/{node.process.pid}/children")
        found = children.read_text().split()
        if found:
            node.pid1 = int(found[0])
        # Its network must be its own before an address is put there.
        return bool(found) and _network(node.pid1) != _network(os.getpid())

    @staticmethod
    def _is_up(node: Node) -> bool:
        state = node.run("systemctl", "is-system-running", check=False).out.strip()
        if state == "degraded":
            raise NodeFailed(f"{node.name}: {node.run('systemctl', '--failed', check=False).out}")
        return state == "running"


def _network(pid: int) -> str:
    return str(Path(f"/proc/{pid}/ns/net").readlink())


def _enter_cgroup(run: str, name: str) -> None:
    """Two nodes in one cgroup would take each other's services for their own: systemd-nspawn,
    without a systemd to ask, makes `payload` below the cgroup it is started in."""
    for root in cgroup_roots():
        group = root / run / name
        group.mkdir(parents=True)
        (group / "cgroup.procs").write_text("0")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
