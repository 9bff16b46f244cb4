"""Fixtures for all tests: a fresh virtual host, a fresh database, a free port.

The services behind them are started once per session, before pytest, by ``tests.services``.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg2
import pytest
from hypothesis import Phase, settings

from tests import services
from tests.agent_environment import make_agent_environment

ROOT = Path(__file__).resolve().parent.parent

# A developer's own settings must not reach the code under test, nor must its processes inherit
# them.
for _name in [name for name in os.environ if name.startswith("FLOW_")]:
    if not _name.startswith("FLOW_TEST_"):
        del os.environ[_name]

# No deadline per example: the tests share two cores with each other and with RabbitMQ. In CI the
# same examples are tried on every run, so that a red run can be repeated.
settings.register_profile("flow", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
# For tests.mutants, which wants to know that an example fails, not the simplest one.
settings.register_profile(
    "mutants", deadline=None, derandomize=True, phases=(Phase.explicit, Phase.generate)
)
settings.load_profile("ci" if os.environ.get("CI") else "flow")


def _variable(name: str) -> str:
    value = os.environ.get(name)
    if value is None:
        pytest.fail(
            f"{name}: expected the address of a test service, got nothing; "
            "run `make test`, or `.venv/bin/python -m tests.services run -- pytest TESTS`",
            pytrace=False,
        )
    return value


@pytest.fixture
def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing uses."""
    return services.free_port()


@pytest.fixture
def broker_url() -> Iterator[str]:
    """The AMQP URL of a virtual host of this test's own; it and its connections end with it."""
    url = _variable("FLOW_TEST_BROKER_URL")
    api = _variable("FLOW_TEST_MANAGEMENT_URL")
    vhost = f"test-{secrets.token_hex(6)}"
    services.management(api, "PUT", f"/vhosts/{vhost}")
    full = b'{"configure":".*","write":".*","read":".*"}'
    services.management(api, "PUT", f"/permissions/{vhost}/guest", full)
    yield url.rstrip("/") + f"/{vhost}"
    services.management(api, "DELETE", f"/vhosts/{vhost}")


@pytest.fixture
def postgres_url() -> Iterator[str]:
    """The URL of an empty database of this test's own; it and its connections end with it."""
    server = _variable("FLOW_TEST_DATABASE_URL")
    name = f"test_{secrets.token_hex(6)}"
    _execute(server, f"CREATE DATABASE {name}")
    yield server.rpartition("/")[0] + f"/{name}"
    _execute(server, f"DROP DATABASE {name} WITH (FORCE)")


def _execute(url: str, statement: str) -> None:
    connection = psycopg2.connect(url)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
    finally:
        connection.close()


@pytest.fixture
def management_api() -> Callable[..., bytes]:
    """``management_api("GET", "/connections")``: one call of RabbitMQ's management API. A test's
    virtual host is the last part of its ``broker_url``."""
    url = _variable("FLOW_TEST_MANAGEMENT_URL")

    def call(method: str, path: str, body: bytes | None = None) -> bytes:
        return services.management(url, method, path, body)

    return call


@pytest.fixture
def rabbitmqctl() -> Callable[..., str]:
    """``rabbitmqctl("list_vhosts")`` on the session's node; about a second per call."""
    _variable("FLOW_TEST_RABBITMQ_NODE")
    program = shutil.which("rabbitmqctl")
    assert program is not None, "tests.services puts it on the PATH"

    def call(*arguments: str) -> str:
        done = subprocess.run([program, *arguments], capture_output=True, text=True, check=True)
        return done.stdout

    return call


@pytest.fixture(scope="session")
def agent_environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` folder of an environment as on a node: flow and the libraries that a plain
    ``pip install flow-dispatch`` brings, so neither peewee nor psycopg2."""
    return make_agent_environment(tmp_path_factory.mktemp("node"), ROOT)
