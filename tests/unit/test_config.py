"""Settings: where they come from, and what they become."""

from __future__ import annotations

import dataclasses
import json
import os
import pwd
from pathlib import Path
from typing import Protocol

import pytest

from flow.config import (
    AGENT_SECTIONS,
    DISPATCHER_SECTIONS,
    SECTIONS,
    Config,
    describe,
    load_config,
)
from flow.config.schema import SPECS
from flow.errors import ConfigError
from tools import settings_page

NOWHERE = Path("/nonexistent/flow.toml")


class Load(Protocol):
    def __call__(self, text: str = "", /, **variables: str) -> Config: ...


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def load(text: str = "", /, **variables: str) -> Config:
        file = tmp_path / "flow.toml"
        file.write_text(text)
        return load_config(file, {"HOME": "/home/ann", **variables})

    return load


def test_without_a_file_and_variables_the_defaults_hold() -> None:
    config = load_config(None, {"HOME": "/home/ann"}, default_file=NOWHERE)
    assert config.home == Path("/home/ann/.flow")
    assert config.broker.url.reveal() == "amqp://guest:guest@localhost:5672/"
    assert config.database.url.reveal() == "sqlite:////home/ann/.flow/flow.db"
    assert config.dags.folder == Path("/home/ann/.flow/dags")
    assert config.logs.folder == Path("/home/ann/.flow/logs")
    assert config.agent.queues == ("default",)
    assert config.agent.slots == len(os.sched_getaffinity(0))
    assert config.core.default_timezone == "UTC"
    assert (config.file, config.warnings, config.sources) == (None, (), {})


def test_every_default_is_a_value_that_its_own_setting_accepts(load: Load) -> None:
    written: dict[str, dict[str, object]] = {}
    for item in describe(load()):
        if item.section and item.value is not None and not item.key.endswith("url"):
            written.setdefault(item.section, {})[item.key] = item.value
    lines = [
        f"{section}.{key} = {json.dumps(value)}"
        for section, values in written.items()
        for key, value in values.items()
    ]
    read, default = load("\n".join(lines)), load()
    for section in SECTIONS:
        assert getattr(read, section) == getattr(default, section)


def test_the_environment_goes_before_the_file_and_options_before_both(tmp_path: Path) -> None:
    file = tmp_path / "flow.toml"
    file.write_text("[agent]\nslots = 1\nkill_grace = 1.5\nname = 'a'\n")
    config = load_config(
        file,
        {"FLOW_AGENT_SLOTS": "2", "FLOW_AGENT_NAME": "b"},
        options={"agent.name": ("--name", "c"), "agent.queues": ("--queue", ("q1", "q2"))},
    )
    assert config.agent.slots == 2
    assert config.agent.kill_grace == 1.5
    assert config.agent.name == "c"
    assert config.agent.queues == ("q1", "q2")
    assert config.sources == {
        "agent.name": "--name",
        "agent.queues": "--queue",
        "agent.slots": "FLOW_AGENT_SLOTS",
        "agent.kill_grace": f"{file}:3",
    }


def test_the_given_file_goes_before_that_of_the_variable_and_that_before_the_default(
    tmp_path: Path,
) -> None:
    for name in ("given", "variable", "default"):
        (tmp_path / name).write_text(f"agent.name = '{name}'")
    default = tmp_path / "default"
    environ = {"FLOW_CONFIG": str(tmp_path / "variable")}
    given = load_config(tmp_path / "given", environ, default_file=default)
    by_variable = load_config(None, environ, default_file=default)
    by_default = load_config(None, {"FLOW_CONFIG": ""}, default_file=default)
    assert [given.agent.name, by_variable.agent.name, by_default.agent.name] == [
        "given",
        "variable",
        "default",
    ]
    assert by_default.file == default


def test_variables_are_read_as_numbers_lists_paths_and_names() -> None:
    config = load_config(
        None,
        {
            "FLOW_HOME": "/srv/flow",
            "FLOW_BROKER_URL": "amqps://u:p@broker:5671/v",
            "FLOW_DATABASE_URL": "postgresql://u:p@db/flow",
            "FLOW_DAGS_FOLDER": "/srv/dags",
            "FLOW_AGENT_QUEUES": "q1, q2,gpu.a100,",
            "FLOW_AGENT_PASS_ENV": "CUDA_VISIBLE_DEVICES,LANG",
            "FLOW_LEASE_GRACE": "20",
            "FLOW_DISPATCHER_LOOKAHEAD": "0",
            "FLOW_CORE_DEFAULT_TIMEZONE": "UTC",
        },
        default_file=NOWHERE,
    )
    assert config.home == Path("/srv/flow")
    assert config.logs.folder == Path("/srv/flow/logs")
    assert config.broker.url.reveal() == "amqps://u:p@broker:5671/v"
    assert config.database.url.reveal() == "postgresql://u:p@db/flow"
    assert config.dags.folder == Path("/srv/dags")
    assert config.agent.queues == ("q1", "q2", "gpu.a100")
    assert config.agent.pass_env == ("CUDA_VISIBLE_DEVICES", "LANG")
    assert config.lease.grace == 20.0
    assert isinstance(config.lease.grace, float)
    assert config.dispatcher.lookahead == 0


