"""RabbitMQ and Postgres for a bench run: private, with their defaults, and what they count.

Every turn gets a virtual host and a database of its own. The servers are the same for all, so that
none meets a colder cache than another.
"""

from __future__ import annotations

import re
import secrets
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg2

from bench.contender import Site
from tests import services

#: RabbitMQ's own totals, over all queues: what was published, confirmed, delivered, acked.
_MESSAGES = re.compile(
    r"^rabbitmq_global_messages_(received|confirmed|delivered|acknowledged)_total\{[^}]*\} (\d+)$",
    re.MULTILINE,
)


class RabbitMQ(services.RabbitMQ):
    """With the plugin that tells its totals by HTTP, at the moment they are asked for: the
    management API's are up to 5 s old, and rabbitmqctl costs a second of CPU."""

    def prepare(self) -> None:
        super().prepare()
        self.totals_port = services.free_port()
        # No limit on how long a message may stay unacked: peers ack a task when it is done.
        with (self.home / "rabbitmq.conf").open("a") as conf:
            conf.write(f"prometheus.tcp.ip = 127.0.0.1\nprometheus.tcp.port = {self.totals_port}\n")
        self._write("plugins", "[rabbitmq_management,rabbitmq_prometheus].\n")

    def totals(self) -> dict[str, int]:
        """Messages since the start, by what happened to them."""
        url = f"http://127.0.0.1:{self.totals_port}/metrics"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, timeout=30) as answer:
            text = answer.read().decode()
        found: dict[str, int] = {}
        for name, value in _MESSAGES.findall(text):
            found[name] = found.get(name, 0) + int(value)
        return found


@dataclass(slots=True)
class Services:
    """Both servers, running."""

    rabbitmq: RabbitMQ
    postgres: services.Postgres
    folder: Path
    """Where turns may have folders: short, and gone with the services."""

    @contextmanager
    def site(self, slots: int) -> Iterator[Site]:
        """A turn's place: made empty, removed afterwards."""
        name = f"bench_{secrets.token_hex(4)}"
        folder = self.folder / name
        folder.mkdir()
        self.make_vhost(name)
        self.execute(f"CREATE DATABASE {name}")
        try:
            yield Site(
                broker_url=_with_path(self.rabbitmq.variables["FLOW_TEST_BROKER_URL"], name),
                database_url=_with_path(self.postgres.variables["FLOW_TEST_DATABASE_URL"], name),
                folder=folder,
                slots=slots,
            )
        finally:
            self.rabbitmq.api("DELETE", f"/vhosts/{name}")
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def make_vhost(self, name: str) -> None:
        """An empty virtual host, with all rights for the user."""
        self.rabbitmq.api("PUT", f"/vhosts/{name}")
        rights = b'{"configure":".*","write":".*","read":".*"}'
        self.rabbitmq.api("PUT", f"/permissions/{name}/guest", rights)

    def execute(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """The rows, by a connection of its own, outside any transaction and any site."""
        return query(self.postgres.variables["FLOW_TEST_DATABASE_URL"], statement, *values)

    def processes(self) -> dict[str, list[int]]:
        """The roots of their process trees by role."""
        assert self.rabbitmq.process is not None, "they run"
        assert self.postgres.process is not None, "they run"
        return {"broker": [self.rabbitmq.process.pid], "database": [self.postgres.process.pid]}


def query(url: str, statement: str, *values: object) -> list[tuple[Any, ...]]:
    """The rows of one statement in the database at *url*."""
    connection = psycopg2.connect(url, application_name="bench")
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            return list(cursor.fetchall()) if cursor.description else []
    finally:
        connection.close()


@contextmanager
def running() -> Iterator[Services]:
    """Fresh servers on free ports; gone in the end, with all they hold."""
    with (
        services.home() as parent,
        services.running(parent, RabbitMQ, services.Postgres) as (rabbitmq, postgres),
    ):
        assert isinstance(rabbitmq, RabbitMQ)
        assert isinstance(postgres, services.Postgres)
        yield Services(rabbitmq, postgres, parent)


def _with_path(url: str, name: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))
