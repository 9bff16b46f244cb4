"""Secrets among the settings: shown only when asked."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow.config import SecretUrl, describe, load_config
from flow.config.schema import SPECS
from flow.errors import ConfigError

NOWHERE = Path("/nonexistent/flow.toml")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("amqp://flow:geheim@host:5672/v", "amqp://flow:***@host:5672/v"),
        ("amqp://flow@host", "amqp://flow@host"),
        ("amqp://:geheim@host/", "amqp://:***@host/"),
        ("amqp://flow:ge@heim@host/", "amqp://flow:***@host/"),
        ("amqp://f:geheim@[::1]:5672/%2Fv", "amqp://f:***@[::1]:5672/%2Fv"),
        ("postgresql://u:geheim@h/d?sslmode=require", "postgresql://u:***@h/d?sslmode=require"),
        (
            "postgresql:///d?host=/run&password=geheim&sslpassword=geheim",
            "postgresql:///d?host=/run&password=***&sslpassword=***",
        ),
        ("sqlite:////srv/flow.db", "sqlite:////srv/flow.db"),
    ],
)
def test_a_secret_url_shows_its_password_only_when_asked(url: str, shown: str) -> None:
    secret = SecretUrl(url)
    assert secret.reveal() == url
    assert str(secret) == f"{secret}" == shown
    assert repr(secret) == f"SecretUrl({shown!r})"


@given(st.text(st.characters(codec="ascii", exclude_characters=" ")))
def test_a_password_with_any_character_is_never_shown(middle: str) -> None:
    url = f"amqp://user:geheim{middle}geheim@host/"
    assert "geheim" not in _shown({"FLOW_BROKER_URL": url})


def _shown(variables: Mapping[str, str]) -> str:
    """All that anybody sees of these variables."""
    try:
        config = load_config(None, variables, default_file=NOWHERE)
    except ConfigError as error:
        return str(error)
    return f"{config!r} {describe(config)}"


def test_secret_urls_compare_by_value_and_survive_copies() -> None:
    secret = SecretUrl("amqp://u:p@h/")
    assert secret == SecretUrl("amqp://u:p@h/")
    assert secret != SecretUrl("amqp://u:q@h/")
    assert len({secret, pickle.loads(pickle.dumps(secret))}) == 1  # noqa: S301
    assert secret.scheme == "amqp"


def test_a_config_never_shows_a_password() -> None:
    environ = {
        "FLOW_BROKER_URL": "amqp://u:geheim@h/",
        "FLOW_DATABASE_URL": "postgresql://u:geheim@h/d",
    }
    config = load_config(None, environ, default_file=NOWHERE)
    assert "geheim" not in repr(config)
    assert "geheim" not in str(dataclasses.asdict(config))


@given(st.dictionaries(st.sampled_from([spec.variable for spec in SPECS]), st.text()))
def test_any_text_in_a_variable_gives_a_config_or_a_config_error(
    variables: Mapping[str, str],
) -> None:
    assert _shown(variables)
