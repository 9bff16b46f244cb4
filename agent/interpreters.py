"""Which Python runs a task: the task's own, that of its queue, the agent's, or flow's."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flow.errors import FlowError


class NoInterpreter(FlowError):
    """The chosen interpreter is not on this node."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """An interpreter, and the place where it was chosen, in words."""

    path: str
    setting: str


@dataclass(frozen=True, slots=True)
class Interpreters:
    """The settings of one agent."""

    default: str | None = None
    by_queue: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, default: str | None, assignments: tuple[str, ...]) -> Interpreters:
        """From ``[agent] python`` and ``python_for``, which has texts ``queue=interpreter``."""
        pairs = (text.partition("=") for text in assignments)
        return cls(default, {queue.strip(): path.strip() for queue, _, path in pairs})

    def choose(self, own: str | None, queue: str, environment: Mapping[str, str]) -> Chosen:
        """The interpreter of a task with *own* ``python=`` (or none) on *queue*; a name is looked
        up in the PATH of its *environment*. Raises :class:`NoInterpreter`."""
        if own:
            wanted, setting = own, "python= of the task"
        elif queue in self.by_queue:
            wanted, setting = self.by_queue[queue], f"[agent] python_for of queue {queue!r}"
        elif self.default:
            wanted, setting = self.default, "[agent] python"
        else:
            return Chosen(sys.executable, "[agent] python")
        home = environment.get("HOME", "")
        name = f"{home}/{wanted[2:]}" if wanted.startswith("~/") else wanted
        found = shutil.which(name, path=environment.get("PATH"))
        if found is None or Path(found).is_dir():
            raise NoInterpreter(
                f"expected a Python interpreter on this node, got {wanted!r}, which is none that "
                f"can be run; install it, or change {setting}"
            )
        return Chosen(found, setting)
