"""What is said about wrong settings: full texts, all problems of a stage at once, no secrets."""

from __future__ import annotations

from pathlib import Path

import pytest

from flow.config import load_config
from flow.errors import ConfigError

NOWHERE = Path("/nonexistent/flow.toml")
HIDDEN = "(a secret, not shown)"
AMQP = "a URL like 'amqp://USER:PASSWORD@HOST:5672/VHOST'"
DATABASE = "a URL like 'postgresql://USER:PASSWORD@HOST:5432/DATABASE' or 'sqlite:////PATH'"
ESCAPE = "write special characters of the password as %XX (/ is %2F, @ is %40)"
NAME = "1 to 100 lower-case letters, digits, '-'"
QUEUE = "1 to 100 letters, digits, '.', '_', '-'"
SECONDS = "a number of seconds, more than 0, at most 315360000"


def error_of_file(folder: Path, text: str | bytes) -> str:
    """What is said about *text* as flow.toml, less the folder."""
    file = folder / "flow.toml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        load_config(file, {})
    return str(caught.value).replace(f"{folder}/", "")


def error_of_variable(**variables: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(None, variables, default_file=NOWHERE)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[agent]\nslots =",
            "flow.toml:2:8: expected TOML, got an error: Invalid value",
        ),
        (
            "[agent]\nslots = 1\nslots = 2\n",
            "flow.toml:3:10: expected TOML, got an error: Cannot overwrite a value",
        ),
        (b"[agent]\nname = '\xff'", "flow.toml:2: expected UTF-8, got the byte b'\\xff'"),
        ("[agnt]\nslots = 1", "flow.toml:1: unknown section [agnt]; did you mean 'agent'?"),
        (
            "[celery]\nslots = 1",
            (
                "flow.toml:1: unknown section [celery]; there are agent, broker, core, dags, "
                "database, dispatcher, lease, logs, xcom"
            ),
        ),
        (
            "\n[agent]\nqueus = ['a']",
            "flow.toml:3: unknown key 'agent.queus'; did you mean 'queues'?",
        ),
        (
            "[core]\nslots = 1",
            "flow.toml:2: unknown key 'core.slots'; it belongs to [agent]",
        ),
        (
            "[logs]\ncolour = 'red'",
            "flow.toml:2: unknown key 'logs.colour'; it has folder",
        ),
        ("slots = 3", "flow.toml:1: unknown key 'slots'; it belongs to [agent]"),
        ("hme = '/x'", "flow.toml:1: unknown key 'hme'; did you mean 'home'?"),
        (
            "broker = 'amqp://u:geheim@h/'",
            "flow.toml:1: expected a section [broker], got a value of type str",
        ),
        (
            "[[agent]]\nname = 'a'",
            "flow.toml:1: expected a section [agent], got a value of type list",
        ),
        (
            "[agent]\nslots = 'four'",
            "flow.toml:2: agent.slots: expected a whole number from 1 to 10000, got 'four'",
        ),
        (
            "agent.slots = true",
            "flow.toml:1: agent.slots: expected a whole number from 1 to 10000, got True",
        ),
        (
            "agent.slots = 2.0",
            "flow.toml:1: agent.slots: expected a whole number from 1 to 10000, got 2.0",
        ),
        ("lease.margin = nan", f"flow.toml:1: lease.margin: expected {SECONDS}, got nan"),
        ("lease.margin = inf", f"flow.toml:1: lease.margin: expected {SECONDS}, got inf"),
        ("lease.margin = 0", f"flow.toml:1: lease.margin: expected {SECONDS}, got 0"),
        ("lease.margin = true", f"flow.toml:1: lease.margin: expected {SECONDS}, got True"),
        (
            "agent.kill_grace = -1",
            (
                "flow.toml:1: agent.kill_grace: expected a number of seconds, 0 or more, "
                "at most 315360000, got -1"
            ),
        ),
        (
            "agent.queues = 'gpu'",
            f"flow.toml:1: agent.queues: expected a list of 1 or more names of {QUEUE}, got 'gpu'",
        ),
        (
            "agent.queues = []",
            f"flow.toml:1: agent.queues: expected a list of 1 or more names of {QUEUE}, got []",
        ),
        (
            "agent.queues = ['gpu', 'g p u']",
            (
                f"flow.toml:1: agent.queues: expected a list of 1 or more names of {QUEUE}, "
                "got 'g p u'"
            ),
        ),
        (
            "agent.queues = [7]",
            f"flow.toml:1: agent.queues: expected a list of 1 or more names of {QUEUE}, got 7",
        ),
        (
            "agent.name = 'Node_1'",
            f"flow.toml:1: agent.name: expected a name of {NAME}, got 'Node_1'",
        ),
        ("logs.folder = 1", "flow.toml:1: logs.folder: expected the path of a folder, got 1"),
        ("logs.folder = ''", "flow.toml:1: logs.folder: expected the path of a folder, got ''"),
        (
            "logs.folder = '~nobody-here/x'",
            (
                "flow.toml:1: logs.folder: expected the path of a folder, got '~nobody-here/x'; "
                "no home directory is known for '~nobody-here'"
            ),
        ),
        (
            "broker.url = 5",
            (f"flow.toml:1: broker.url: expected {AMQP}, got one that is no string {HIDDEN}"),
        ),
        (
            "broker.url = ['amqp://u:geheim@h/']",
            (f"flow.toml:1: broker.url: expected {AMQP}, got one that is no string {HIDDEN}"),
        ),
    ],
)
def test_a_wrong_file_is_answered_with_file_line_and_remedy(
    tmp_path: Path, text: str | bytes, message: str
) -> None:
    said = error_of_file(tmp_path, text)
    assert said == message
    assert "geheim" not in said


