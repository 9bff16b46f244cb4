"""Ansible, as an operator runs it: over SSH, from a checkout, with an inventory of one's own."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.nodes.cluster import Cluster

ROOT = Path(__file__).resolve().parents[2]
ANSIBLE = ROOT / ".venv-ansible" / "bin"

_RECAP = re.compile(
    r"^(\S+)\s+: ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", re.MULTILINE
)


class PlaybookFailed(Exception):
    """ansible-playbook failed, or did not do what it should; with its output."""


@dataclass(frozen=True, slots=True)
class Recap:
    """What a run of a playbook says at its end."""

    code: int
    output: str
    changed: Mapping[str, int]
    """By host."""


@dataclass(slots=True)
class Operator:
    """The machine from which Ansible is run: its inventory and its secrets lie in *folder*."""

    cluster: Cluster
    folder: Path
    inventory: Path = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self.inventory = self.folder / "inventory.yml"

    def play(
        self, playbook: str, *options: str, within: float = 1500.0, check: bool = True
    ) -> Recap:
        """Run *playbook*; raises :class:`PlaybookFailed` where it fails, unless *check* is off."""
        command = [str(ANSIBLE / "ansible-playbook"), "-i", str(self.inventory), playbook, *options]
        done = subprocess.run(
            command,
            cwd=ROOT / "ansible",
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=within,
            check=False,
        )
        if check and done.returncode:
            raise PlaybookFailed(f"{playbook} exited with {done.returncode}:\n{done.stdout}")
        changed = {found[1]: int(found[3]) for found in _RECAP.finditer(done.stdout)}
        return Recap(done.returncode, done.stdout, changed)

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": f"{ANSIBLE}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_PRIVATE_KEY_FILE": str(self.cluster.key),
            "ANSIBLE_SSH_EXTRA_ARGS": f"-o UserKnownHostsFile={self.cluster.known_hosts}",
            "ANSIBLE_LOCAL_TEMP": str(self.folder / "tmp"),
            # Sockets of SSH's shared connections need a short path.
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self.folder / "cp"),
        }
