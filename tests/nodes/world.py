"""What the steps work with: the machines, whoever provisions them, and whoever uses them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.nodes.cluster import Cluster, Node
from tests.nodes.control import Control
from tests.nodes.playbook import Operator


@dataclass(slots=True)
class World:
    """What the steps work with."""

    cluster: Cluster
    operator: Operator
    control: Control
    wheels: Path
    version: str
    next_version: str

    def node(self, name: str) -> Node:
        """One of the machines."""
        return self.cluster.nodes[name]

    def write_inventory(self, queues: Mapping[str, list[str]], version: str) -> None:
        """The map of who runs what; JSON is YAML."""
        nodes = self.cluster.nodes
        agents = {name: {"flow_agent_queues": served} for name, served in queues.items()}
        control: dict[str, object] = {"hosts": {"control": {}}}
        inventory = {
            "flow": {
                "vars": {
                    "ansible_user": "root",
                    "flow_common_version": version,
                    "flow_common_wheelhouse": str(self.wheels),
                },
                "hosts": {name: {"ansible_host": node.address} for name, node in nodes.items()},
                "children": {
                    "flow_broker": control,
                    "flow_database": control,
                    "flow_dispatchers": control,
                    "flow_agents": {"hosts": agents},
                },
            }
        }
        self.operator.inventory.write_text(json.dumps(inventory, indent=1))
