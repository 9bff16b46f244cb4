"""Which checks there are, for whom."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from flow.cli.checks import broker, database, machine, node, queues, rights, settings, units
from flow.cli.checks.finding import Chain, Check, problem, problems
from flow.cli.checks.subjects import Subject, Who, find_subject, guess
from flow.errors import ConfigError


def plan(path: Path | None, whom: list[Who] | None) -> list[Chain]:
    """All checks of this machine with the settings file *path*. *whom*: ``None`` for whoever seems
    to be at home."""
    chains: list[Chain] = [[Check("clock", machine.check_clock)]]
    try:
        chosen = guess(path, os.environ) if whom is None else whom
    except ConfigError as error:
        return [*chains, [_broken("settings", error)]]
    for who in chosen:
        try:
            subject = find_subject(who, path, os.environ)
        except ConfigError as error:
            chains.append([_broken(_prefixed("settings", who, chosen), error)])
            continue
        subject = replace(subject, beside_dispatcher=None in chosen)
        chains += _named(chains_of(subject), subject if len(chosen) > 1 else None)
    return chains


def chains_of(subject: Subject) -> Iterator[Chain]:
    """All that concern a dispatcher, or an agent."""
    config, user = subject.config, subject.unit.user if subject.unit else ""
    yield [Check("user", partial(units.check_user, subject.unit, units.own_name()))]
    yield [Check("settings", partial(settings.check_settings, subject))]
    yield [Check("unit", partial(units.check_unit, subject.unit, subject.unit_name))]
    if subject.agent is None:
        folders = [config.home, config.logs.folder]
        look = partial(machine.check_dags, config.dags.folder, config.dags.python, subject.environ)
        yield [Check("dags", look)]
        yield list(_of_database(subject))
    else:
        folders = [config.home]
        yield [Check("programs", partial(node.check_programs, subject))]
        yield [Check("cgroups", partial(node.check_cgroups, subject.unit))]
        cache = partial(node.check_cache, config.home / "cache", config.agent.cache_max_bytes)
        yield [Check("code cache", cache)]
    yield [Check("disk", partial(machine.check_folders, folders, user))]
    if subject.agent is not None or not _is_alone(subject):
        yield [Check("tls", partial(broker.check_security, subject), "correct broker.*_file")]
        yield list(_of_broker(subject))


def _is_alone(subject: Subject) -> bool:
    """`flow standalone` is what there seems to be, which needs no broker."""
    return subject.config.database.is_sqlite and "broker.url" not in subject.config.sources


def _of_database(subject: Subject) -> Iterator[Check]:
    if importlib.util.find_spec("peewee") is None:
        missing = problem(
            "the libraries for the database are not installed",
            "pip install 'flow-dispatch[dispatcher]'",
        )
        yield Check("database", lambda: [missing])
        return
    remedy = "is it running, and database.url right?"
    if not subject.config.database.is_sqlite:
        yield Check("database", partial(database.check_database, subject), remedy)
    yield Check("schema", partial(database.check_schema, subject), remedy)


def _of_broker(subject: Subject) -> Iterator[Check]:
    remedy = "is it running there, and broker.url right?"
    if subject.unit is not None and "CREDENTIALS_DIRECTORY" not in subject.environ:
        remedy += f" its password is known while {subject.unit_name} runs, to root"
    yield Check("broker", partial(broker.check_broker, subject), remedy)
    yield Check("rights", partial(rights.check_rights, subject), remedy)
    if subject.agent is not None:
        yield Check("queues", partial(queues.check_queues, subject), remedy)
    yield Check("consumer_timeout", partial(broker.check_consumer_timeout, subject))


def _broken(name: str, error: ConfigError) -> Check:
    return Check(name, lambda: problems(error, "correct it, see docs/configuration.md"))


def _prefixed(name: str, who: Who, whom: list[Who]) -> str:
    if len(whom) == 1:
        return name
    return f"{'dispatcher' if who is None else f'agent {who}'.strip()} {name}"


def _named(chains: Iterator[Chain], subject: Subject | None) -> Iterator[Chain]:
    if subject is None:
        yield from chains
        return
    whose = "dispatcher" if subject.agent is None else subject.agent
    for chain in chains:
        yield [replace(check, name=f"{whose} {check.name}") for check in chain]