def test_the_home_folder_may_stand_in_the_file(load: Load) -> None:
    config = load("home = '/var/lib/flow'")
    assert config.logs.folder == Path("/var/lib/flow/logs")
    assert load("home = '/var/lib/flow'", FLOW_HOME="/tmp/x").home == Path("/tmp/x")  # noqa: S108


def test_relative_paths_start_from_the_files_folder_or_the_current_one(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    in_file = load("dags.folder = 'dags'\ndatabase.url = 'sqlite:///flow.db'")
    assert in_file.dags.folder == tmp_path / "dags"
    assert in_file.database.url.reveal() == f"sqlite:///{tmp_path}/flow.db"
    by_variable = load(FLOW_DAGS_FOLDER="dags", FLOW_DATABASE_URL="sqlite:///my flow.db")
    assert by_variable.dags.folder == here / "dags"
    assert by_variable.database.url.reveal() == f"sqlite:///{here}/my flow.db"


def test_a_file_named_by_a_relative_path_gives_absolute_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("flow.toml").write_text("logs.folder = 'logs'")
    assert load_config("flow.toml", {}).logs.folder == tmp_path / "logs"


def test_a_tilde_is_the_home_directory(load: Load) -> None:
    config = load(FLOW_DAGS_FOLDER="~/dags", FLOW_LOGS_FOLDER="~root/logs")
    assert config.dags.folder == Path("/home/ann/dags")
    assert config.logs.folder == Path("/root/logs")


def test_without_HOME_the_home_directory_is_that_of_the_user_database() -> None:  # noqa: N802
    config = load_config(None, {}, default_file=NOWHERE)
    assert config.home == Path(pwd.getpwuid(os.getuid()).pw_dir) / ".flow"


def test_sqlite_with_four_slashes_is_absolute(load: Load) -> None:
    assert load(FLOW_DATABASE_URL="sqlite:////srv/f.db").database.url.reveal() == (
        "sqlite:////srv/f.db"
    )


@pytest.mark.parametrize(
    "url",
    [
        "postgresql:///flow?host=/run/postgresql",
        "postgresql:///?host=/run/postgresql&dbname=flow",
        "postgres://u@db:5433/flow",
    ],
)
def test_postgres_urls_may_name_a_socket_or_the_short_scheme(load: Load, url: str) -> None:
    assert load(FLOW_DATABASE_URL=url).database.url.reveal() == url


def test_an_empty_variable_sets_an_optional_setting_back(load: Load) -> None:
    config = load(
        "agent.name = 'x'\nagent.pass_env = ['A']\ndags.python = '/opt/conda/bin/python'",
        FLOW_AGENT_NAME="",
        FLOW_AGENT_PASS_ENV="",
        FLOW_DAGS_PYTHON="",
    )
    assert (config.agent.name, config.agent.pass_env, config.dags.python) == (None, (), None)


def test_a_queue_named_twice_is_served_once(load: Load) -> None:
    assert load(FLOW_AGENT_QUEUES="b,a,b").agent.queues == ("b", "a")


def test_a_file_may_have_a_byte_order_mark_and_carriage_returns(tmp_path: Path) -> None:
    file = tmp_path / "flow.toml"
    file.write_bytes(b"\xef\xbb\xbf[agent]\r\nslots = 3\r\n")
    config = load_config(file, {})
    assert config.agent.slots == 3
    assert config.sources["agent.slots"] == f"{file}:2"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[agent]\n\n  slots = 3", 3),
        ("# slots = 1\nagent.slots = 3", 2),
        ('["agent"]\n"slots" = 3', 2),
        ("\n[ agent ] # nodes\nslots=3", 3),
        ("[logs]\nfolder = '/l'\nagent = 1\n[agent]\nslots = 3", None),
        ("\nagent = { slots = 3 }", 2),
    ],
)
def test_the_source_of_a_value_names_its_line(tmp_path: Path, text: str, line: int | None) -> None:
    file = tmp_path / "flow.toml"
    file.write_text(text)
    if line is None:
        with pytest.raises(ConfigError, match=r"flow\.toml:3: unknown key 'logs\.agent'"):
            load_config(file, {})
    else:
        assert load_config(file, {}).sources["agent.slots"] == f"{file}:{line}"


def test_short_leases_as_tests_use_them_are_accepted(load: Load) -> None:
    config = load(
        FLOW_LEASE_HEARTBEAT_INTERVAL="0.2",
        FLOW_LEASE_DURATION="2",
        FLOW_LEASE_MARGIN="0.5",
        FLOW_LEASE_GRACE="0.6",
        FLOW_AGENT_KILL_GRACE="0.3",
    )
    assert config.lease.duration == 2.0


def test_relations_hold_to_the_last_bit_of_a_float(load: Load) -> None:
    assert 3 * 0.1 > 0.5 - 0.2
    load(
        FLOW_LEASE_HEARTBEAT_INTERVAL="0.1",
        FLOW_LEASE_DURATION="0.5",
        FLOW_LEASE_MARGIN="0.2",
        FLOW_AGENT_KILL_GRACE="0.2",
    )


