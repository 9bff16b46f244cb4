"""Several agents of one machine: settings of single ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.service import agent_name
from flow.cli.agent import unescaped
from flow.config import AGENT_SECTIONS, Config, load_config
from flow.errors import ConfigError

NODE = """
[agent]
slots = 4
kill_grace = 2
[agents.gpu]
slots = 2
[agents."gpu.a100"]
queues = ["gpu.a100", "gpu"]
name = "big"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "flow.toml"
    path.write_text(NODE)
    return path


def load(file: Path, instance: str, **more: Any) -> Config:
    environ = {"HOME": "/root", **more.pop("environ", {})}
    return load_config(file, environ, concerns=AGENT_SECTIONS, instance=instance, **more)


def test_an_instance_serves_the_queue_it_is_named_after(file: Path) -> None:
    config = load(file, "ML")
    assert (config.agent.queues, config.agent.slots, config.instance) == (("ML",), 4, "ML")
    assert config.sources["agent.queues"] == "--instance"


def test_its_own_section_goes_before_that_of_all_agents(file: Path) -> None:
    config = load(file, "gpu")
    assert (config.agent.queues, config.agent.slots, config.agent.kill_grace) == (("gpu",), 2, 2.0)
    assert config.sources["agent.slots"] == f"{file}:6"


def test_its_own_section_may_name_it_and_have_it_serve_more_queues(file: Path) -> None:
    config = load(file, "gpu.a100")
    assert config.agent.queues == ("gpu.a100", "gpu")
    assert agent_name(config) == "big"


def test_variables_and_options_go_before_its_own_section(file: Path) -> None:
    config = load(file, "gpu", environ={"FLOW_AGENT_SLOTS": "7"})
    assert config.agent.slots == 7
    config = load(file, "gpu", options={"agent.slots": ("--slots", 9)})
    assert config.agent.slots == 9


def test_without_a_file_an_instance_has_its_queue() -> None:
    nowhere = Path("/nonexistent/flow.toml")
    config = load_config(None, {"HOME": "/root"}, instance="gpu", default_file=nowhere)
    assert config.agent.queues == ("gpu",)


def test_name_and_queues_of_the_common_section_are_not_one_instances(tmp_path: Path) -> None:
    file = tmp_path / "flow.toml"
    file.write_text('[agent]\nname = "node1"\nqueues = ["a", "b"]\n')
    config = load(file, "gpu")
    assert (config.agent.queues, config.agent.name) == (("gpu",), None)
    assert config.warnings == (
        (
            f"{file}:2: agent.name: not for agent 'gpu', which is one of several; what is its own "
            'belongs to [agents."gpu"]'
        ),
        (
            f"{file}:3: agent.queues: not for agent 'gpu', which is one of several; what is its "
            'own belongs to [agents."gpu"]'
        ),
    )
    assert load(file, "").agent.queues == ("a", "b")


@pytest.mark.parametrize(
    ("instance", "ending"),
    [("gpu", "-gpu"), ("ML", "-ml"), ("gpu.a100", "-gpu-a100"), ("under_score", "-under-score")],
)
def test_an_agent_is_named_after_its_host_and_its_queue(
    tmp_path: Path, instance: str, ending: str
) -> None:
    (tmp_path / "flow.toml").write_text("")
    name = agent_name(load(tmp_path / "flow.toml", instance))
    assert name.endswith(ending)
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[agents.gpu]\nslot = 2\n", ":2: unknown key 'agents.gpu.slot'; did you mean 'slots'?"),
        (
            "[agents.gpu.a100]\nslots = 2\n",
            (
                ":1: unknown section [agents.gpu.a100]; a name with dots needs quotes: "
                '[agents."gpu.a100"]'
            ),
        ),
        (
            "[agents]\nslots = 2\n",
            (
                ":2: expected a section [agents.INSTANCE], got 'agents.slots' with a value of type "
                "int; what holds for all agents belongs to [agent]"
            ),
        ),
        (
            "agents = 3\n",
            (
                ":1: expected a section [agents.INSTANCE], got 'agents' with a value of type int; "
                "what holds for all agents belongs to [agent]"
            ),
        ),
        (
            "[agents.gpu]\nslots = 0\n",
            ":2: agents.gpu.slots: expected a whole number from 1 to 10000, got 0",
        ),
    ],
)
def test_a_mistake_in_a_section_of_an_instance_is_explained(
    tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "flow.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load(file, "gpu")
    assert str(refused.value) == f"{file}{message}"


def test_an_instance_must_have_a_queues_name(file: Path) -> None:
    with pytest.raises(ConfigError, match="--instance: expected a list of 1 or more names"):
        load(file, "no queue")


def test_what_systemd_escape_made_of_a_name_is_undone() -> None:
    assert unescaped(r"my\x2dqueue") == "my-queue"
    assert unescaped("gpu.a100") == "gpu.a100"
    assert unescaped("my-queue") == "my-queue"
