"""RabbitMQ and Postgres as a scenario sees them: its own corner of the session's servers, or, where
it breaks them, servers of its own."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg2

from tests import services

_CLOSE_CONNECTIONS = """
Mine = fun() -> lists:sort([Pid || Pid <- rabbit_networking:connections(),
  [{vhost, <<"%(vhost)s">>}, {client_properties, About}] <-
    [(catch rabbit_networking:connection_info(Pid, [vhost, client_properties]))],
  {_, _, <<"%(client)s", _/binary>>} <- [lists:keyfind(<<"connection_name">>, 1, About)]]) end,
Close = fun Close(Number) ->
  case Mine() of
    [] -> timer:sleep(20), Close(Number);
    All ->
      Pid = lists:nth(Number rem length(All) + 1, All),
      case (catch rabbit_networking:close_connection(Pid, <<"chaos">>)) of
        ok -> ok;
        _ -> timer:sleep(20), Close(Number)
      end
  end end,
length([ok || {Pause, Number} <- [%(plan)s], timer:sleep(Pause) =:= ok, Close(Number) =:= ok]).
"""


@dataclass(slots=True)
class Broker:
    """A virtual host of its own."""

    url: str
    """With the virtual host."""
    management: str
    ctl: Path
    """A ``rabbitmqctl`` for the node."""
    server: services.RabbitMQ | None = None
    """Only of a scenario with ``own_services``: to stop, kill and launch."""

    @property
    def vhost(self) -> str:
        return urlsplit(self.url).path[1:]

    @property
    def own(self) -> services.RabbitMQ:
        """The server, which the scenario may break."""
        assert self.server is not None, "the scenario has no services of its own"
        return self.server

    def api(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """One call of the management API. Raises OSError."""
        return services.management(self.management, method, path, body)

    def rabbitmqctl(self, *arguments: str) -> str:
        """What it prints; about a second."""
        done = subprocess.run([self.ctl, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"rabbitmqctl {arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def close_connections(self, client: str, plan: Sequence[tuple[float, int]]) -> int:
        """As ``rabbitmqctl close_connection``, once for each pair in *plan*: after so many seconds,
        the one with that number (counted round) among those whose names begin with *client*
        (``flow-agent node1``). It waits until there is one. How many were closed.

        One call, since each takes a second; and the management API shows connections only some
        seconds after they were made.
        """
        steps = ",".join(f"{{{round(1000 * pause)},{number}}}" for pause, number in plan)
        found = self.rabbitmqctl(
            "eval", _CLOSE_CONNECTIONS % {"vhost": self.vhost, "client": client, "plan": steps}
        )
        return int(found)

    def messages(self) -> dict[str, int]:
        """Messages in each queue, ready or unacked."""
        text = self.rabbitmqctl(
            "list_queues", "-p", self.vhost, "name", "messages", "--quiet", "--formatter", "json"
        )
        return {row["name"]: int(row["messages"]) for row in json.loads(text)}

    def stop(self) -> None:
        """As an operator stops it; its data stays."""
        self.own.halt(signal.SIGTERM)

    def kill(self) -> None:
        """``kill -9``."""
        self.own.halt(signal.SIGKILL)

    def start(self) -> None:
        """On the data that is there; returns when it serves."""
        self.own.launch()
        self.own.wait_ready()

    def erase(self) -> None:
        """Remove the data of the stopped server; :meth:`make_vhost` belongs after the start."""
        shutil.rmtree(self.own.home / "data")

    def make_vhost(self) -> None:
        """The virtual host, with all rights for the user."""
        name = quote(self.vhost, safe="")
        self.api("PUT", f"/vhosts/{name}")
        rights = b'{"configure":".*","write":".*","read":".*"}'
        self.api("PUT", f"/permissions/{name}/guest", rights)


@dataclass(slots=True)
class Postgres:
    """A database of its own."""

    url: str
    server: services.Postgres | None = None
    """Only of a scenario with ``own_services``."""
    _connection: Any = None

    @property
    def own(self) -> services.Postgres:
        """The server, which the scenario may break."""
        assert self.server is not None, "the scenario has no services of its own"
        return self.server

    def query(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """The rows. Raises psycopg2.OperationalError while the server is away."""
        try:
            return self._execute(statement, values)
        except (psycopg2.OperationalError, psycopg2.InterfaceError):
            self.forget()  # the connection may be an old one, cut by a fault
            return self._execute(statement, values)

    def value(self, statement: str, *values: object) -> Any:
        """The first column of the only row."""
        ((found, *_),) = self.query(statement, *values)
        return found

    def terminate_backends(self) -> int:
        """End every other session in this database; how many."""
        found = self.value(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        return int(found)

    def stop(self, number: signal.Signals = signal.SIGQUIT) -> None:
        """SIGQUIT is an immediate stop (without a checkpoint), SIGINT a fast one."""
        self.forget()
        self.own.halt(number)

    def start(self) -> None:
        """On the data that is there; returns when it serves."""
        self.own.launch()
        self.own.wait_ready()

    def forget(self) -> None:
        """Close the connection, if any."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _execute(self, statement: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
        if self._connection is None:
            self._connection = psycopg2.connect(self.url, application_name="chaos")
            self._connection.autocommit = True
        with self._connection.cursor() as cursor:
            cursor.execute(statement, values)
            return list(cursor.fetchall()) if cursor.description else []


