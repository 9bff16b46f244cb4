"""Who is to be checked on this machine: its dispatcher, and each of its agents, with the settings
that their units would give them."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from flow.cli.checks.units import AGENT, DISPATCHER, Unit, agent_instances, read_unit
from flow.config import AGENT_SECTIONS, DISPATCHER_SECTIONS, Config, load_config
from flow.config.layers import DEFAULT_FILE, instances_in, read_file

#: Who may be checked: ``None`` is the dispatcher, else the instance of an agent (``""``: the one
#: that is not one of several).
Who = str | None


@dataclass(frozen=True, slots=True)
class Subject:
    """A dispatcher or an agent."""

    config: Config
    environ: Mapping[str, str]
    """What its process would see."""
    unit_name: str
    unit: Unit | None
    agent: str | None = None
    """The agent's name; ``None``: the dispatcher."""
    beside_dispatcher: bool = False
    """Whether this machine has a dispatcher as well."""

    @property
    def url(self) -> str:
        """The broker's, with its password. Never show it."""
        url = self.config.broker.url
        return (url if self.agent is None else url.with_user(self.agent)).reveal()


def find_subject(who: Who, path: Path | None, environ: Mapping[str, str]) -> Subject:
    """*who* with its settings; what *environ* sets goes before what its unit sets.

    Raises :class:`~flow.errors.ConfigError`.
    """
    name = DISPATCHER if who is None else AGENT.format(who)
    # An agent that is not one of several has no unit.
    unit = read_unit(name) if who != "" else None
    seen = {**(unit.settings if unit is not None else {}), **environ}
    concerns = DISPATCHER_SECTIONS if who is None else AGENT_SECTIONS
    if who is None:
        return Subject(load_config(path, seen, concerns=concerns), seen, name, unit)
    from agent.service import agent_name
    from flow.cli.agent import unescaped

    config = load_config(path, seen, concerns=concerns, instance=unescaped(who))
    return Subject(config, seen, name if who else "flow-agent", unit, agent_name(config))


def guess(path: Path | None, environ: Mapping[str, str]) -> list[Who]:
    """Who seems to be at home on this machine. Raises :class:`~flow.errors.ConfigError`."""
    config = load_config(path, environ, concerns=frozenset())
    file = read_file(path, environ, DEFAULT_FILE)
    return chosen(
        config,
        instances=sorted({*instances_in(file), *agent_instances()}),
        dispatcher_unit=read_unit(DISPATCHER) is not None,
        database_library=importlib.util.find_spec("peewee") is not None,
    )


def chosen(
    config: Config, *, instances: Collection[str], dispatcher_unit: bool, database_library: bool
) -> list[Who]:
    """The decision of :func:`guess`. Without its libraries no dispatcher can run, whatever the
    settings say."""

    def there(name: str) -> bool:
        # As far as this user may know; the checks say what it may not read.
        return os.access(config.home / name, os.F_OK)

    found: list[Who] = []
    told = "database.url" in config.sources or there("flow.db")
    if database_library and (told or dispatcher_unit):
        found.append(None)
    found.extend(instances)
    named = any(path.startswith("agent.") for path in config.sources)
    # Those of `flow standalone`, which needs no broker, live in its process.
    alone = config.database.is_sqlite and "broker.url" not in config.sources
    if not instances and (named or (there("agents") and not alone)):
        found.append("")
    return found or [None if database_library else ""]
