"""What a reload finds: settings that change at once, and those that wait for a restart."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.reloading import LIVE, reread
from flow.config import AGENT_SECTIONS, Changes, Config, changes, load_config
from flow.config.schema import SPECS
from flow.errors import ConfigError

NOWHERE = Path("/nonexistent/flow.toml")


def load(**environ: str) -> Config:
    variables = {"HOME": "/root", **environ}
    return load_config(None, variables, concerns=AGENT_SECTIONS, default_file=NOWHERE)


def compare(old: Config, new: Config) -> Changes:
    return changes(old, new, concerns=AGENT_SECTIONS, live=LIVE)


def test_every_live_setting_exists() -> None:
    assert {spec.path for spec in SPECS} >= LIVE


def test_what_can_change_at_once_does_and_the_rest_waits() -> None:
    new = load(
        FLOW_AGENT_SLOTS="9",
        FLOW_AGENT_QUEUES="a,b",
        FLOW_AGENT_NAME="other",
        FLOW_BROKER_URL="amqp://elsewhere/",
        FLOW_HOME="/elsewhere",
    )
    found = compare(load(FLOW_AGENT_SLOTS="4"), new)
    assert set(found.live) == {"agent.slots", "agent.queues"}
    assert set(found.restart) == {"home", "broker.url", "agent.name"}
    assert (found.config.agent.slots, found.config.agent.queues) == (9, ("a", "b"))
    assert (found.config.agent.name, found.config.home) == (None, Path("/root/.flow"))


def test_what_waits_is_named_again_by_the_next_reload() -> None:
    new = load(FLOW_AGENT_NAME="other")
    first = compare(load(), new)
    assert compare(first.config, new).restart == ("agent.name",)


def test_other_processes_settings_are_none_of_an_agents_business() -> None:
    found = compare(load(), load(FLOW_DATABASE_URL="sqlite:////x.db", FLOW_DAGS_FOLDER="/x"))
    assert (found.live, found.restart) == ((), ())


def test_a_setting_that_fits_only_to_one_that_waits_is_refused() -> None:
    # kill_grace would exceed the margin that the running session goes by.
    lease = {"FLOW_LEASE_MARGIN": "20", "FLOW_LEASE_DURATION": "90"}
    with pytest.raises(ConfigError, match=r"expected agent.kill_grace \(15\).*lease.margin \(5\)"):
        compare(load(), load(FLOW_AGENT_KILL_GRACE="15", **lease))


def test_wrong_settings_leave_the_old_ones_and_say_why(caplog: pytest.LogCaptureFixture) -> None:
    def read() -> Config:
        return load(FLOW_AGENT_SLOTS="four", FLOW_AGENT_KILL_GRACE="-1")

    assert reread(load(), read) is None
    assert [record.getMessage() for record in caplog.records] == [
        (
            "settings not reloaded, the old ones hold: FLOW_AGENT_SLOTS: expected a whole number "
            "from 1 to 10000, got 'four'"
        ),
        (
            "settings not reloaded, the old ones hold: FLOW_AGENT_KILL_GRACE: expected a number of "
            "seconds, 0 or more, at most 315360000, got -1"
        ),
    ]


def test_a_reload_says_what_it_did(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="agent")
    reread(load(), load)
    reread(load(), lambda: load(FLOW_AGENT_DRAIN_TIMEOUT="5", FLOW_LEASE_DURATION="90"))
    assert [record.getMessage() for record in caplog.records] == [
        "settings reloaded: nothing has changed",
        "settings reloaded: agent.drain_timeout changed",
        "lease.duration changed: that needs a restart",
    ]