def test_a_misspelt_time_zone_is_answered_with_the_nearest_one(tmp_path: Path) -> None:
    said = error_of_file(tmp_path, "core.default_timezone = 'Europe/Berln'")
    assert said.startswith(
        "flow.toml:1: core.default_timezone: expected a time zone such as 'UTC' or "
        "'Europe/Berlin', got 'Europe/Berln'; "
    )
    assert said.endswith(("did you mean 'Europe/Berlin'?", "(package tzdata)"))


@pytest.mark.parametrize("zone", ["", "Europe", "../etc/passwd", "/etc/passwd", "a\0b", "é"])
def test_what_is_no_time_zone_is_refused(zone: str) -> None:
    assert error_of_variable(FLOW_CORE_DEFAULT_TIMEZONE=zone).startswith(
        "FLOW_CORE_DEFAULT_TIMEZONE: expected a time zone"
    )


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", f"does not begin with amqp:// or amqps:// {HIDDEN}"),
        ("geheim", f"does not begin with amqp:// or amqps:// {HIDDEN}"),
        ("http://u:geheim@h/", f"does not begin with amqp:// or amqps:// {HIDDEN}"),
        ("amqp:///geheim", f"names no host {HIDDEN}"),
        ("amqp://u:ge/heim@h/", f"cannot be taken apart {HIDDEN}; {ESCAPE}"),
        ("amqp://u:1/geheim@h/", f"cannot be taken apart {HIDDEN}; {ESCAPE}"),
        ("amqp://u:1#geheim@h/", f"cannot be taken apart {HIDDEN}; {ESCAPE}"),
        ("amqp://u:geheim@h:99999/", f"cannot be taken apart {HIDDEN}; {ESCAPE}"),
        ("amqp://u:[geheim@h/", f"cannot be taken apart {HIDDEN}; {ESCAPE}"),
        ("amqp://u:geheim@h/ ", f"holds a blank or a control character {HIDDEN}"),
        ("amqp://u:geheim@h\n/", f"holds a blank or a control character {HIDDEN}"),
    ],
)
def test_a_wrong_broker_url_is_never_shown(url: str, reason: str) -> None:
    said = error_of_variable(FLOW_BROKER_URL=url)
    assert said == f"FLOW_BROKER_URL: expected {AMQP}, got one that {reason}"
    assert "geheim" not in said
    assert "heim" not in said


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("mysql://u:geheim@h/d", f"does not begin with postgresql:// or sqlite:/// {HIDDEN}"),
        ("postgresql://u:geheim@h", f"names no database {HIDDEN}"),
        ("postgresql://u:geheim@h/", f"names no database {HIDDEN}"),
        (
            "sqlite://geheim",
            (f"does not begin with sqlite:/// {HIDDEN}; an absolute path makes four slashes"),
        ),
        ("sqlite:///", f"names no file {HIDDEN}"),
        ("sqlite:////srv/", f"names no file {HIDDEN}"),
        (
            "sqlite:///:memory:",
            (f"is in memory {HIDDEN}; flow's processes share the database through a file"),
        ),
        ("sqlite:///a.db?mode=ro", f"has parameters {HIDDEN}; flow sets SQLite up itself"),
    ],
)
def test_a_wrong_database_url_is_never_shown(url: str, reason: str) -> None:
    said = error_of_variable(FLOW_DATABASE_URL=url)
    assert said == f"FLOW_DATABASE_URL: expected {DATABASE}, got one that {reason}"