@contextmanager
def shared() -> Iterator[tuple[Broker, Postgres]]:
    """A virtual host and a database on the servers that ``tests.services run`` has started."""
    variables = {
        name: os.environ.get(f"FLOW_TEST_{name}")
        for name in ("BROKER_URL", "MANAGEMENT_URL", "DATABASE_URL")
    }
    ctl = shutil.which("rabbitmqctl")
    assert all(variables.values()), "run it with `python -m tests.services run -- ...`"
    assert ctl is not None, "tests.services puts it on the PATH"
    with _corner(
        str(variables["BROKER_URL"]),
        str(variables["MANAGEMENT_URL"]),
        str(variables["DATABASE_URL"]),
        Path(ctl),
    ) as corner:
        yield corner


@contextmanager
def own() -> Iterator[tuple[Broker, Postgres]]:
    """The same on fresh servers, which may be stopped, killed and started again."""
    with (
        services.home() as parent,
        services.running(parent, services.RabbitMQ, services.Postgres) as (rabbitmq, postgres),
    ):
        assert isinstance(rabbitmq, services.RabbitMQ)
        assert isinstance(postgres, services.Postgres)
        ctl = parent / "rabbitmqctl"
        rabbitmq.write_rabbitmqctl(ctl)
        with _corner(
            rabbitmq.variables["FLOW_TEST_BROKER_URL"],
            rabbitmq.variables["FLOW_TEST_MANAGEMENT_URL"],
            postgres.variables["FLOW_TEST_DATABASE_URL"],
            ctl,
        ) as (broker, database):
            broker.server, database.server = rabbitmq, postgres
            yield broker, database


@contextmanager
def _corner(
    broker_url: str, management: str, database_url: str, ctl: Path
) -> Iterator[tuple[Broker, Postgres]]:
    name = f"chaos_{secrets.token_hex(6)}"
    broker = Broker(_with_path(broker_url, name), management, ctl)
    database = Postgres(_with_path(database_url, name))
    broker.make_vhost()
    server = Postgres(database_url)
    server.query(f"CREATE DATABASE {name}")
    server.forget()
    try:
        yield broker, database
    finally:
        database.forget()
        if broker.server is None:  # servers of its own are thrown away as they are
            broker.api("DELETE", f"/vhosts/{name}")
            server.query(f"DROP DATABASE {name} WITH (FORCE)")
            server.forget()


def _with_path(url: str, name: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))
