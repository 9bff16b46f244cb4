"""Agents on their nodes: killed, stopped, and started again by a supervisor like systemd."""

from __future__ import annotations

import signal
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agent import processes
from tests.acceptance.ledger import now
from tests.acceptance.system import BIN, Daemon, System

#: Seconds before an agent that has ended is started again: systemd's default RestartSec.
RESTART_PAUSE = 0.1


@dataclass(slots=True)
class Node:
    """A machine with one agent of its name."""

    system: System
    name: str
    queues: Sequence[str]
    slots: int = 2
    bin_folder: Path = BIN
    environment: Mapping[str, str] = field(default_factory=dict)
    restarted: bool = True
    """Somebody starts the agent again whenever it has ended."""
    starts: list[float] = field(default_factory=list)
    """When it was started, in the ledger's seconds."""
    daemon: Daemon = field(init=False)

    def start(self, *, ready: bool = True) -> None:
        """Start the agent; with *ready* return once it is connected."""
        moment = now()
        self.daemon = self.system.start_agent(
            self.name,
            *self.queues,
            slots=self.slots,
            bin_folder=self.bin_folder,
            ready=ready,
            **self.environment,
        )
        self.starts.append(moment)

    def kill(self) -> None:
        """``kill -9`` of the agent alone."""
        self.daemon.process.kill()

    def signal(self, number: signal.Signals) -> None:
        """Send the agent a signal."""
        self.daemon.process.send_signal(number)

    @property
    def running(self) -> bool:
        return self.daemon.process.poll() is None

    @property
    def serves(self) -> bool:
        """The process of now has connected."""
        return self.running and self.daemon.says("connected; serving")

    @property
    def keeper(self) -> processes.Process | None:
        """The keeper of the agent process of now."""
        for process in processes.snapshot().values():
            if process.parent == self.daemon.process.pid and process.name == "flow-keeper":
                return process
        return None


class Supervisor:
    """A thread that starts agents again."""

    def __init__(self) -> None:
        self._nodes: list[Node] = []
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="supervisor")
        self._thread.start()

    def watch(self, node: Node) -> None:
        """Begin to."""
        with self._lock:
            self._nodes.append(node)

    def close(self) -> None:
        """No agent is started after this."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        ended: dict[str, float] = {}
        while not self._stop.wait(0.01):
            with self._lock:
                nodes = [node for node in self._nodes if node.restarted and not node.running]
            for node in nodes:
                if now() >= ended.setdefault(node.name, now()) + RESTART_PAUSE:
                    del ended[node.name]
                    node.start(ready=False)
