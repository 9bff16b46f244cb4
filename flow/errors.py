"""The one tree of errors that flow raises on purpose.

Everything a user can cause is a :class:`FlowError`: the command line prints its message as one
line and exits with its ``exit_code``. Any other exception is a bug in flow and keeps its
traceback. Messages follow one grammar: ``<where>: expected <what>, got <repr>; <remedy>``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FlowError(Exception):
    """A failure that has an explanation for the user. A command exits with ``exit_code``."""

    exit_code = 1


class UsageError(FlowError):
    """The command line is wrong: an option, an argument, JSON that is not JSON."""

    exit_code = 2


class ConfigError(FlowError):
    """A setting in flow.toml or in the environment is wrong, or its file is."""

    exit_code = 3


class DagError(FlowError):
    """A DAG file is wrong. The message names file, line, DAG and task."""


class MessageError(FlowError):
    """A message is not one of flow's: not JSON, an unknown type, a newer version, too large."""


class TransportError(FlowError):
    """The broker cannot be used now; trying again later may help."""

    exit_code = 4


class BrokerRefused(TransportError):
    """The broker answered and said no: wrong credentials, unknown virtual host, no permission."""


class Unroutable(TransportError):
    """A mandatory message came back: no queue is bound under its routing key."""


class StoreError(FlowError):
    """The database cannot be used now, or refused. The outcome of a commit may be unknown."""

    exit_code = 5


class DatabaseRefused(StoreError):
    """The database answered and said no: wrong credentials, unknown database, no permission."""


class SchemaError(StoreError):
    """The database's schema is not this release's: not migrated, or migrated by a newer one."""


class EpochLost(StoreError):
    """Another dispatcher leads now: this one's writes are refused."""


class GuardFailed(StoreError):
    """A guarded write found another state in the database than the core had in memory."""


class UnknownName(FlowError):
    """A DAG, run, task, queue or agent that does not exist, or a name that fits several."""

    exit_code = 6


def nearest(name: str, known: Iterable[str]) -> str:
    """The remedy clause for a misspelt *name*: ``"; did you mean 'prefetch'?"``, or ``""``."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {match[0]!r}?" if match else ""
