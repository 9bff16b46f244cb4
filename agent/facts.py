"""What the agent says of its node: cores, memory, devices. Looked at once, when it starts.

NVIDIA's devices are found by nvidia-smi, where it is in PATH, else by what the driver shows in
/proc; AMD's by what its driver shows in /sys. CUDA counts devices in another order than nvidia-smi
does unless it is told not to, so a device goes by its UUID where one is known.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from agent.core.devices import Device

log = logging.getLogger(__name__)

#: Seconds; it takes one or two where no process keeps the driver awake.
NVIDIA_SMI_PATIENCE = 20.0
_QUERY = ("--query-gpu=index,uuid,name", "--format=csv,noheader")
_NVIDIA = "proc/driver/nvidia/gpus"
_AMD = "sys/class/kfd/kfd/topology/nodes"


@dataclass(frozen=True, slots=True)
class Facts:
    """``cores`` that this process may use, ``memory`` of the machine in bytes; 0: unknown."""

    cores: int
    memory: int
    gpus: tuple[Device, ...]


def look(listed: tuple[str, ...] | None, *, root: Path = Path("/"), path: str | None) -> Facts:
    """The facts. *listed*: the devices of the agent's settings, by number or UUID; ``None``: all
    that are found. *root* is where /proc and /sys are, *path* is PATH."""
    return Facts(
        cores=len(os.sched_getaffinity(0)),
        memory=_memory(root / "proc/meminfo"),
        gpus=() if listed == () else _chosen(listed, find_gpus(root, path)),
    )


def find_gpus(root: Path, path: str | None) -> list[Device]:
    """All of the machine's, in the order in which its driver numbers them. On a machine with
    NVIDIA's and AMD's, only NVIDIA's: the numbers of one kind would name the other's, too."""
    program = shutil.which("nvidia-smi", path=path)
    found = _ask_nvidia_smi(program) if program else None
    if found is None:
        found = _of_nvidia(root / _NVIDIA)
    return found or _of_amd(root / _AMD)


def _chosen(listed: tuple[str, ...] | None, found: list[Device]) -> tuple[Device, ...]:
    if listed is None:
        return tuple(found)
    known = {str(number): device for number, device in enumerate(found)}
    known |= {device.id: device for device in found}
    chosen = [known.get(name, Device(name)) for name in listed]
    return tuple(dict.fromkeys(chosen))  # one may be listed by its number and its UUID


def _memory(meminfo: Path) -> int:
    for line in _lines(meminfo):
        name, _, value = line.partition(":")
        if name == "MemTotal":
            return int(value.split()[0]) * 1024
    return 0


def _ask_nvidia_smi(program: str) -> list[Device] | None:
    """``None`` where it does not do: there is no driver, or it hangs."""
    try:
        done = subprocess.run(
            [program, *_QUERY],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=NVIDIA_SMI_PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        log.warning("nvidia-smi: %s", error)
        return None
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        log.warning("nvidia-smi: exit code %d: %s", done.returncode, "".join(said[:1]))
        return None
    rows = [[item.strip() for item in line.split(",", 2)] for line in done.stdout.splitlines()]
    whole = [(int(row[0]), row[1], row[2]) for row in rows if len(row) == len("iun")]
    return [Device(uuid, name) for _, uuid, name in sorted(whole)]


def _of_nvidia(folder: Path) -> list[Device]:
    """One folder per device, named after its PCI address."""
    found = []
    for number, device in enumerate(sorted(_folders(folder))):
        facts = _facts(_lines(device / "information"), ":")
        uuid = facts.get("GPU UUID", "")
        # Question marks until somebody has used it.
        known = uuid.startswith("GPU-") and "?" not in uuid
        found.append(Device(uuid if known else str(number), facts.get("Model", "")))
    return found


def _of_amd(folder: Path) -> list[Device]:
    """One folder per node of the topology, named by number; those of CPUs have no gpu_id."""
    nodes = sorted(
        (node for node in _folders(folder) if node.name.isdigit()), key=lambda node: int(node.name)
    )
    gpus = [node for node in nodes if "".join(_lines(node / "gpu_id")).strip() not in ("", "0")]
    return [
        Device(str(number), "".join(_lines(node / "name")).strip() or "AMD")
        for number, node in enumerate(gpus)
    ]


def _facts(lines: Iterable[str], separator: str) -> dict[str, str]:
    pairs = (line.partition(separator) for line in lines)
    return {name.strip(): value.strip() for name, _, value in pairs}


def _folders(folder: Path) -> list[Path]:
    try:
        return [item for item in folder.iterdir() if item.is_dir()]
    except OSError:  # no such driver
        return []


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(errors="replace").splitlines()
    except OSError:  # the kernel does not say
        return []