# -- what is shown ----------------------------------------------------------------------------


def test_describe_gives_every_setting_ready_for_json(load: Load, tmp_path: Path) -> None:
    config = load("[agent]\nslots = 3", FLOW_BROKER_URL="amqp://u:geheim@h/")
    rows = {(row.section, row.key): row for row in describe(config)}
    assert len(rows) == len(SPECS)
    assert "geheim" not in json.dumps([dataclasses.asdict(row) for row in rows.values()])
    broker = rows["broker", "url"]
    assert (broker.value, broker.source) == ("amqp://u:***@h/", "FLOW_BROKER_URL")
    slots = rows["agent", "slots"]
    assert (slots.value, slots.source) == (3, f"{tmp_path}/flow.toml:2")
    assert slots.variable == "FLOW_AGENT_SLOTS"
    assert rows["agent", "queues"].value == ["default"]
    assert rows["lease", "duration"].source == "default"
    assert rows["", "home"].variable == "FLOW_HOME"


# -- what a process does not use ---------------------------------------------------------------


def test_an_agent_starts_whatever_is_wrong_with_the_database() -> None:
    config = load_config(
        None,
        {"FLOW_DATABASE_URL": "mysql://u:geheim@h/d", "FLOW_DAGS_PARSING_PROCESSES": "many"},
        concerns=AGENT_SECTIONS,
        default_file=NOWHERE,
    )
    assert len(config.warnings) == 2
    assert all(line.endswith(" (ignored: not used here)") for line in config.warnings)
    assert "geheim" not in "".join(config.warnings)
    assert config.dags.parsing_processes == 2
    assert "database.url" not in config.sources


def test_an_unknown_key_in_a_section_of_others_is_a_warning(tmp_path: Path) -> None:
    file = tmp_path / "flow.toml"
    file.write_text("[database]\nurll = 'x'\n")
    config = load_config(file, {}, concerns=AGENT_SECTIONS)
    assert config.warnings == (
        f"{file}:2: unknown key 'database.urll'; did you mean 'url'? (ignored: not used here)",
    )
    with pytest.raises(ConfigError):
        load_config(file, {}, concerns=DISPATCHER_SECTIONS)


def test_relations_are_checked_only_by_processes_that_use_both_sides() -> None:
    environ = {"FLOW_AGENT_KILL_GRACE": "30"}
    load_config(None, environ, concerns=DISPATCHER_SECTIONS, default_file=NOWHERE)
    with pytest.raises(ConfigError):
        load_config(None, environ, concerns=AGENT_SECTIONS, default_file=NOWHERE)


def test_variables_that_are_nearly_a_settings_are_named_and_others_are_not(load: Load) -> None:
    config = load(
        FLOW_DAG_FOLDER="x",
        FLOW_LEASE_HEARTBEAT="1",
        FLOW_AGENT_QUEUE="q",
        FLOW_TASK_ID="extract",
        FLOW_TEST_BROKER_URL="amqp://h/",
        FLOW_DISPATCHER_SERVICE_HOST="10.0.0.1",
        FLOWER_PORT="5555",
    )
    assert config.warnings == (
        "FLOW_AGENT_QUEUE: unknown variable, ignored; did you mean FLOW_AGENT_QUEUES?",
        "FLOW_DAG_FOLDER: unknown variable, ignored; did you mean FLOW_DAGS_FOLDER?",
        (
            "FLOW_LEASE_HEARTBEAT: unknown variable, ignored; "
            "did you mean FLOW_LEASE_HEARTBEAT_INTERVAL?"
        ),
    )


# -- the schema and its page -------------------------------------------------------------------


def test_the_variables_names_follow_from_section_and_key_and_are_unique() -> None:
    variables = [spec.variable for spec in SPECS]
    assert len(set(variables)) == len(variables)
    assert "FLOW_CONFIG" not in variables
    for spec in SPECS:
        if spec.section:
            assert spec.variable == f"FLOW_{spec.section.upper()}_{spec.key.upper()}"


def test_the_page_of_settings_is_what_the_schema_says() -> None:
    page = settings_page.PAGE.read_text(encoding="utf-8")
    assert settings_page.write(page) == page, "run: python -m tools.settings_page"


def test_the_example_file_of_the_page_is_accepted(load: Load) -> None:
    page = settings_page.PAGE.read_text(encoding="utf-8")
    assert load(page.split("```toml\n")[1].split("```")[0]).agent.queues == ("gpu", "gpu.a100")


def test_the_example_messages_of_the_page_are_what_is_said(load: Load, tmp_path: Path) -> None:
    page = settings_page.PAGE.read_text(encoding="utf-8")
    with pytest.raises(ConfigError) as in_file:
        load("\n" * 11 + "agent.slot = 1")
    with pytest.raises(ConfigError) as in_variable:
        load(FLOW_AGENT_SLOTS="four")
    said = f"{in_file.value}\n{in_variable.value}\n".replace(str(tmp_path), "/etc/flow")
    assert f"```\n{said}```" in page
