"""Which devices (GPUs) a task gets, for as long as it runs.

What is taken follows from what runs, so nothing can be forgotten here. The agent knows only of its
own tasks: that another agent of the node uses a device is found out by who starts the task, and
remembered until a look shows that it is free again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple


class Device(NamedTuple):
    """``id`` is what CUDA_VISIBLE_DEVICES takes; ``name`` is for people, or empty."""

    id: str
    name: str = ""

    @property
    def label(self) -> str:
        """``0: NVIDIA A100-SXM4-80GB``."""
        return f"{self.id}: {self.name}" if self.name else self.id


class Devices:
    """An agent's devices; *share* tasks may have one of them at the same time."""

    def __init__(self, devices: Iterable[Device], share: int) -> None:
        self._ids = tuple(device.id for device in devices)
        self._share = share
        self.elsewhere: set[str] = set()
        """Those that another agent of this node uses."""

    def free(self, given: Iterable[tuple[str, ...]]) -> int:
        """How many different ones have a place left, beside those that tasks were *given*."""
        return len(self._open(given))

    def choose(self, count: int, given: Iterable[tuple[str, ...]]) -> tuple[str, ...] | None:
        """*count* different ones, those with the fewest tasks first; ``None``: there are not so
        many."""
        found = self._open(given)
        return tuple(found[:count]) if len(found) >= count else None

    def _open(self, given: Iterable[tuple[str, ...]]) -> list[str]:
        users = Counter(name for names in given for name in names)
        found = [x for x in self._ids if users[x] < self._share and x not in self.elsewhere]
        return sorted(found, key=users.__getitem__)
