"""Devices (GPUs) as tasks see them, and the locks by which the agents of a node share them out.

Each agent hands out devices by itself (``agent.core.devices``), and two of one node may have the
same ones. So a task's start takes a lock per device, in a folder that the agents of the node share,
and its descriptor goes to the keeper: the kernel gives the lock back when the keeper has proven the
task dead, or is dead itself, and not before, whatever becomes of the agent (flock(2)).
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from flow.errors import FlowError

_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]")


class GpusTaken(FlowError):
    """Another agent of this node uses these devices."""

    def __init__(self, gpus: tuple[str, ...]) -> None:
        super().__init__(f"another agent of this node uses GPU {', '.join(gpus)}")
        self.gpus = gpus


@dataclass(frozen=True, slots=True)
class Gpus:
    """An agent's devices. *share*: how many tasks may have one of them at the same time."""

    folder: Path = Path()
    """Where the locks are; of no use without devices."""
    ids: tuple[str, ...] = ()
    share: int = 1

    def environment(self, given: tuple[str, ...]) -> Mapping[str, str]:
        """What tells a task which devices are its own. One that asked for none sees none, on an
        agent that has any: else it would share what another task was given.

        For AMD's it is HIP_VISIBLE_DEVICES, which HIP reads in the place of CUDA_VISIBLE_DEVICES.
        ROCR_VISIBLE_DEVICES works one layer below and numbers what it leaves anew: both together
        would choose twice.
        """
        if not self.ids:
            return {}
        chosen = ",".join(given)
        return {
            "FLOW_GPUS": chosen,
            "CUDA_VISIBLE_DEVICES": chosen,
            # Numbers are the driver's and nvidia-smi's, not those of CUDA's own ranking.
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            # HIP takes an empty one for none at all, and shows every device.
            "HIP_VISIBLE_DEVICES": chosen or "-1",
        }

    def take(self, gpus: Iterable[str]) -> list[int]:
        """Lock *gpus*: the descriptors that hold the locks.

        Raises :class:`GpusTaken`, and OSError when the folder is of no use.
        """
        held: list[int] = []
        taken = []
        try:
            for gpu in gpus:
                locks = self._lock(gpu)
                held += locks
                if not locks:
                    taken.append(gpu)
            if taken:
                raise GpusTaken(tuple(taken))
        except BaseException:
            close(held)
            raise
        return held

    def free(self, gpus: Iterable[str]) -> tuple[str, ...]:
        """Those of *gpus* that could be locked now. Raises OSError."""
        found = []
        for gpu in gpus:
            locks = self._lock(gpu)
            close(locks)
            if locks:
                found.append(gpu)
        return tuple(found)

    def _lock(self, gpu: str) -> list[int]:
        """Nobody beside an agent that does not share; of those that share, *share* at the most."""
        self.folder.mkdir(parents=True, exist_ok=True)
        name = _UNSAFE.sub("_", gpu)
        whole = _locked(self.folder / name, fcntl.LOCK_EX if self.share == 1 else fcntl.LOCK_SH)
        if whole is None or self.share == 1:
            return [] if whole is None else [whole]
        for place in range(self.share):
            part = _locked(self.folder / f"{name}.{place}", fcntl.LOCK_EX)
            if part is not None:
                return [whole, part]
        os.close(whole)
        return []


def close(descriptors: Iterable[int]) -> None:
    """Give locks back that nothing was started with."""
    for descriptor in descriptors:
        os.close(descriptor)


def _locked(path: Path, how: int) -> int | None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            return None
        raise
    return descriptor
