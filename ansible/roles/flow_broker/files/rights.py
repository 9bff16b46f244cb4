"""Prints what each user may do, and the policies; stdin has the agents' queues by name, and the
broker's version. One process for all of them: an inventory may have hundreds."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict

from flow.brokerrights import agent_rights, command_rights, dispatcher_rights, policies

asked = json.load(sys.stdin)
major, minor = re.findall(r"\d+", asked["version"])[:2]
users = {name: agent_rights(name, queues) for name, queues in asked["agents"].items()}
users["flow-dispatcher"] = dispatcher_rights()
users["flow-commands"] = command_rights()
rules = policies((int(major), int(minor)))
print(
    json.dumps(
        {
            "users": {name: asdict(rights) for name, rights in users.items()},
            "policies": {
                f"flow-{number}": {"pattern": pattern, "definition": definition}
                for number, (pattern, definition) in enumerate(rules.items())
            },
        }
    )
)
