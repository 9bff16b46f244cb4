"""The Ansible module for RabbitMQ's users: what it finds different. Ansible itself is not here."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

MODULE = "ansible/roles/flow_broker/library/flow_broker_users.py"
RIGHTS = {"configure": "^$", "write": "^flow\\.events$", "read": "^flow\\.q\\.gpu$"}
TOPIC = {"exchange": "flow.events", "write": "^gpu1-gpu\\..*$", "read": "^$"}
USER = {"password": "secret", **RIGHTS, "topics": [TOPIC]}
ASKED: dict[str, Any] = {"vhost": "flow", "users": {"gpu1-gpu": USER}, "policies": {}}


@pytest.fixture
def users(monkeypatch: pytest.MonkeyPatch) -> Any:
    basic = ModuleType("ansible.module_utils.basic")
    setattr(basic, "AnsibleModule", object)  # noqa: B010 -- mypy knows that a module has none
    for name in ("ansible", "ansible.module_utils"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "ansible.module_utils.basic", basic)
    path = Path(__file__).parents[2] / MODULE
    spec = importlib.util.spec_from_file_location("flow_broker_users", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _there(users: Any, **changes: Any) -> dict[str, Any]:
    """What RabbitMQ exports after everything asked for was imported, but for *changes*."""
    wanted = users.compare({}, ASKED)
    return {**wanted.definitions, **changes}


def test_everything_is_made_where_nothing_is(users: Any) -> None:
    wanted = users.compare({"users": [], "vhosts": [{"name": "/"}]}, ASKED)

    assert wanted.differences == [
        "vhosts: flow",
        "users: gpu1-gpu",
        "permissions: gpu1-gpu flow",
        "topic_permissions: gpu1-gpu flow flow.events",
    ]


def test_what_is_there_is_left_alone(users: Any) -> None:
    assert users.compare(_there(users), ASKED).differences == []


def test_a_wider_right_is_taken_back(users: Any) -> None:
    wide = {"user": "gpu1-gpu", "vhost": "flow", **RIGHTS, "read": ".*"}

    wanted = users.compare(_there(users, permissions=[wide]), ASKED)

    assert wanted.definitions["permissions"] == [{"user": "gpu1-gpu", "vhost": "flow", **RIGHTS}]


def test_another_password_is_set_and_told_to_nobody(users: Any) -> None:
    other = {**ASKED, "users": {"gpu1-gpu": {**USER, "password": "other"}}}

    wanted = users.compare(_there(users), other)

    assert wanted.differences == ["users: gpu1-gpu"]
    (made,) = wanted.definitions["users"]
    assert users.fits("other", made)
    assert "other" not in str(made)


def test_a_hash_of_rabbitmqs_own_is_understood(users: Any) -> None:
    # The password "guest", as RabbitMQ 3.10.8 exported it.
    kept = {
        "hashing_algorithm": "rabbit_password_hashing_sha256",
        "password_hash": "fc68v/mVI8z1hmPMLhjlXfHuU6YsNp6ONHCNAsaN3lzYF8qF",
    }

    assert users.fits("guest", kept)
    assert not users.fits("Guest", kept)


def test_only_users_of_its_own_are_strays(users: Any) -> None:
    there = _there(users)
    there["users"] += [{"name": "gpu2-gpu", "tags": ["flow"]}, {"name": "admin", "tags": []}]

    assert users.compare(there, ASKED).strays({"gpu1-gpu"}) == ["gpu2-gpu"]
