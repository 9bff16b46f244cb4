"""What processes load until they do what they are for, and what an idle agent keeps."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.system import BIN, Daemon, System
from tests.budget import budgets
from tests.budget.budgets import hold
from tests.waiting import until

#: With PYTHONPROFILEIMPORTTIME Python says on stderr what it imports.
_IMPORTED = re.compile(r"^import time: +\d+ \| +\d+ \| +(\S+)$", re.MULTILINE)


@pytest.fixture
def system(tmp_path: Path, broker_url: str, postgres_url: str) -> Iterator[System]:
    system = System(tmp_path, broker_url, postgres_url)
    system.flow("db", "migrate")
    yield system
    system.close()


def imported(text: str) -> set[str]:
    """The modules that *text* says were imported."""
    return set(_IMPORTED.findall(text))


def anonymous_mb(pid: int) -> float:
    """Memory of *pid* that is its own and no file's, in MB."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    (kilobytes,) = re.findall(r"^Anonymous: +(\d+) kB$", text, re.MULTILINE)
    return int(kilobytes) * 1024 / 1e6


def children(pid: int) -> list[int]:
    """The processes that *pid* has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def modules_of(daemon: Daemon) -> set[str]:
    return imported(daemon.output.read_text())


def test_the_help_of_flow_imports_no_more_than_it_may() -> None:
    done = subprocess.run(
        [BIN / "flow", "--help"],
        env={"PYTHONPROFILEIMPORTTIME": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    modules = imported(done.stderr)
    assert "click" in modules
    print(sorted(modules))
    hold("modules of flow --help", len(modules), budgets.FLOW_HELP_MODULES)


def test_the_daemons_import_no_more_than_they_may(system: System) -> None:
    dispatcher = system.start_dispatcher(PYTHONPROFILEIMPORTTIME="1")
    agent = system.start_agent("node1", "q1", PYTHONPROFILEIMPORTTIME="1")
    until(lambda: agent.says("session 1 of agent node1 begins"))
    assert "aiormq" in modules_of(agent)
    assert "peewee" in modules_of(dispatcher)
    print(sorted(modules_of(agent)), sorted(modules_of(dispatcher)))
    hold("modules of an agent", len(modules_of(agent)), budgets.FLOW_AGENT_MODULES)
    hold("modules of a dispatcher", len(modules_of(dispatcher)), budgets.DISPATCHER_MODULES)


def test_an_idle_agent_and_its_keeper_keep_little_memory(system: System) -> None:
    system.start_dispatcher()
    agent = system.start_agent("node1", "q1")
    until(lambda: [row["state"] for row in system.listing("agents", "list")] == ["online"])
    time.sleep(0.5)  # what its start has left to do is done by then, or counts
    pids = [agent.process.pid, *children(agent.process.pid)]
    assert len(pids) == 2, "an idle agent has a keeper, and nothing else"
    hold("memory in MB", sum(anonymous_mb(pid) for pid in pids), budgets.AGENT_MEMORY)