def test_all_unknown_names_are_said_at_once(tmp_path: Path) -> None:
    said = error_of_file(tmp_path, "[agent]\nslot = 1\n[brokr]\n[lease]\ngrac = 1\n")
    assert said.splitlines() == [
        "flow.toml:2: unknown key 'agent.slot'; did you mean 'slots'?",
        "flow.toml:3: unknown section [brokr]; did you mean 'broker'?",
        "flow.toml:5: unknown key 'lease.grac'; did you mean 'grace'?",
    ]


def test_all_wrong_values_are_said_at_once_in_the_order_of_the_page(tmp_path: Path) -> None:
    file = tmp_path / "flow.toml"
    file.write_text("[agent]\nslots = 0\n[dags]\nparse_timeout = 'x'\n")
    with pytest.raises(ConfigError) as caught:
        load_config(file, {"FLOW_LEASE_GRACE": "-1"}, options={"agent.name": ("--name", "A")})
    assert str(caught.value).splitlines() == [
        f"{file}:4: dags.parse_timeout: expected {SECONDS}, got 'x'",
        f"--name: expected a name of {NAME}, got 'A'",
        f"{file}:2: agent.slots: expected a whole number from 1 to 10000, got 0",
        f"FLOW_LEASE_GRACE: expected {SECONDS}, got -1",
    ]


def test_a_heartbeat_that_is_too_rare_for_its_lease_is_refused(tmp_path: Path) -> None:
    text = "[lease]\nheartbeat_interval = 20\nduration = 60\ngrace = 60"
    assert error_of_file(tmp_path, text) == (
        "flow.toml:2, flow.toml:3: expected lease.duration - lease.margin (60 - 5) to be at least "
        "3 times lease.heartbeat_interval (20), so that two lost heartbeats end no lease; "
        "raise lease.duration to 65"
    )


def test_a_grace_too_short_to_notice_an_alarm_is_refused() -> None:
    assert error_of_variable(FLOW_LEASE_GRACE="10") == (
        "FLOW_LEASE_GRACE: expected lease.grace (10) to be at least 3 times "
        "lease.heartbeat_interval (5), so that no alarm of the broker is taken for an agent's "
        "silence; raise lease.grace to 15"
    )


def test_a_kill_that_outlasts_the_margin_is_refused() -> None:
    assert error_of_variable(FLOW_AGENT_KILL_GRACE="6") == (
        "FLOW_AGENT_KILL_GRACE: expected agent.kill_grace (6) to be at most lease.margin (5), so "
        "that an agent cut off has killed its tasks when its lease ends; lower agent.kill_grace "
        "to 5 or raise lease.margin to 6"
    )


def test_a_long_wrong_value_is_cut() -> None:
    said = error_of_variable(FLOW_AGENT_SLOTS="x" * 5000)
    assert said.endswith("xxx...")
    assert len(said) < 250


@pytest.mark.parametrize("text", ["1" * 5000, "[" * 5000])
def test_toml_that_breaks_the_parser_is_one_clear_line(tmp_path: Path, text: str) -> None:
    said = error_of_file(tmp_path, f"agent.slots = {text}")
    assert said.startswith("flow.toml")
    assert "expected TOML, got an error: " in said
    assert "\n" not in said


def test_a_missing_file_is_an_error_where_it_was_asked_for(tmp_path: Path) -> None:
    missing = tmp_path / "missing.toml"
    with pytest.raises(ConfigError) as given:
        load_config(missing, {})
    assert str(given.value) == (
        f"{missing}: expected a configuration file, got 'No such file or directory'"
    )
    assert error_of_variable(FLOW_CONFIG=str(missing)) == (
        f"{missing} (from FLOW_CONFIG): expected a configuration file, "
        "got 'No such file or directory'"
    )


def test_the_default_file_may_be_missing_but_not_unreadable(tmp_path: Path) -> None:
    load_config(None, {}, default_file=tmp_path / "missing.toml")
    load_config(None, {}, default_file=tmp_path / "missing" / "flow.toml")
    with pytest.raises(ConfigError) as caught:
        load_config(None, {}, default_file=tmp_path)
    assert str(caught.value) == f"{tmp_path}: expected a configuration file, got 'Is a directory'"


def test_a_config_error_exits_with_3() -> None:
    assert ConfigError("x").exit_code == 3
