#!/usr/bin/python
"""Ansible module: the users of flow's virtual host at RabbitMQ, with all that they may do."""

from __future__ import annotations

import base64
import hashlib
import json
import os

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: flow_broker_users
short_description: The users of flow's virtual host at RabbitMQ
description:
  - Makes the virtual host, its users with their passwords, permissions and topic permissions, and
    its policies. RabbitMQ is asked once for what is there, and told once what differs, however
    many users there are.
  - A user that this module has made bears the tag C(flow). With O(purge), one that is no longer
    listed is deleted; RabbitMQ then closes its connections.
options:
  vhost:
    description: The virtual host.
    type: str
    required: true
  users:
    description:
      - By name, C(password) and the rights as C(flow broker rights --output json) prints them.
    type: dict
    required: true
  policies:
    description: By name, C(pattern) and C(definition) of policies for queues.
    type: dict
    default: {}
  purge:
    description: Whether to delete users of flow's that are not listed.
    type: bool
    default: true
author: flow
"""

EXAMPLES = r"""
- name: One agent
  flow_broker_users:
    vhost: flow
    users:
      gpu1-gpu:
        password: "{{ password }}"
        configure: "^$"
        write: "^flow\\.events$"
        read: "^flow\\.q\\.gpu$"
        topics:
          - {exchange: flow.events, write: "^gpu1-gpu\\..*$", read: "^$"}
"""

RETURN = r"""
differences:
  description: What was not as it should be, a line each.
  returned: always
  type: list
deleted:
  description: The users that were deleted.
  returned: always
  type: list
"""

TAG = "flow"
HASHING = "rabbit_password_hashing_sha256"


def hashed(password: str, salt: bytes) -> str:
    """As RabbitMQ keeps passwords: base64 of the salt and of the digest of salt and password."""
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def fits(password: str, kept: dict) -> bool:
    """Whether *kept*, a user as RabbitMQ exports it, has this password."""
    if kept.get("hashing_algorithm") != HASHING:
        return False
    salt = base64.b64decode(kept["password_hash"])[:4]
    return hashed(password, salt) == kept["password_hash"]


class Wanted:
    """What there is, compared with what there should be: both as RabbitMQ's definitions."""

    def __init__(self, there: dict, vhost: str) -> None:
        self.there = there
        self.vhost = vhost
        self.definitions: dict[str, list[dict]] = {}
        self.differences: list[str] = []

    def want(self, kind: str, item: dict, names: tuple[str, ...]) -> None:
        """*item* of *kind* should be there; *names* are the keys that say which one it is."""
        for each in self.there.get(kind, []):
            if all(each.get(key) == value for key, value in item.items()):
                return
        self.add(kind, item, " ".join(str(item[name]) for name in names))

    def add(self, kind: str, item: dict, name: str) -> None:
        """*item* has to be imported."""
        self.definitions.setdefault(kind, []).append(item)
        self.differences.append(f"{kind}: {name}")

    def user(self, name: str, password: str) -> None:
        """There should be a user *name* with this password."""
        for each in self.there.get("users", []):
            tags = each.get("tags", [])
            tags = tags.split(",") if isinstance(tags, str) else tags
            if each["name"] == name and fits(password, each) and TAG in tags:
                return
        item = {
            "name": name,
            "password_hash": hashed(password, os.urandom(4)),
            "hashing_algorithm": HASHING,
            "tags": [TAG],
        }
        self.add("users", item, name)

    def strays(self, listed: set[str]) -> list[str]:
        """Users that this module made earlier and that are not *listed* any more."""
        found = []
        for each in self.there.get("users", []):
            tags = each.get("tags", [])
            tags = tags.split(",") if isinstance(tags, str) else tags
            if TAG in tags and each["name"] not in listed:
                found.append(each["name"])
        return found


def compare(there: dict, parameters: dict) -> Wanted:
    """All that *parameters* ask for, against what is *there*."""
    vhost = parameters["vhost"]
    wanted = Wanted(there, vhost)
    wanted.want("vhosts", {"name": vhost}, ("name",))
    for name, user in parameters["users"].items():
        wanted.user(name, user["password"])
        who = {"user": name, "vhost": vhost}
        rights = {key: user[key] for key in ("configure", "write", "read")}
        wanted.want("permissions", {**who, **rights}, ("user", "vhost"))
        for topic in user["topics"]:
            item = {**who, **{key: topic[key] for key in ("exchange", "write", "read")}}
            wanted.want("topic_permissions", item, ("user", "vhost", "exchange"))
    for name, policy in parameters["policies"].items():
        item = {
            "vhost": vhost,
            "name": name,
            "pattern": policy["pattern"],
            "apply-to": "queues",
            "priority": 0,
            "definition": policy["definition"],
        }
        wanted.want("policies", item, ("vhost", "name"))
    return wanted


def main() -> None:
    """The module."""
    module = AnsibleModule(
        argument_spec={
            "vhost": {"type": "str", "required": True},
            "users": {"type": "dict", "required": True, "no_log": True},
            "policies": {"type": "dict", "default": {}},
            "purge": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    rabbitmqctl = module.get_bin_path("rabbitmqctl", required=True)
    _, text, _ = module.run_command([rabbitmqctl, "-q", "export_definitions", "-"], check_rc=True)
    wanted = compare(json.loads(text), module.params)
    deleted = wanted.strays(set(module.params["users"])) if module.params["purge"] else []
    differences = wanted.differences + [f"delete user: {name}" for name in deleted]
    if not module.check_mode:
        if wanted.definitions:
            _import(module, rabbitmqctl, wanted.definitions)
        for name in deleted:
            module.run_command([rabbitmqctl, "-q", "delete_user", name], check_rc=True)
    diff = {"before": "", "after": "".join(f"{line}\n" for line in differences)}
    module.exit_json(changed=bool(differences), differences=differences, deleted=deleted, diff=diff)


def _import(module: AnsibleModule, rabbitmqctl: str, definitions: dict) -> None:
    # Over stdin: rabbitmqctl changes to the user rabbitmq, who cannot read files of ours. For that,
    # 3.10 takes no "-", whatever its help says.
    command = [rabbitmqctl, "-q", "import_definitions"]
    module.run_command(command, data=json.dumps(definitions), check_rc=True)


if __name__ == "__main__":
    main()
