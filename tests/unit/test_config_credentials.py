"""Passwords that come from files."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg2.extensions import parse_dsn
from yarl import URL

from flow.config import (
    AGENT_SECTIONS,
    DISPATCHER_SECTIONS,
    SECTIONS,
    Config,
    SecretUrl,
    describe,
    load_config,
)
from flow.errors import ConfigError

NOWHERE = Path("/nonexistent/flow.toml")
BROKER = "amqp://flow@rabbit:5672/v"
DATABASE = "postgresql://flow@db/flow"


def load(concerns: frozenset[str] = DISPATCHER_SECTIONS, **environ: object) -> Config:
    variables = {"HOME": "/root", **{name: str(value) for name, value in environ.items()}}
    return load_config(None, variables, concerns=concerns, default_file=NOWHERE)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text("gehe:/@im%\n")
    return path


@pytest.fixture
def credentials(tmp_path: Path) -> Path:
    folder = tmp_path / "credentials"
    folder.mkdir()
    (folder / "broker-password").write_text("of the broker")
    (folder / "database-password").write_text("of the database\n")
    return folder


def test_the_password_of_a_url_may_be_in_a_file(secret: Path) -> None:
    config = load(FLOW_BROKER_URL=BROKER, FLOW_BROKER_PASSWORD_FILE=secret)
    url = URL(config.broker.url.reveal())
    assert (url.user, url.password, url.host, url.path) == ("flow", "gehe:/@im%", "rabbit", "/v")
    config = load(FLOW_DATABASE_URL=DATABASE, FLOW_DATABASE_PASSWORD_FILE=secret)
    parameters = parse_dsn(config.database.url.reveal())
    assert (parameters["user"], parameters["password"]) == ("flow", "gehe:/@im%")


def test_a_credential_of_the_unit_is_found_without_a_setting(credentials: Path) -> None:
    config = load(
        FLOW_BROKER_URL=BROKER, FLOW_DATABASE_URL=DATABASE, CREDENTIALS_DIRECTORY=credentials
    )
    assert URL(config.broker.url.reveal()).password == "of the broker"
    assert parse_dsn(config.database.url.reveal())["password"] == "of the database"


def test_a_setting_goes_before_the_credential(secret: Path, credentials: Path) -> None:
    config = load(
        FLOW_BROKER_URL=BROKER,
        FLOW_BROKER_PASSWORD_FILE=secret,
        CREDENTIALS_DIRECTORY=credentials,
    )
    assert URL(config.broker.url.reveal()).password == "gehe:/@im%"


def test_a_url_with_a_password_needs_no_credential(credentials: Path) -> None:
    broker = "amqp://flow:own@rabbit/"
    database = "postgresql:///flow?user=flow&password=own"
    config = load(
        FLOW_BROKER_URL=broker, FLOW_DATABASE_URL=database, CREDENTIALS_DIRECTORY=credentials
    )
    assert config.broker.url.reveal() == broker
    assert config.database.url.reveal() == database


@pytest.mark.parametrize("content", ["", "\n"])
def test_an_empty_credential_is_none_as_the_units_have_it(tmp_path: Path, content: str) -> None:
    (tmp_path / "broker-password").write_text(content)
    config = load(FLOW_BROKER_URL=BROKER, CREDENTIALS_DIRECTORY=tmp_path)
    assert config.broker.url.reveal() == BROKER


def test_sqlite_takes_no_credential(credentials: Path) -> None:
    config = load(FLOW_DATABASE_URL="sqlite:////srv/flow.db", CREDENTIALS_DIRECTORY=credentials)
    assert config.database.url.reveal() == "sqlite:////srv/flow.db"


def test_an_agent_reads_no_password_of_the_database(credentials: Path) -> None:
    (credentials / "database-password").unlink()
    (credentials / "database-password").mkdir()  # reading it would fail
    config = load(AGENT_SECTIONS, FLOW_DATABASE_URL=DATABASE, CREDENTIALS_DIRECTORY=credentials)
    assert config.database.url.reveal() == DATABASE


def test_a_password_without_a_user_is_an_agents_own(credentials: Path) -> None:
    config = load(
        AGENT_SECTIONS, FLOW_BROKER_URL="amqp://rabbit/v", CREDENTIALS_DIRECTORY=credentials
    )
    assert str(config.broker.url) == "amqp://:***@rabbit/v"
    url = URL(config.broker.url.with_user("gpu1-gpu").reveal())
    assert (url.user, url.password) == ("gpu1-gpu", "of the broker")


@pytest.mark.parametrize("url", ["amqp://rabbit/", "amqp://flow@rabbit/", "amqp://u:p@rabbit/"])
def test_a_user_is_put_only_where_a_password_lacks_one(url: str) -> None:
    assert SecretUrl(url).with_user("node1").reveal() == url


def test_what_is_shown_says_where_the_password_comes_from_and_nothing_of_it(
    secret: Path,
) -> None:
    config = load(SECTIONS, FLOW_BROKER_URL=BROKER, FLOW_BROKER_PASSWORD_FILE=secret)
    (shown,) = [item for item in describe(config) if (item.section, item.key) == ("broker", "url")]
    assert shown.value == "amqp://flow:***@rabbit:5672/v"
    assert shown.source == f"FLOW_BROKER_URL, password from {secret}"
    assert "gehe" not in f"{config!r} {describe(config)}"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "expected a password in {file}, got an empty file"),
        (
            b"gehe\nim\n",
            (
                "expected a readable file with the password, got more than one line, control "
                "characters or more than 4096 bytes (not shown): {file}; it holds the password "
                "alone"
            ),
        ),
        (
            b"\xffgeheim",
            (
                "expected a readable file with the password, got one that is no UTF-8 (not shown): "
                "{file}"
            ),
        ),
        (
            None,
            (
                "expected a readable file with the password, got 'No such file or directory' for "
                "{file}; it must be there, and readable for this user"
            ),
        ),
    ],
)
def test_a_file_that_will_not_do_is_named_and_its_content_is_not(
    tmp_path: Path, content: bytes | None, problem: str
) -> None:
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError) as refused:
        load(FLOW_BROKER_URL=BROKER, FLOW_BROKER_PASSWORD_FILE=file)
    assert str(refused.value) == f"FLOW_BROKER_PASSWORD_FILE: {problem.format(file=file)}"


def test_two_passwords_are_one_too_many(secret: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        load(FLOW_BROKER_URL="amqp://flow:other@rabbit/", FLOW_BROKER_PASSWORD_FILE=secret)
    assert str(refused.value) == (
        "FLOW_BROKER_PASSWORD_FILE: expected broker.url without a password, got one in both "
        "places (a secret, not shown); remove it from the URL"
    )


def test_a_password_that_is_nobodys_is_refused(credentials: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        load(FLOW_BROKER_URL="amqp://rabbit/", CREDENTIALS_DIRECTORY=credentials)
    assert str(refused.value) == (
        f"broker.url without a password: expected a user in broker.url, to go with the password "
        f"in {credentials}/broker-password, got none; write amqp://USER@HOST/..."
    )


@given(st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=40))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_printable_password_arrives_as_it_is_and_is_never_shown(
    tmp_path: Path, password: str
) -> None:
    file = tmp_path / "password"
    file.write_text(f"geheim{password}\n", encoding="utf-8")
    config = load(
        FLOW_BROKER_URL=BROKER,
        FLOW_BROKER_PASSWORD_FILE=file,
        FLOW_DATABASE_URL=DATABASE,
        FLOW_DATABASE_PASSWORD_FILE=file,
    )
    assert URL(config.broker.url.reveal()).password == f"geheim{password}"
    assert parse_dsn(config.database.url.reveal())["password"] == f"geheim{password}"
    assert "geheim" not in f"{config!r} {describe(config)}"
