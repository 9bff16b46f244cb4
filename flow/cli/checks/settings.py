"""The settings: which file, what is wrong in it, who else may read its secrets."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from flow.cli.checks.finding import Judgement, note, ok, warning
from flow.cli.checks.subjects import Subject
from flow.config import Config


def check_settings(subject: Subject) -> Iterator[Judgement]:
    """What was read, and what its reader warned of."""
    config = subject.config
    file = f"{config.file} was read" if config.file else "there is no file"
    yield ok(f"{file}; {len(config.sources)} set, `flow config show` lists them")
    for text in config.warnings:
        what, _, remedy = text.partition("; ")
        yield warning(what, remedy or "correct or remove it")
    yield from _secrets(config)
    if subject.agent is None and not (config.dispatcher.verify_users or config.database.is_sqlite):
        yield note(
            "dispatcher.verify_users is off: who may log in at the broker may pass for an agent",
            "give each agent a broker user of its own, then switch it on (docs/broker.md)",
        )
    if subject.agent is not None and not subject.beside_dispatcher:
        yield from _database_on_a_node(subject)


def _secrets(config: Config) -> Iterator[Judgement]:
    for path, what in secret_files(config).items():
        try:
            mode = path.stat().st_mode
        except OSError:
            continue  # told where it is used
        if mode & (stat.S_IROTH | stat.S_IWOTH):
            yield warning(
                f"{path} holds {what}, and everybody on this machine may read it "
                f"(mode {stat.S_IMODE(mode):04o})",
                f"chmod o-rwx {path}",
            )


def secret_files(config: Config) -> dict[Path, str]:
    """Files that hold a secret, and which."""
    found: dict[Path, str] = {}
    for section, url in (("broker", config.broker.url), ("database", config.database.url)):
        source = config.sources.get(f"{section}.url", "")
        written = config.file is not None and source.startswith(f"{config.file}:")
        if url.has_password and written and "password from" not in source:
            assert config.file is not None, "written in it"
            found[config.file] = f"the password of {section}.url"
    for section, password in (
        ("broker", config.broker.password_file),
        ("database", config.database.password_file),
    ):
        if password is not None:
            found[password] = f"the password of {section}.url"
    key = config.broker.key_file or config.broker.cert_file
    if key is not None:
        found[key] = "the private key of broker.cert_file"
    return found


def _database_on_a_node(subject: Subject) -> Iterator[Judgement]:
    """Tasks run as the agent's user: what it can read, they can."""
    source = subject.config.sources.get("database.url")
    folder = subject.environ.get("CREDENTIALS_DIRECTORY")
    if source is not None:
        yield warning(
            f"{source} says where the database is, which no agent needs and every task here may "
            "read",
            "remove it, unless a dispatcher runs here as well",
        )
    elif folder and os.access(Path(folder, "database-password"), os.R_OK):
        yield warning(
            f"the database's password is in {folder}, which no agent needs",
            "remove the credential from the agent's unit",
        )
