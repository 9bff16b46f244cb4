"""The control node, used through the command ``flow`` as its operator would."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.nodes import dags
from tests.nodes.cluster import Node
from tests.waiting import until


@dataclass(frozen=True, slots=True)
class Start:
    """A line of a ledger: a task began on a node."""

    at: float
    task: str
    node: str


@dataclass(slots=True)
class Control:
    """What an operator asks the control node, and what the nodes' ledgers tell."""

    node: Node
    workers: Sequence[Node]

    def ask(self, *command: str) -> Any:
        """The JSON that ``flow COMMAND`` prints."""
        return json.loads(self.node.run("/usr/local/bin/flow", *command, "--output", "json").out)

    def agents(self) -> dict[str, dict[str, Any]]:
        """``flow agents list`` by name."""
        return {agent["name"]: agent for agent in self.ask("agents", "list")}

    def await_agent(self, name: str, within: float = 30.0, **values: object) -> None:
        """Wait until the agent is listed with these values."""

        def so() -> bool:
            agent = self.agents().get(name, {})
            return all(agent.get(key) == value for key, value in values.items())

        until(so, within, every=0.5)

    def use_dags(self, load: int) -> None:
        """Put the DAG file where the dispatcher looks, and wait until it has read it."""
        path = self.node.root / "var/lib/flow/dags/nodes.py"
        path.write_text(dags.text(load))
        path.chmod(0o644)
        until(
            lambda: {dag["dag_id"] for dag in self.ask("dags", "list")} >= {"load"}, 60, every=0.5
        )

    def trigger(self, dag: str) -> str:
        """Start a run; its id."""
        return str(self.node.run("/usr/local/bin/flow", "dags", "trigger", dag).out.split()[-1])

    def tasks(self, run: str) -> list[dict[str, Any]]:
        """``flow tasks list``."""
        found: list[dict[str, Any]] = self.ask("tasks", "list", run)
        return found

    def await_success(self, run: str, within: float = 60.0) -> list[dict[str, Any]]:
        """Wait until all tasks of *run* have succeeded; they are returned."""
        until(
            lambda: all(task["state"] == "success" for task in self.tasks(run)), within, every=0.5
        )
        return self.tasks(run)

    def starts(self, task: str = "") -> list[Start]:
        """What began on any node, in order; of *task*, if named."""
        found = []
        for node in self.workers:
            for line in _lines(node.root / dags.LEDGER):
                at, what, name = line.split()
                if what == "start" and task in ("", name):
                    found.append(Start(float(at), name, node.name))
        return sorted(found, key=lambda start: start.at)


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []
