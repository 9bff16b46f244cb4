"""What flow's commands ask of the dispatcher, without a process for each: the same rows, the same
bell. It never waits, so it can be used while the dispatcher is dying of the request."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime

from dispatcher.store import open_database
from dispatcher.store.reader import Reader
from flow.cli.trigger import new_run_id
from flow.cli.wake import wake_by_broker

_ACTOR = "user chaos"


class Desk:
    """Over one database and broker; use it on one thread."""

    def __init__(self, database_url: str, broker_url: str) -> None:
        self._database = open_database(database_url)
        self._reader = Reader(self._database)
        self._broker_url = broker_url

    def trigger(self, dag_id: str) -> str:
        """As ``flow dags trigger``; the run's id."""
        run_id = new_run_id(datetime.now(UTC), secrets.token_hex(2))
        self.ask("trigger", dag_id=dag_id, run_id=run_id, conf={})
        return run_id

    def ask(self, kind: str, **arguments: object) -> None:
        """Ask for anything. Raises FlowError while the database is away."""
        self._reader.request(kind, arguments, actor=_ACTOR, at=datetime.now(UTC))
        # A bell that cannot be rung costs a poll interval.
        wake_by_broker(self._broker_url)

    def close(self) -> None:
        """Hang up."""
        self._database.close()
