"""One invocation of a command: its global options, and what it opens once it needs it."""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from peewee import Database

    from dispatcher.store.reader import Reader
    from flow.config import Config

#: What commands read of the settings; an agent's are not theirs, nor is how DAG files are read.
COMMAND_SECTIONS = frozenset({"broker", "database", "dispatcher", "logs"})


class Invocation:
    """What the global options said, and the settings and database opened lazily after them."""

    def __init__(self, program: str = "flow") -> None:
        self.program = program
        self.config_path: str | None = None
        self.verbose = False
        self._config: Config | None = None
        self._database: Database | None = None

    def config(
        self,
        concerns: Collection[str] = COMMAND_SECTIONS,
        options: Mapping[str, tuple[str, object]] | None = None,
        *,
        instance: str = "",
    ) -> Config:
        """The settings, read at the first call. *concerns* are the sections this process uses:
        what is wrong in the others does not stop it; *options* and *instance* are as in
        ``load_config``.

        Raises :class:`~flow.errors.ConfigError`.
        """
        if self._config is None:
            self._config = self._read_config(concerns, options, instance)
        return self._config

    def reread(
        self,
        concerns: Collection[str],
        options: Mapping[str, tuple[str, object]] | None = None,
        *,
        instance: str = "",
    ) -> Config:
        """The settings as they are now, for a daemon that reloads. Raises
        :class:`~flow.errors.ConfigError`."""
        return self._read_config(concerns, options, instance)

    def _read_config(
        self,
        concerns: Collection[str],
        options: Mapping[str, tuple[str, object]] | None,
        instance: str,
    ) -> Config:
        from flow.config import load_config

        path = None if self.config_path is None else Path(self.config_path)
        config = load_config(
            path, os.environ, concerns=concerns, options=options, instance=instance
        )
        for warning in config.warnings:
            self.warn(warning)
        return config

    def database(self) -> Database:
        """The database, migrated or not. Raises :class:`~flow.errors.StoreError`."""
        if self._database is None:
            from dispatcher.store import open_database

            self._database = open_database(self.config().database.url.reveal())
        return self._database

    def migrated_database(self) -> Database:
        """The database, which must be migrated. Raises :class:`~flow.errors.StoreError`."""
        from dispatcher.store import check_schema

        check_schema(self.database())
        return self.database()

    def reader(self) -> Reader:
        """The migrated database's reader. Raises :class:`~flow.errors.StoreError`."""
        from dispatcher.store.reader import Reader

        return Reader(self.migrated_database(), parallelism=self.config().dispatcher.parallelism)

    @property
    def log_level(self) -> str:
        """How much a daemon says."""
        return "DEBUG" if self.verbose else "INFO"

    def say(self, text: str) -> None:
        """Tell the user something that is not the result."""
        print(f"{self.program}: {text}", file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        """Tell the user of something to look at."""
        self.say(f"warning: {text}")

    def close(self) -> None:
        """Close what was opened. Safe twice."""
        database, self._database = self._database, None
        if database is not None:
            database.close()


#: Hands the :class:`Invocation` to a command as its first argument.
pass_invocation = click.make_pass_decorator(Invocation)


def actor() -> str:
    """Who runs the command, for the audit: ``user <name>``."""
    try:
        return f"user {getpass.getuser()}"
    except (KeyError, OSError):  # no entry in passwd, as in some containers
        return f"user {os.getuid()}"
